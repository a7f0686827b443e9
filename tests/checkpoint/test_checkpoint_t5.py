"""Conversion of stock T5 checkpoints: every layout of files, and each way of not being one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from memstore.checkpoint.loading import fingerprint, from_t5, load, save
from memstore.checkpoint.t5 import require_none
from memstore.errors import CheckpointError, CheckpointMismatch, CheckpointNotFound, ConfigError
from memstore.model.model import MemoryModel
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save_stock_t5(tmp_path / "t5")


def same_parameters(a: MemoryModel, b: MemoryModel) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[n], right[n]) for n in left)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_settings_follow_the_stock_config(folder: Path) -> None:
    edit_config(folder, relative_attention_max_distance=64, dropout_rate=0.25, layer_norm_epsilon=1e-5)
    edit_config(folder, pad_token_id=3, decoder_start_token_id=4)
    model, tokens = from_t5(folder, alpha=1 / 2, beta=1 / 3, max_passage_tokens=99, name="mine")
    c = model.config
    assert (c.d_model, c.d_kv, c.d_ff, c.num_heads, c.num_layers, c.num_decoder_layers) == (
        32,
        8,
        64,
        3,
        6,
        2,
    )
    assert (c.feed_forward, c.tie_word_embeddings, c.scale_head) == ("relu", True, True)
    assert (c.relative_attention_max_distance, c.dropout_rate, c.layer_norm_epsilon) == (64, 0.25, 1e-5)
    assert (c.num_memory_layers, c.num_live_a_layers, c.num_live_b_layers) == (3, 1, 2)
    assert (c.system, c.name, c.trained, c.copy_head, c.embedding_dim) == ("glimmer", "mine", True, False, 0)
    assert (c.pad_token_id, c.decoder_start_token_id) == (3, 4)
    assert tokens.config == c
    assert from_t5(folder)[0].config.name == "t5"


def test_a_model_is_named_as_its_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        wanted.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert from_t5("someone/t5-small")[0].config.name == "someone/t5-small"
    known = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    known += ["tokenizer.json", "tokenizer_config.json", "spiece.model"]
    fetched = [name for name in [*known, "pytorch_model.bin", "run.py"] if any(fnmatch(name, p) for p in wanted)]
    assert fetched == known
    monkeypatch.chdir(folder)
    assert from_t5(".")[0].config.name == "t5"


@pytest.mark.parametrize(
    ("stock", "tied_file", "tied", "scaled"),
    [
        ({"tie_word_embeddings": True}, True, True, True),  # v1.0, any version
        ({"tie_word_embeddings": False}, False, False, False),  # v1.1 and Flan, before transformers 5
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, False, False),  # v1.1 in 5
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, True, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, False, False, True),
        ({}, True, True, True),
        ({"model_type": "mt5"}, True, True, False),
        ({"model_type": "mt5", "scale_decoder_outputs": True}, True, True, False),  # its class does not look
    ],
)
def test_flags_of_the_head(folder: Path, stock: dict[str, bool], tied_file: bool, tied: bool, scaled: bool) -> None:
    values = json.loads((folder / "config.json").read_text())
    del values["tie_word_embeddings"], values["scale_decoder_outputs"]
    (folder / "config.json").write_text(json.dumps(values | stock))
    if not tied_file:
        edit_weights(folder, lambda t: t.update({"lm_head.weight": t["shared.weight"] + 1}))
    config = from_t5(folder)[0].config
    assert (config.tie_word_embeddings, config.scale_head) == (tied, scaled)


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_embedding_under_another_name(folder: Path, name: str) -> None:
    want, _ = from_t5(folder)
    edit_weights(folder, lambda t: t.update({name: t.pop("shared.weight")}))
    assert same_parameters(from_t5(folder)[0], want)


def test_weights_in_several_files(folder: Path, tmp_path: Path) -> None:
    want, _ = from_t5(folder)
    stock = T5ForConditionalGeneration.from_pretrained(folder)
    stock.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    (folder / "tokenizer.json").rename(tmp_path / "shards" / "tokenizer.json")
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    assert same_parameters(from_t5(tmp_path / "shards")[0], want)
    files[1].unlink()
    with pytest.raises(CheckpointNotFound, match=files[1].name):
        from_t5(tmp_path / "shards")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_dtype_is_kept_unless_t5_overflows_it(folder: Path, dtype: torch.dtype) -> None:
    edit_weights(folder, lambda t: t.update({n: p.to(dtype) for n, p in t.items()}))
    model, _ = from_t5(folder, copy_head=True)
    want = torch.float32 if dtype == torch.float16 else dtype
    assert {p.dtype for p in model.parameters()} == {want}


@pytest.mark.parametrize("system", ["fid", "lumen", "glimmer"])
def test_each_system_survives_its_own_checkpoint(folder: Path, tmp_path: Path, system: str) -> None:
    model, tokens = from_t5(folder, system=system, copy_head=True, embedding_dim=8)
    assert model.config.alpha == (1 if system == "fid" else 1 / 3)
    assert not model.training
    save(tmp_path / "ours", model, tokens)
    loaded, loaded_tokens = load(tmp_path / "ours")
    assert same_parameters(loaded, model)
    assert fingerprint(loaded, loaded_tokens) == fingerprint(model, tokens)


def test_copies_share_no_memory(folder: Path) -> None:
    model, _ = from_t5(folder, system="lumen")
    places = [p.data_ptr() for p in model.parameters()]
    assert len(places) == len(set(places))
    assert model.memory_embedding is not None
    assert torch.equal(model.memory_embedding.weight, model.embedding.weight)


def test_new_parts_are_small_and_always_the_same(folder: Path) -> None:
    first, second = (from_t5(folder, copy_head=True, embedding_dim=8)[0] for _ in range(2))
    assert same_parameters(first, second)
    assert first.scorer is not None
    assert first.copy_head is not None
    assert 0 < first.scorer.weight.abs().max() < 0.1
    share = torch.sigmoid(first.copy_head.gate.bias).item()
    assert 0.9 < share < 1


def test_what_nothing_reads_may_be_there(folder: Path) -> None:
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    edit_weights(folder, lambda t: t.update({name: torch.zeros(32, 3)}))
    from_t5(folder)


NORM = "encoder.block.5.layer.1.layer_norm.weight"
BROKEN: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "missing": (lambda f: edit_weights(f, lambda t: t.pop(NORM)), CheckpointMismatch, f"missing: {NORM}$"),
    "left over": (
        lambda f: edit_weights(f, lambda t: t.update(more=torch.zeros(1))),
        CheckpointMismatch,
        "left over: more$",
    ),
    "misshapen": (
        lambda f: edit_weights(f, lambda t: t.update({NORM: torch.zeros(31)})),
        CheckpointMismatch,
        rf"misshapen: {NORM} is \(31,\), not \(32,\)$",
    ),
    "no embedding": (
        lambda f: edit_weights(f, lambda t: t.pop("shared.weight")),
        CheckpointMismatch,
        "misses shared.weight",
    ),
    "only a head": (
        lambda f: (
            edit_config(f, tie_word_embeddings=False),
            edit_weights(f, lambda t: t.update({"lm_head.weight": t.pop("shared.weight")})),
        ),
        CheckpointMismatch,
        "misses shared.weight",
    ),
    "no head": (
        lambda f: edit_config(f, tie_word_embeddings=False),
        CheckpointMismatch,
        "misses lm_head.weight",
    ),
    "two embeddings": (
        lambda f: edit_weights(f, lambda t: t.update({"decoder.embed_tokens.weight": t["shared.weight"] + 1})),
        CheckpointError,
        "one input embedding",
    ),
    "another model": (
        lambda f: edit_config(f, model_type="bart"),
        CheckpointError,
        "not a T5 checkpoint.*'bart'",
    ),
    "another activation": (
        lambda f: edit_config(f, feed_forward_proj="gated-silu"),
        CheckpointError,
        "gated-silu",
    ),
    "a list of activations": (
        lambda f: edit_config(f, feed_forward_proj=["relu"]),
        CheckpointError,
        r"feed_forward_proj is \['relu'\]; known: relu, gated-gelu",
    ),
    "impossible size": (
        lambda f: edit_config(f, d_kv="8"),
        ConfigError,
        r"t5/config\.json: d_kv must be int, not '8'",
    ),
    "several ends": (
        lambda f: edit_config(f, eos_token_id=[1, 2]),
        ConfigError,
        r"config\.json: eos_token_id must be int",
    ),
    "end is a word": (
        lambda f: edit_config(f, eos_token_id=4),
        CheckpointMismatch,
        "token of id 4, which to the tokenizer is '▁the', no special token: this is another model's tokenizer",
    ),
    "end an ordinary token": (
        lambda f: (f / "tokenizer.json").write_text(
            tiny.tokenizer().to_str().replace('"special":true', '"special":false')
        ),
        CheckpointMismatch,
        "which to the tokenizer is '</s>', no special token",
    ),
    "end unknown": (
        lambda f: edit_config(f, eos_token_id=tiny.VOCAB_SIZE - 1),
        CheckpointMismatch,
        "is None, no special token",
    ),
    "pickle of another model": (
        lambda f: (edit_config(f, model_type="bart"), (f / "model.safetensors").rename(f / "pytorch_model.bin")),
        CheckpointError,
        "not a T5 checkpoint",
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        CheckpointError,
        "runs code.*save_pretrained",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        CheckpointNotFound,
        "has no model.safetensors",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        CheckpointNotFound,
        "neither tokenizer.json nor",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), CheckpointNotFound, "has no config.json"),
    "no sizes": (lambda f: (f / "config.json").write_text('{"model_type": "t5"}'), ConfigError, "d_model"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_each_way_of_being_broken_has_its_error(folder: Path, how: str) -> None:
    breaking, error, message = BROKEN[how]
    breaking(folder)
    with pytest.raises(error, match=message) as caught:
        from_t5(folder)
    assert type(caught.value) is error


def test_eight_parameters_of_each_complaint_are_named() -> None:
    names = list("abcdefghi")
    require_none({"missing": []}, source="x")
    with pytest.raises(
        CheckpointMismatch, match=r"missing: a, b, c, d, e, f, g, h and 1 more; left over: a, b, c, d, e, f, g, h$"
    ):
        require_none({"missing": names, "misshapen": [], "left over": names[:8]}, source="x")


def test_one_of_ours_is_not_stock(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a T5 checkpoint but memstore's own already"):
        from_t5(tiny.save_checkpoint(tmp_path))


def test_a_config_that_leaves_things_out_means_its_kind_s_defaults(tmp_path: Path) -> None:
    for flavour, left_out in (
        ("v1.0", "feed_forward_proj"),
        ("mt5", "feed_forward_proj"),
        ("v1.1", "num_decoder_layers"),
    ):
        folder = tiny.save_stock_t5(tmp_path / flavour, flavour, num_decoder_layers=6)
        want, _ = from_t5(folder)
        values = json.loads((folder / "config.json").read_text())
        del values[left_out]
        (folder / "config.json").write_text(json.dumps(values | {"dropout_rate": None}))
        found, _ = from_t5(folder)
        assert found.config == want.config
        assert same_parameters(found, want)


def test_an_unknown_setting_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="alphas"):
        from_t5(folder, alphas=1)


def save_pieces(folder: Path, **changes: Any) -> Path:
    """A stock folder with a sentencepiece model and no tokenizer.json, as T5 checkpoints once came."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(tiny.WORDS[i:] + tiny.WORDS[:i]) for i in range(30)]),
        model_writer=made,
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tiny.save_stock_t5(folder, **changes)
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(made.getvalue())
    return folder


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    return save_pieces(tmp_path / "t5")


