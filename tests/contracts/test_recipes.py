"""The recipes' files are read as `memstore train` and `memstore compare` read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from memstore.compare.config import CompareConfig
from memstore.config import ModelConfig
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
    """Each begins with what an earlier stage, or a mean that the script takes before it, has left."""
    config = TrainConfig.from_file(filled(f"default/stage-{stage}.toml", tmp_path))
    script = (RECIPES / "default/run.sh").read_text()
    assert config.out == tmp_path / f"stage-{stage}"
    if config.model.source == "scratch":
        ModelConfig.from_dict({"vocab_size": 16384} | config.model.config)
        return
    before = Path(config.model.path).relative_to(tmp_path)
    if before.name == "last":
        number = int(before.parent.name.removeprefix("stage-"))
        assert number < stage
    else:
        assert f'--out "$WORK/{before}"' in script.split(f"stages {stage}")[0]
    cache = Path(config.data["cache"]).name
    assert f'--out "$WORK/{cache}"' in script


def test_the_script_trains_every_stage() -> None:
    script = (RECIPES / "default/run.sh").read_text()
    trained = [int(n) for line in re.findall(r"^stages (.+)$", script, re.MULTILINE) for n in line.split()]
    assert trained == list(STAGES)


@pytest.mark.parametrize("name", ["systems", "sweep"])
def test_comparisons(name: str, tmp_path: Path) -> None:
    config = CompareConfig.from_file(filled(f"compare/{name}.toml", tmp_path))
    assert "glimmer" in config.systems
    assert all(t.ablation_of in ("", "glimmer") for t in config.systems.values())


def test_the_script_is_whole() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", RECIPES / "default/run.sh"], check=False).returncode == 0
