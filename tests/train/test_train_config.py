"""The config file of a run, and the model that its `[model]` table describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore import checkpoint
from memstore.errors import CheckpointMismatch, ConfigError
from memstore.model.packed import Tokens
from memstore.model.tokens import TextTokenizer
from memstore.train.config import ModelTable, TrainConfig
from memstore.train.data.settings import DataSettings
from memstore.train.initial_model import open_model
from tests import tiny

# --- where it starts from -----------------------------------------------------------------------------------


def test_from_a_checkpoint_with_parts_added(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    was, _ = checkpoint.load(folder)
    table = ModelTable(source="checkpoint", path=str(folder), config={"embedding_dim": 8, "dropout_rate": 0.3})
    model, tokenizer = open_model(table, seed=0)
    assert model.projection is not None
    assert model.training
    assert model.config.dropout_rate == tokenizer.config.dropout_rate == 0.3
    assert all(torch.equal(p, model.get_parameter(n)) for n, p in was.named_parameters())


def test_a_lumen_from_a_glimmer_begins_as_its_copy(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    model, _ = open_model(ModelTable(source="checkpoint", path=str(folder), config={"system": "lumen"}), seed=0)
    assert model.question_encoder is not None
    assert model.scorer is None
    for p, q in zip(model.question_encoder.parameters(), model.memory_encoder.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.requires_grad
        assert not q.requires_grad


@pytest.mark.parametrize(
    ("config", "from_live", "bias"),
    [
        ({"system": "fid", "alpha": 1.0}, [4, 5], "memory_encoder"),  # 4 of its 6 layers
        ({"alpha": 1 / 2}, [1, 2], "live"),  # 2 of its 3
        ({"system": "lumen", "alpha": 1 / 6}, [0], "live"),
    ],
)
def test_the_cut_may_move(tmp_path: Path, config: dict[str, object], from_live: list[int], bias: str) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    was, _ = checkpoint.load(folder)
    model, _ = open_model(ModelTable(source="checkpoint", path=str(folder), config=config), seed=0)
    layers = [*was.memory_encoder.blocks, *was.live.blocks]
    moved = [*model.memory_encoder.blocks, *model.live.blocks]
    for one, other in zip(layers, moved, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
    assert [i for i, b in enumerate(model.live.blocks) if b in moved[-len(from_live) :]] == from_live
    assert torch.equal(model.live.bias.table.weight, was.get_submodule(bias).bias.table.weight)  # type: ignore[union-attr]


def test_added_layers_change_nothing_and_learn(tmp_path: Path) -> None:
    """4 + 1 + 1 layers become 4 + 2 + 2: scores and reading stay, and the new layers get a gradient.

    Not to the bit: where weights begin in memory decides, on some processors, in which order a product is summed.
    """
    folder = tiny.save_checkpoint(tmp_path / "model")
    was, _ = checkpoint.load(folder, dtype=torch.float32)
    config = {"alpha": 1 / 2, "beta": 1 / 2}
    model, _ = open_model(ModelTable(source="checkpoint", path=str(folder), config=config, deepen=(4, 5)), seed=0)
    c = model.config
    assert (c.num_memory_layers, c.num_live_a_layers, c.num_live_b_layers) == (4, 2, 2)
    model.eval()  # no dropout
    question, passages = Tokens.of([torch.arange(3, 9)]), Tokens.of([torch.arange(9, 40), torch.arange(50, 60)])
    found = []
    for m in (was, model):
        rows = m.live_a(m.encode_question(question), m.encode_passages(passages), torch.zeros(2, dtype=torch.int64))
        found.append((m.score(rows), m.live_b(rows).states))
    for plain, deeper in zip(*found, strict=True):
        torch.testing.assert_close(deeper, plain, rtol=1e-5, atol=1e-5)
    found[1][1].square().sum().backward()  # type: ignore[no-untyped-call]
    for new in (model.live.blocks[1], model.live.blocks[3]):
        for part in ("attention.o", "feed_forward.wo"):
            weight = new.get_parameter(f"{part}.weight")
            assert not weight.any()
            assert weight.grad is not None
            assert weight.grad.any()


@pytest.mark.parametrize(
    ("system", "deepen", "says"), [("glimmer", (1, 6), "layer 6, but the encoder's are 0 to 5"), ("lumen", (1,), "nor")]
)
def test_layers_that_cannot_be_added(tmp_path: Path, system: str, deepen: tuple[int, ...], says: str) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model", system=system)
    with pytest.raises(ConfigError, match=says):
        open_model(ModelTable(source="checkpoint", path=str(folder), deepen=deepen), seed=0)


def test_parts_that_begin_again(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    was, _ = checkpoint.load(folder, dtype=torch.float32)
    model, _ = open_model(ModelTable(source="checkpoint", path=str(folder), renew=("scorer",)), seed=5)
    for name, p in model.named_parameters():
        assert torch.equal(p, was.get_parameter(name)) == (name != "scorer.weight"), name


def test_a_store_still_fits_where_memories_are_frozen(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    model, tokens = open_model(ModelTable(source="checkpoint", path=str(folder), frozen_memories=True), seed=0)
    still = {n.partition(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert still == {"embedding", "memory_encoder"}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(1.0)
    was, _ = checkpoint.load(folder)
    assert checkpoint.fingerprint(model, tokens) == checkpoint.fingerprint(was, tokens)


def test_norms_before_scorer_and_projection_are_added_and_begin_again_with_them(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model", embedding_dim=8)
    table = ModelTable(source="checkpoint", path=str(folder), config={"head_norms": True}, renew=("projection",))
    model, _ = open_model(table, seed=5)
    norms = [model.get_parameter(f"{part}_norm.weight") for part in ("scorer", "projection")]
    assert all(bool((norm == 1).all()) for norm in norms)
    with torch.no_grad():
        for norm in norms:
            norm.fill_(2.0)
    checkpoint.save(tmp_path / "normed", model, TextTokenizer(tiny.tokenizer(), model.config))
    again, _ = open_model(dataclasses.replace(table, path=str(tmp_path / "normed")), seed=5)
    assert again.get_parameter("scorer_norm.weight").unique().tolist() == [2.0]
    assert again.get_parameter("projection_norm.weight").unique().tolist() == [1.0]


def test_a_decoder_of_fewer_layers(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model", num_decoder_layers=4)
    was, _ = checkpoint.load(folder, dtype=torch.float32)
    model, _ = open_model(ModelTable(source="checkpoint", path=str(folder), decoder_layers=(0, 3)), seed=0)
    assert model.config.num_decoder_layers == len(model.decoder.blocks) == 2
    for name, p in model.named_parameters():
        assert torch.equal(p, was.get_parameter(name.replace("decoder.blocks.1.", "decoder.blocks.3."))), name


@pytest.mark.parametrize(("layers", "says"), [((0, 2), "layer 2, but the decoder's are 0 to 1"), ((1, 0), "ascend")])
def test_decoder_layers_that_do_not_exist(tmp_path: Path, layers: tuple[int, ...], says: str) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    with pytest.raises(ConfigError, match=says):
        open_model(ModelTable(source="checkpoint", path=str(folder), decoder_layers=layers), seed=0)


@pytest.mark.parametrize("changes", [{"deepen": (1,)}, {"renew": ("scorer",)}, {"decoder_layers": (0,)}])
def test_only_a_checkpoint_is_deepened_and_renewed(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='for source = "checkpoint"'):
        ModelTable(source="t5", path="somewhere", **changes)


def test_a_lumens_cut_stays(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model", system="lumen")
    with pytest.raises(ConfigError, match="cut cannot move"):
        open_model(ModelTable(source="checkpoint", path=str(folder), config={"alpha": 1 / 2}), seed=0)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    with pytest.raises(CheckpointMismatch, match="decoder"):
        open_model(ModelTable(source="checkpoint", path=str(folder), config={"num_decoder_layers": 1}), seed=0)


# --- the config ---------------------------------------------------------------------------------------------

MINIMAL = 'out = "run"\nsteps = 3\n[model]\nsource = "t5"\npath = "p"\n'


def test_a_config_file(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(MINIMAL + '[loss]\nlm_temperature = 2\n[dev]\nrecall_at = [3]\n[data]\ncache = "c"\n')
    got = TrainConfig.from_file(path)
    assert (got.out, got.steps, got.model.source) == (Path("run"), 3, "t5")
    assert got.loss.lm_temperature == 2.0
    assert got.dev.recall_at == (3,)
    assert got.data == DataSettings(cache=Path("c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "[loss]\ntemprature = 1.0\n", r"train\.toml: unknown key loss\.temprature; known here: .*lm_temp"),
        ("stepps = 3\n" + MINIMAL, r"train\.toml: unknown key stepps"),
        (MINIMAL.replace("steps = 3\n", ""), r"train\.toml: steps is missing"),
        (MINIMAL.replace("steps = 3", 'steps = "3"'), r"train\.toml: steps must be int, not '3'"),
        (MINIMAL.replace("steps = 3", "steps = 0"), r"train\.toml: steps must be above 0"),
        (MINIMAL + "[loss]\ndistill_direction = 'lm'\n", r"loss\.distill_direction must be one of 'lm\|\|rank', "),
        (MINIMAL + "[loss]\ndistill_passages = 1\n", r"train\.toml: \[loss\] distill_passages = 1 teaches .* nothing"),
        (MINIMAL + "[loss]\ngold_in_reader = 1.5\n", r"train\.toml: \[loss\] gold_in_reader must be between 0 and 1"),
        (MINIMAL + "[dev]\nrecall_at = [0]\n", r"recall_at must be ranks"),
        (MINIMAL.replace('path = "p"', 'tokenizer = "p"'), r"\[model\] source = 't5' needs path"),
        (MINIMAL + "[data]\ncach = 'c'\n", r"train\.toml: unknown key data\.cach; "),
        (MINIMAL + "compile = 1\n", r"unknown key model\.compile"),
        ("compile = 1\n" + MINIMAL, r"compile must be bool, not 1"),
        ("loss = 3\n" + MINIMAL, r"loss must be a table, not 3"),
        ("compile = true\ncheckpoint_activations = true\n" + MINIMAL, r"either compile or checkpoint_activations"),
        ("steps = \n", r"train\.toml is not TOML"),
    ],
)
def test_a_config_that_is_wrong_names_key_and_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_file(path)


def test_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the training config .*absent\.toml"):
        TrainConfig.from_file(tmp_path / "absent.toml")
