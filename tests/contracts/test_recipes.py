"""The recipes' files are read as `memstore train` and `memstore compare` read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from memstore.compare.config import CompareConfig
from memstore.model.config import ModelConfig
from memstore.train.config import TrainConfig

RECIPES = Path(__file__).parents[2] / "recipes"


def filled(name: str, folder: Path) -> Path:
    """A recipe's file with a folder to work in."""
    path = folder / Path(name).name
    path.write_text((RECIPES / name).read_text().replace("@WORK@", str(folder)))
    return path


STAGES = range(1, len(list((RECIPES / "default").glob("stage-*.toml"))) + 1)


@pytest.mark.parametrize("stage", STAGES)
def test_training_stages_follow_one_another(stage: int, tmp_path: Path) -> None:
    """Each stage begins with the model of an earlier one, or an average of such, and a cache that the script makes."""
    config = TrainConfig.from_file(filled(f"default/stage-{stage}.toml", tmp_path))
    script = (RECIPES / "default/run.sh").read_text()
    assert config.out == tmp_path / f"stage-{stage}"
    means = {name: int(made) for made, name in re.findall(r"^    (\d+)\) mean (\S+) ", script, re.MULTILINE)}
    start = Path(config.model.path).relative_to(tmp_path) if stage > 1 else None
    if start is not None and str(start) in means:
        assert means[str(start)] <= stage
    else:
        assert config.model.path == ("" if stage == 1 else str(tmp_path / f"stage-{stage - 1}/last"))
    assert config.data is not None
    assert f'--out "$WORK/{config.data.cache.name}"' in script
    if config.model.source == "scratch":
        ModelConfig.from_dict({"vocab_size": 16384} | config.model.config)


def test_the_script_trains_every_stage() -> None:
    script = (RECIPES / "default/run.sh").read_text()
    (trained,) = re.findall(r"^for stage in ([\d ]+); do$", script, re.MULTILINE)
    assert [int(n) for n in trained.split()] == list(STAGES)


@pytest.mark.parametrize("name", ["systems", "sweep"])
def test_comparisons(name: str, tmp_path: Path) -> None:
    config = CompareConfig.from_file(filled(f"compare/{name}.toml", tmp_path))
    assert "glimmer" in config.systems
    assert all(t.ablation_of in ("", "glimmer") for t in config.systems.values())


def test_the_script_can_be_parsed() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", RECIPES / "default/run.sh"], check=False).returncode == 0
