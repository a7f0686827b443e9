"""A comparison from its file to its report: once, again, interrupted, and with other settings."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memstore import checkpoint, cli
from memstore.compare import record as records
from memstore.compare import report as pages
from memstore.compare import run
from memstore.compare.config import CompareConfig
from memstore.compare.run import compare
from memstore.errors import ConfigError, OutputUnwritable
from tests import tiny
from tests.compare import compare_cases as cases

pytest.importorskip("matplotlib", reason="reports need matplotlib")


@pytest.fixture(scope="module")
def done(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of GLIMMER and LUMEN."""
    out = tmp_path_factory.mktemp("done") / "out"
    compare(cases.config(cache, out))
    return out


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_the_files_that_it_leaves(cache: Path, done: Path) -> None:
    assert sorted(p.name for p in done.iterdir()) == [
        "measured", "quality-flops.png", "quality-milliseconds.png", "report.json", "report.md", "runs", "times.json",
    ]  # fmt: skip
    report = json.loads((done / "report.json").read_text())
    assert list(report["systems"]) == ["glimmer", "lumen"]
    assert [(p["retrieve_k"], p["keep_k"]) for p in report["systems"]["glimmer"]["points"]] == [
        (2, 1), (2, 2), (4, 1), (4, 2),
    ]  # fmt: skip
    assert {t: v["questions"] for t, v in report["tasks"].items()} == {"fever": 1, "nq": 3}
    assert [(line["system"], line["keep_k"]) for line in report["ablations"]] == [("lumen", 1), ("lumen", 2)]
    record = json.loads((done / "measured" / "lumen.json").read_text())
    assert record["training"][""]["step"] == 4
    assert record["training"][""]["tokens"] > 0
    assert record["settings"]["system"]["runs"][""]["model"]["config"]["system"] == "lumen"
    assert set(record["fingerprints"]) == {"models", "reranker", "cache"}
    assert set(record["made_by"]) == {"memstore", "torch", "python", "cpu", "cores", "threads", "gpu", "date"}


def test_a_second_run_does_nothing_again(cache: Path, done: Path) -> None:
    before = files(done)
    lines: list[str] = []
    compare(cases.config(cache, done), lines.append)
    assert lines == [
        "glimmer: is trained already", "lumen: is trained already", "glimmer: is measured already",
        "lumen: is measured already", f"wrote {done / 'report.md'}",
    ]  # fmt: skip
    assert files(done) == before


def test_one_system_at_a_time_comes_to_the_same_answers(cache: Path, done: Path, tmp_path: Path) -> None:
    """The weights are the same to the bit, as their fingerprints show: both runs do the same operations in order."""
    for name in ("lumen", "glimmer"):
        compare(cases.config(cache, tmp_path), only=(name,))
    assert not (tmp_path / "times.json").exists()
    for name in ("lumen", "glimmer"):
        mine, theirs = (json.loads((out / "measured" / f"{name}.json").read_text()) for out in (tmp_path, done))
        assert mine["results"] == theirs["results"]
        assert mine["fingerprints"] == theirs["fingerprints"]


def test_an_interrupted_run_goes_on(cache: Path, done: Path, tmp_path: Path) -> None:
    base = cases.base(cache) | {"stop_after_minutes": 1e-9}
    lines: list[str] = []
    with pytest.raises(ConfigError, match="no system is trained yet"):
        compare(cases.config(cache, tmp_path, base=base), lines.append)
    assert "glimmer: stopped at step 1 of 4; run it again to go on" in lines
    for _ in range(2):
        with pytest.raises(ConfigError, match="no system is trained yet"):
            compare(cases.config(cache, tmp_path, base=base))
    compare(cases.config(cache, tmp_path))
    mine, theirs = (json.loads((out / "measured" / "glimmer.json").read_text()) for out in (tmp_path, done))
    assert mine["fingerprints"] == theirs["fingerprints"]


def test_asked_to_stop_a_training_saves_and_nothing_else_begins(cache: Path, done: Path, tmp_path: Path) -> None:
    def asked_after(steps: int) -> Callable[[], AbstractContextManager[Callable[[], bool]]]:
        questions = iter([False] * steps)
        return lambda: nullcontext(lambda: next(questions, True))

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        compare(cases.config(cache, tmp_path), lines.append, listen=asked_after(1))
    assert lines[-1] == "glimmer: stopped at step 2 of 4; run it again to go on"
    assert [p.name for p in (tmp_path / "runs" / "glimmer" / "state").iterdir()] == ["step-00000002"]
    with pytest.raises(KeyboardInterrupt):  # and in the last step: what is trained stays trained
        compare(cases.config(cache, tmp_path), listen=asked_after(1))
    assert (tmp_path / "runs" / "glimmer" / "trained.json").exists()
    assert not (tmp_path / "runs" / "lumen").exists()
    compare(cases.config(cache, tmp_path))
    mine, theirs = (json.loads((out / "measured" / "glimmer.json").read_text()) for out in (tmp_path, done))
    assert mine["fingerprints"] == theirs["fingerprints"]


