"""Weights kept in int8: how near they stay, what they cost, and that broken ones are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memstore.checkpoint import fingerprint, load, save
from memstore.checkpoint.int8 import COLUMNS, SCALES, dequantised, quantised
from memstore.errors import CheckpointError
from memstore.model.packed import Tokens
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tiny.model(embedding_dim=8, head_norms=True, copy_head=True)
    save(tmp_path / "int8", made, tiny.text_tokenizer(), weights="int8")
    return tmp_path / "int8"


def test_groups_of_columns_have_scales_of_their_own_and_stay_within_half_of_them() -> None:
    rows = torch.zeros(4, COLUMNS + 3)  # two groups: a whole one, and the last three columns
    rows[:, -3:] = torch.tensor([[1.0, -2.0, 0.26], [1000.0, 3.9, -500.0], [0.0, 0.0, 0.0], [1e-30, 0.0, -1e-30]])
    rows[0, :2] = torch.tensor([300.0, -1.0])
    kept = quantised({"w": rows, "norm.weight": torch.tensor([0.3, 1.0])})
    assert {name: t.dtype for name, t in kept.items()} == {
        "w": torch.int8, f"w{SCALES}": torch.float32, "norm.weight": torch.bfloat16,
    }  # fmt: skip
    assert kept["w"].shape == rows.shape
    assert kept["w"][:, -3:].tolist() == [[64, -127, 17], [127, 0, -64], [0, 0, 0], [127, 0, -127]]
    assert kept["w"][0, :3].tolist() == [127, 0, 0]  # 300 takes the -1 beside it, but not the last columns
    largest = torch.stack([rows[:, :COLUMNS].abs().amax(1), rows[:, COLUMNS:].abs().amax(1)], 1)
    torch.testing.assert_close(kept[f"w{SCALES}"], largest / 127)
    back = dequantised(kept)
    assert {t.dtype for t in back.values()} == {torch.bfloat16}
    assert sorted(back) == ["norm.weight", "w"]
    bound = largest.repeat_interleave(torch.tensor([COLUMNS, 3]), 1) * (0.5 / 127 + 2**-8)
    assert bool(((back["w"].float() - rows).abs() <= bound).all())


def test_position_biases_are_not_quantised() -> None:
    table = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    assert list(quantised({"live.bias.table.weight": table})) == ["live.bias.table.weight"]


@torch.inference_mode()
def test_a_model_answers_as_before_from_half_the_bytes(folder: Path, tmp_path: Path) -> None:
    made, tokens = (
        tiny.model(embedding_dim=8, head_norms=True, copy_head=True).to(torch.bfloat16),
        tiny.text_tokenizer(),
    )
    save(tmp_path / "bf16", made, tokens)
    loaded, _ = load(folder)
    assert loaded.dtype is torch.bfloat16
    assert [(n, p.shape) for n, p in loaded.named_parameters()] == [(n, p.shape) for n, p in made.named_parameters()]
    sizes = [sum(t.nbytes for t in load_file(f / "model.safetensors").values()) for f in (folder, tmp_path / "bf16")]
    assert sizes[0] < 0.65 * sizes[1]  # rows of 32 numbers: their scales are an eighth
    ids = torch.arange(3, 40)
    got, want = (m.float().encode_passages(Tokens.of([ids])).states for m in (loaded, made))
    assert float((got - want).norm() / want.norm()) < 0.03


def test_float32_and_bfloat16_have_the_same_numbers_and_fingerprint(folder: Path) -> None:
    (narrow, tokens), (wide, _) = load(folder), load(folder, dtype=torch.float32)
    for name, p in narrow.named_parameters():
        assert torch.equal(p.float(), wide.get_parameter(name)), name
    assert fingerprint(narrow, tokens).encoder == fingerprint(wide, tokens).encoder


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_int8_written_as_something_else_is_the_same_model(folder: Path, tmp_path: Path, weights: str) -> None:
    model, tokens = load(folder)
    save(tmp_path / weights, model, tokens, weights=weights)  # type: ignore[arg-type]
    again, _ = load(tmp_path / weights)
    assert again.dtype is getattr(torch, weights)
    assert all(torch.equal(p.float(), again.get_parameter(n).float()) for n, p in model.named_parameters())


def test_int8_again_changes_nothing_more(folder: Path, tmp_path: Path) -> None:
    model, tokens = load(folder)
    save(tmp_path / "again", model, tokens, weights="int8")
    first, second = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    for name, values in first.items():
        if values.dtype is torch.int8:
            assert int((values.int() - second[name].int()).abs().max()) <= 1, name


@pytest.mark.parametrize("scales", [None, torch.ones(3)], ids=["none", "too few"])
def test_int8_without_its_scales_is_refused(folder: Path, scales: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = f"head.weight{SCALES}"
    del tensors[name]
    save_file(tensors | ({} if scales is None else {name: scales}), folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"1 parameter\(s\) that are quantised, head\.weight to torch\.int8 first"
    ):
        load(folder)


def test_a_scale_that_is_no_number_is_reported(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[f"head.weight{SCALES}"][1] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 parameter\(s\) hold infinite numbers or none, head\.weight first"):
        load(folder)
