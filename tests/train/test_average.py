"""Averages of checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from typer.testing import CliRunner

from memstore import checkpoint
from memstore.cli import app
from memstore.errors import CheckpointMismatch, ConfigError
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.train.average import average
from tests import tiny


def write(folder: Path, seed: int, **changes: object) -> MemoryModel:
    model = MemoryModel(tiny.config(**changes))
    model.initialise(seed)
    checkpoint.save(folder, model, TextTokenizer(tiny.tokenizer(), model.config))
    return model


def test_every_parameter_is_the_weighted_mean(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", 1), write(tmp_path / "two", 2)
    made, tokenizer = average([tmp_path / "one", tmp_path / "two"], [1, 3])
    for name, p in made.state_dict().items():
        expected = 0.25 * one.state_dict()[name] + 0.75 * two.state_dict()[name]
        torch.testing.assert_close(p, expected, msg=name)
    assert made.config == one.config
    assert tokenizer.fingerprint == TextTokenizer(tiny.tokenizer(), one.config).fingerprint
    alike, _ = average([tmp_path / "one", tmp_path / "two"])
    torch.testing.assert_close(alike.embedding.weight, (one.embedding.weight + two.embedding.weight) / 2)


def test_a_mean_of_three_in_bfloat16_is_taken_in_float32(tmp_path: Path) -> None:
    models = [write(tmp_path / name, seed).bfloat16() for seed, name in enumerate("abc")]
    for name, model in zip("abc", models, strict=True):
        checkpoint.save(tmp_path / name, model, tiny.text_tokenizer())
    made, _ = average([tmp_path / name for name in "abc"], [1, 2, 5])
    for name, p in made.state_dict().items():
        parts = [model.state_dict()[name].float() for model in models]
        torch.testing.assert_close(p, (parts[0] + 2 * parts[1] + 5 * parts[2]) / 8, rtol=1e-5, atol=1e-6, msg=name)


def test_a_parameter_that_is_equal_in_all_stays_so_to_the_bit(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / name, 1, system="lumen")
    made, tokenizer = average([tmp_path / name for name in "abc"], [0.3, 0.25, 0.45])
    loaded = checkpoint.load(tmp_path / "a", dtype=torch.float32)
    assert checkpoint.fingerprint(made, tokenizer) == checkpoint.fingerprint(*loaded)


def test_settings_of_answering_may_differ_and_the_first_ones_count(tmp_path: Path) -> None:
    write(tmp_path / "one", 1, extractive=True, num_beams=4, retrieval_prior=0.5, spellings={"yes": "YES"}, name="a")
    write(tmp_path / "two", 2, name="b")
    made, _ = average([tmp_path / "one", tmp_path / "two"])
    assert (made.config.name, made.config.extractive, made.config.num_beams) == ("a", True, 4)
    other, _ = average([tmp_path / "two", tmp_path / "one"])
    assert (other.config.name, other.config.extractive, other.config.spellings) == ("b", False, {})


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one", 1)
    write(tmp_path / "wide", 1, d_ff=96)
    other = write(tmp_path / "other", 1)
    changed = tiny.tokenizer()
    changed.add_special_tokens(["<extra_id_0>"])
    checkpoint.save(tmp_path / "other", other, TextTokenizer(Tokenizer.from_str(changed.to_str()), other.config))
    write(tmp_path / "copying", 1, copy_head=True)
    write(tmp_path / "untitled", 1, passage_template="{text}")
    for name, setting in (("wide", "d_ff"), ("copying", "copy_head"), ("untitled", "passage_template")):
        with pytest.raises(
            CheckpointMismatch, match=f"{name} differs from .*one in {setting}: they cannot be averaged"
        ):
            average([tmp_path / "one", tmp_path / name])
    with pytest.raises(CheckpointMismatch, match="tokenizer"):
        average([tmp_path / "one", tmp_path / "other"])
    for sources, weights in (
        ([], None),
        ([tmp_path / "one"], [1, 2]),
        ([tmp_path / "one"], [-1]),
        ([tmp_path / "one"], [0]),
        ([tmp_path / "one"], [math.inf]),
        ([tmp_path / "one"], [math.nan]),
    ):
        with pytest.raises(ConfigError, match="weights"):
            average(sources, weights)


def test_the_command_writes_a_checkpoint(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", 1), write(tmp_path / "two", 2)
    names = [str(tmp_path / n) for n in ("one", "two")]
    result = CliRunner().invoke(
        app, ["average", *names, "--weight", "1", "--weight", "0", "--out", str(tmp_path / "made")]
    )
    assert result.exit_code == 0, result.output
    made, _ = checkpoint.load(tmp_path / "made", dtype=torch.float32)
    torch.testing.assert_close(made.embedding.weight, one.embedding.weight.bfloat16().float())
    assert not torch.equal(made.embedding.weight, two.embedding.weight.bfloat16().float())
    refused = CliRunner().invoke(app, ["average", names[0], "--out", str(tmp_path / "x"), "--dtype", "int8"])
    assert isinstance(refused.exception, ConfigError)
    assert not (tmp_path / "x").exists()


def test_the_command_overwrites_no_checkpoint_that_it_reads(tmp_path: Path) -> None:
    write(tmp_path / "one", 1)
    two = write(tmp_path / "two", 2)
    names = [str(tmp_path / n) for n in ("one", "two")]
    refused = CliRunner().invoke(app, ["average", *names, "--out", str(tmp_path / "one" / ".." / "two")])
    assert isinstance(refused.exception, ConfigError)
    assert "name another folder" in str(refused.exception)
    assert torch.equal(checkpoint.load(tmp_path / "two")[0].embedding.weight, two.embedding.weight)


def test_the_command_knows_the_packages_own_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["average", "default", "default", "--out", str(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    made, own = (checkpoint.load(source)[0].state_dict() for source in (tmp_path / "made", "default"))
    assert all(torch.equal(made[name], own[name]) for name in own)
