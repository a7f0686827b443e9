"""The recipes' files are read as `memstore train` and `memstore compare` read them."""

from __future__ import annotations

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


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_training_stages_follow_one_another(stage: int, tmp_path: Path) -> None:
    config = TrainConfig.from_file(filled(f"default/stage-{stage}.toml", tmp_path))
    assert config.out == tmp_path / f"stage-{stage}"
    before = {1: "", 2: str(tmp_path / "stage-1/last"), 3: str(tmp_path / "stage-2/last")}
    assert config.model.path == before[stage]
    if config.model.source == "scratch":
        ModelConfig.from_dict({"vocab_size": 16384} | config.model.config)


@pytest.mark.parametrize("name", ["systems", "sweep"])
def test_comparisons(name: str, tmp_path: Path) -> None:
    config = CompareConfig.from_file(filled(f"compare/{name}.toml", tmp_path))
    assert "glimmer" in config.systems
    assert all(t.ablation_of in ("", "glimmer") for t in config.systems.values())


def test_the_script_is_whole() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", RECIPES / "default/run.sh"], check=False).returncode == 0
