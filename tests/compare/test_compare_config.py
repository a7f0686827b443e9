"""The comparison's file: its settings, its errors, and the training that each system gets from the base."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from memstore.compare import config
from memstore.compare.config import CompareConfig, GridTable, Point
from memstore.compare.systems import merged, system_runs
from memstore.errors import ConfigError
from tests.compare import compare_cases as cases

MINIMAL = """
out = "comparison"
[base]
steps = 3
[base.model]
source = "t5"
path = "p"
[systems.glimmer]
[systems.lumen]
title = "LUMEN"
ablation_of = "glimmer"
changes.model.config = { system = "lumen" }
[grid]
retrieve_k = [4, 2]
keep_k = [1, 2, 4]
"""


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(MINIMAL)
    got = CompareConfig.from_file(path)
    assert (got.out, list(got.systems), got.grid.most) == (Path("comparison"), ["glimmer", "lumen"], 4)
    assert got.systems["lumen"].changes == {"model": {"config": {"system": "lumen"}}}
    assert got.names() == ["glimmer", "lumen"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[grid]", "[grid]\nkeep = 3", "unknown key grid.keep"),
        ('title = "LUMEN"', "titel = 1", "unknown key systems.lumen.titel"),
        ('"glimmer"', '"fid"', "systems.lumen.ablation_of names 'fid', which is no other system here"),
        ("keep_k = [1, 2, 4]", "keep_k = [5]", "no pair is left"),
        ("keep_k = [1, 2, 4]", "keep_k = [0]", "keep_k must be a list of numbers of at least 1"),
        ("steps = 3", 'steps = 3\nout = "x"', r"\[base\] takes no `out`"),
        ('title = "LUMEN"', 'checkpoint = "c"', "give only one of checkpoint, models_of"),
        ('title = "LUMEN"', 'models_of = "glimmer"', "give only one of checkpoint, models_of"),
        ("[systems.glimmer]", '[systems."a/b"]\n[systems.glimmer]', "a system's name is also a folder's"),
        ("[systems.glimmer]", "[systems.glimmer]\nmeasured = false", "'glimmer', which is not measured"),
        ("[base]", "[base", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(MINIMAL.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        CompareConfig.from_file(path)


def test_the_grid_of_a_system_with_a_scorer_and_of_one_without() -> None:
    grid = GridTable(retrieve_k=(4, 2), keep_k=(1, 2, 4, 8))
    assert grid.points(reranks=True) == [Point(2, 1), Point(2, 2), Point(4, 1), Point(4, 2), Point(4, 4)]
    assert grid.points(reranks=False) == [Point(1, 1), Point(2, 2), Point(4, 4)]
    assert [str(p) for p in grid.points(reranks=True)] == ["2→1", "2", "4→1", "4→2", "4"]


def test_the_example(cache: Path) -> None:
    """The example in the module's docstring is a complete comparison."""
    values = tomllib.loads(str(config.__doc__).partition("\n\n")[2])
    values["base"]["data"]["cache"] = str(cache)
    found = system_runs(CompareConfig.from_values(values, where="the example"))
    assert list(found) == ["fid", "lumen", "glimmer", "single", "no-distillation", "separate", "ranker"]
    assert found["separate"].runs == found["lumen"].runs
    assert found["no-distillation"].runs[""].config.loss.keep_k == 4


def test_no_file() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere\.toml"):
        CompareConfig.from_file("/nowhere.toml")


def test_merging() -> None:
    base = {"a": 1, "t": {"x": [1, 2], "y": {"z": 1, "w": 2}}, "u": {"q": 1}}
    changes = {"a": 2, "t": {"x": [3], "y": {"z": 5}}, "u": 7, "v": {"n": 1}}
    assert merged(base, changes) == {"a": 2, "t": {"x": [3], "y": {"z": 5, "w": 2}}, "u": 7, "v": {"n": 1}}
    assert base["t"] == {"x": [1, 2], "y": {"z": 1, "w": 2}}


def systems(**changes: Any) -> dict[str, Any]:
    return {"glimmer": {}, "lumen": {"changes": cases.LUMEN}, "other": changes}


def test_each_system_trains_the_base_with_its_changes(cache: Path, tmp_path: Path) -> None:
    found = system_runs(cases.config(cache, tmp_path, systems=systems(changes={"loss": {"distill_weight": 0}})))
    glimmer, lumen, other = (found[name].runs[""].config for name in ("glimmer", "lumen", "other"))
    assert glimmer.out == tmp_path / "runs" / "glimmer"
    assert lumen.model.config == cases.SHAPE | {"system": "lumen"}
    assert (glimmer.loss.distill_weight, other.loss.distill_weight, other.loss.keep_k) == (1.0, 0.0, 2)


def test_one_model_per_task_shares_the_budget(cache: Path, tmp_path: Path) -> None:
    data = {"passages": [[0, 1], [4, 3]], "mixture": "given", "weights": {"nq.train": 1, "fever.train": 1}}
    changes = {"data": data, "dev": {"every_steps": 2}, "steps": 5}
    runs = system_runs(cases.config(cache, tmp_path, systems=systems(single_task=True, changes=changes)))["other"].runs
    assert sorted(runs) == ["fever", "nq"]
    nq = runs["nq"].config
    assert nq.out == tmp_path / "runs" / "other" / "nq"
    assert (nq.steps, nq.optimizer.warmup_steps, nq.dev.every_steps) == (2, 1, 1)
    assert nq.data is not None
    assert nq.data.passages == ((0, 1), (2, 3))
    assert (nq.data.train, nq.data.dev) == (("nq.train",), ("nq.dev",))
    assert (nq.data.mixture, nq.data.weights) == ("uniform", {})


def test_models_of_another_system_are_the_same_runs(cache: Path, tmp_path: Path) -> None:
    made = cases.config(cache, tmp_path, systems=systems(models_of="lumen", reranker="glimmer"))
    found = system_runs(made)
    assert found["other"].runs == found["lumen"].runs
    assert made.names(("other",)) == ["glimmer", "other"]
    with pytest.raises(ConfigError, match="no system 'fid'"):
        made.names(("fid",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"changes": {"los": {}}}, "with the changes of systems.other: unknown key los"),
        ({"changes": {"data": {"cach": ""}}}, "unknown key data.cach"),
        ({"reranker": "lumen"}, "systems.other.reranker names 'lumen', which has no scorer"),
        ({"single_task": True, "changes": {"data": {"train": ["nq.train"]}}}, "no training set of 'fever'"),
    ],
)
def test_a_systems_mistake_is_reported_before_training(
    cache: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        system_runs(cases.config(cache, tmp_path, systems=systems(**changes)))