def test_a_sentencepiece_tokenizer_is_converted(pieces: Path, tmp_path: Path) -> None:
    model, tokens = from_t5(pieces)
    spm = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "spiece.model"))
    for text in ("who was born in Paris", "the  longest river of Africa"):
        row = tokens.encode_answers([text], max_tokens=64)[0].tolist()
        assert row == [*spm.encode(text), 1]
        assert tokens.decode(row) == " ".join(text.split())
    save(tmp_path / "ours", model, tokens)
    assert load(tmp_path / "ours")[1].fingerprint == tokens.fingerprint


def test_extra_ids_follow_a_sentencepiece_model_where_there_is_room(tmp_path: Path) -> None:
    """T5 has room for 100; mT5 has none, and its folder may have lost the file that says so."""
    _, roomy = from_t5(save_pieces(tmp_path / "t5"))
    _, tight = from_t5(folder := save_pieces(tmp_path / "mt5", flavour="mt5", vocab_size=100))
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()
    _, full = from_t5(save_pieces(tmp_path / "full", vocab_size=size + 100))
    for tokens in (roomy, full):
        assert tokens.encode_answers(["<extra_id_0>"], max_tokens=64)[0].tolist() == [size + 99, 1]
    assert max(tight.encode_answers(["<extra_id_0>"], max_tokens=64)[0]) < size
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 9}')
    _, told = from_t5(folder)
    assert told.encode_answers(["<extra_id_0>"], max_tokens=64)[0].tolist() == [size + 8, 1]


def test_a_broken_sentencepiece_model_is_reported(pieces: Path) -> None:
    (pieces / "spiece.model").write_bytes(b"\x00" * 50)
    with pytest.raises(CheckpointError, match=r"spiece.model is broken"):
        from_t5(pieces)


@torch.no_grad()
def test_match_vectors_change_nothing_until_they_have_learned(folder: Path) -> None:
    plain, _ = from_t5(folder)
    matching, _ = from_t5(folder, match_embedding=True, match_scale=256.0)
    assert matching.match_embedding is not None
    assert not matching.match_embedding.weight.any()
    assert all(torch.equal(p, matching.get_parameter(n)) for n, p in plain.named_parameters())
