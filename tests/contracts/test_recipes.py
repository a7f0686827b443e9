"""The recipes' files are read as `memstore train` and `memstore compare` read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from memstore.compare.config import CompareConfig
from memstore.model.config import ModelConfig
from memstore.train.config import TrainConfig
from memstore.train.data.asker import prompt_template

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPT = (RECIPES / "default/run.sh").read_text()
STAGES = range(1, len(list((RECIPES / "default").glob("stage-*.toml"))) + 1)


def filled(name: str, folder: Path) -> Path:
    """A recipe's file with a folder to work in."""
    path = folder / Path(name).name
    path.write_text((RECIPES / name).read_text().replace("@WORK@", str(folder)))
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_training_stages_follow_one_another(stage: int, tmp_path: Path) -> None:
    """The first begins with the T5 that the script gets, each other with the stage before; on the script's cache."""
    config = TrainConfig.from_file(filled(f"default/stage-{stage}.toml", tmp_path))
    assert config.out == tmp_path / f"stage-{stage}"
    start, made_by = ("t5", "pretrained.py") if stage == 1 else (f"stage-{stage - 1}/last", "memstore train")
    assert (config.model.source, config.model.path) == ("t5" if stage == 1 else "checkpoint", str(tmp_path / start))
    assert made_by.removeprefix("memstore ") in SCRIPT
    assert config.data is not None
    assert f'--out "$WORK/{config.data.cache.name}"' in SCRIPT


def test_the_asker_learns_from_the_script_s_data(tmp_path: Path) -> None:
    config = TrainConfig.from_file(filled("default/asker.toml", tmp_path))
    assert config.data is not None
    assert config.model.path == str(tmp_path / "t5")
    assert f'--out "$WORK/{config.data.cache.name}"' in SCRIPT
    assert f'--asker "$WORK/{config.out.name}/last"' in SCRIPT
    styles = {*re.findall(r"--style (\w+)=", SCRIPT)}
    assert {f"{style}.train" for style in styles} == {*config.data.train}
    assert config.model.config["tasks"] == {style: prompt_template(style) for style in styles}
    stage = TrainConfig.from_file(filled("default/stage-1.toml", tmp_path)).model.config
    assert config.model.config["passage_template"] == stage["passage_template"]


def test_the_first_stage_and_the_candidates_write_the_same_texts(tmp_path: Path) -> None:
    """The cache keeps what the small model's templates make of passages and questions."""
    trained = TrainConfig.from_file(filled("default/stage-1.toml", tmp_path)).model.config
    small = json.loads((RECIPES / "default/candidates.json").read_text())
    ModelConfig.from_dict({"vocab_size": 32128} | small)
    names = ("passage_template", "question_template", "tasks", "max_question_tokens", "max_passage_tokens")
    assert {n: trained[n] for n in names} == {n: small[n] for n in names}


def test_the_script_trains_every_stage_and_keeps_the_last() -> None:
    (first,) = re.findall(r"^for stage in ([\d ]+); do$", SCRIPT, re.MULTILINE)
    then = re.findall(r"^train stage-(\d)$", SCRIPT, re.MULTILINE)
    assert [int(n) for n in (*first.split(), *then)] == list(STAGES)
    assert f'convert "$WORK/stage-{max(STAGES)}/last"' in SCRIPT


@pytest.mark.parametrize("name", ["systems", "sweep"])
def test_comparisons(name: str, tmp_path: Path) -> None:
    config = CompareConfig.from_file(filled(f"compare/{name}.toml", tmp_path))
    assert "glimmer" in config.systems
    assert all(t.ablation_of in ("", *config.systems) for t in config.systems.values())


def test_the_script_can_be_parsed() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", RECIPES / "default/run.sh"], check=False).returncode == 0