def test_the_command_hears_signals_while_it_trains(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "compare.toml"
    config.write_text(_toml(cases.values(cache, tmp_path / "out")))
    before = signal.getsignal(signal.SIGTERM)

    def pretend(*_: object, stopping: Callable[[], bool], **__: object) -> None:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
        raise ConfigError("enough")

    monkeypatch.setattr(run, "train", pretend)
    result = CliRunner().invoke(cli.app, ["compare", "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert "stopping after this step" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"max_new_tokens": 4}}, "glimmer.json was made by other settings: grid.max_new_tokens was 3 and is"),
        ({"grid": {"keep_k": [1]}}, r"grid.keep_k was \[1, 2\] and is now \[1\]"),
        ({"base": {"steps": 5}}, "trained.json was made by other settings: steps was 4 and is now 5"),
        ({"base": {"optimizer": {"lr": 1.0}}}, "trained.json was made by other settings: optimizer.lr"),
    ],
)
def test_results_of_other_settings_are_refused(
    cache: Path, done: Path, change: dict[str, dict[str, Any]], message: str
) -> None:
    before = files(done)
    values = cases.values(cache, done)
    changed = {key: values[key] | change.get(key, {}) for key in ("base", "grid")}
    with pytest.raises(ConfigError, match=message):
        compare(cases.config(cache, done, **changed))
    assert files(done) == before


def test_a_cache_may_move_but_not_change(cache: Path, done: Path) -> None:
    before, moved = files(done), cache.parent / "moved"
    shutil.copytree(cache, moved)
    compare(cases.config(moved, done))
    assert {name for name, held in files(done).items() if held != before[name]} <= {"report.json", "report.md"}
    path = moved / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokens": 1}))
    with pytest.raises(ConfigError, match=r"trained\.json was made by other settings: data\.cache was"):
        compare(cases.config(moved, done))


def test_answers_of_another_model_are_refused(cache: Path, done: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    systems = {"loaded": {"checkpoint": str(model)}}
    for seed, name in enumerate(("glimmer", "lumen")):
        loaded, tokenizer = checkpoint.load(done / "runs" / name / "last")
        checkpoint.save(model, loaded, tokenizer)
        if seed:
            with pytest.raises(ConfigError, match=r"loaded\.json was made by another model or cache"):
                compare(cases.config(cache, tmp_path / "out", systems=systems))
        else:
            compare(cases.config(cache, tmp_path / "out", systems=systems))


def test_every_kind_of_system(cache: Path, tmp_path: Path) -> None:
    fid = {"model": {"config": {"system": "fid", "alpha": 1.0}}}
    systems = {
        "fid": {"changes": fid},
        "separate": {"ablation_of": "fid", "changes": cases.LUMEN, "reranker": "ranker"},
        "shared": {"models_of": "separate"},
        "single": {"single_task": True},
        "ranker": {"measured": False, "changes": {"dev": {"best_by": "recall"}}},
    }
    found = compare(cases.config(cache, tmp_path, systems=systems))
    points = {name: [(p["retrieve_k"], p["keep_k"]) for p in s["points"]] for name, s in found["systems"].items()}
    flat, grid = [(1, 1), (2, 2)], [(2, 1), (2, 2), (4, 1), (4, 2)]
    assert points == {"fid": flat, "separate": grid, "shared": flat, "single": grid}
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["fid", "ranker", "separate", "single"]
    assert {t: r["step"] for t, r in found["systems"]["single"]["training"].items()} == {"fever": 2, "nq": 2}
    record = json.loads((tmp_path / "measured" / "separate.json").read_text())
    assert record["fingerprints"]["reranker"].keys() == {""}
    assert "passages ordered by the scorer of ranker" in (tmp_path / "report.md").read_text()


def test_a_grid_beyond_the_caches_candidates_is_refused_before_training(cache: Path, tmp_path: Path) -> None:
    values = cases.values(cache, tmp_path / "out")
    values["grid"]["retrieve_k"] = [2, 5]
    with pytest.raises(ConfigError, match=r"retrieve_k asks for 5 passages, but .* holds 4 for each question"):
        compare(CompareConfig.from_values(values, where="test"))
    assert not (tmp_path / "out").exists()


def test_a_reranker_needs_a_scorer(cache: Path, tmp_path: Path) -> None:
    lumen = tiny.save_checkpoint(tmp_path / "lumen", **cases.SHAPE, system="lumen")  # only loading shows what it is
    systems = {"a": {"changes": cases.LUMEN, "reranker": "b"}, "b": {"checkpoint": str(lumen)}}
    with pytest.raises(ConfigError, match=r"systems\.a\.reranker names 'b', which has no scorer"):
        compare(cases.config(cache, tmp_path, systems=systems))


def test_the_command(cache: Path, done: Path, tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(_toml(cases.values(cache, done)))
    found = CliRunner().invoke(cli.app, ["compare", "--config", str(path), "--json"], catch_exceptions=False)
    assert list(json.loads(found.stdout)["systems"]) == ["glimmer", "lumen"]
    assert "glimmer: is measured already" in found.stderr
    shown = CliRunner().invoke(cli.app, ["compare", "--config", str(path), "--only", "lumen"], catch_exceptions=False)
    assert f"The report: {done}/report.md" in shown.stdout
    assert "glimmer" not in shown.stderr


def _toml(values: dict[str, Any], prefix: str = "") -> str:
    """Plain values as TOML, tables last; enough for these."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", _toml(value, f"{prefix}{key}.")]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_a_place_that_cannot_hold_results_is_reported_before_any_work(
    cache: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(run, "data_settings", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(OutputUnwritable, match="file is a file; name a folder"):
        compare(cases.config(cache, tmp_path / place))


def test_a_full_disk_is_reported_and_what_was_there_stays(
    cache: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(done, tmp_path / "out")
    summary = json.loads((out / "report.json").read_text())
    before = files(out)

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    refused = pytest.raises(OutputUnwritable, match="cannot be written: No space left on device")
    with refused:
        records.write(out / "times.json", {})
    with refused:
        pages.write_report(out, summary)  # its pictures
    monkeypatch.setattr(pages, "draw", lambda *_, **__: None)
    with refused:
        pages.write_report(out, summary)
    assert files(out) == before
