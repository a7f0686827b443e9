"""Checkpoints of ours: what is saved is what is loaded, and each way of being broken has its own error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

import memstore
from memstore.checkpoint.loading import default_checkpoint, fingerprint, from_scratch, load, save
from memstore.errors import CheckpointError, CheckpointMismatch, CheckpointNotFound, ConfigError
from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from tests import tiny

SYSTEMS = ["fid", "lumen", "glimmer"]


def make(system: str) -> MemoryModel:
    return tiny.model(system=system, alpha=1.0 if system == "fid" else 1 / 3, copy_head=True, embedding_dim=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_is_saved_is_loaded(tmp_path: Path, system: str, dtype: torch.dtype) -> None:
    model, tokens = make(system).to(dtype), tiny.text_tokenizer()
    save(tmp_path / "a", model, tokens)
    loaded, loaded_tokens = load(tmp_path / "a")
    assert loaded.config == model.config
    assert not loaded.training
    want = model.state_dict()
    assert list(loaded.state_dict()) == list(want)
    for name, p in loaded.named_parameters():
        assert p.dtype == dtype
        assert p.requires_grad
        assert torch.equal(p, want[name]), name
    assert loaded_tokens.json == tokens.json
    assert fingerprint(loaded, loaded_tokens) == fingerprint(model, tokens)
    save(tmp_path / "b", loaded, loaded_tokens)
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_saving_leaves_three_files_and_replaces_older_ones(folder: Path) -> None:
    (folder / ".model.safetensors.part").write_bytes(b"left by a killed process")
    other = tiny.model(seed=5)
    save(folder, other, tiny.text_tokenizer())
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert torch.equal(load(folder)[0].embedding.weight, other.embedding.weight)


@torch.no_grad()
def test_loading_in_bfloat16(folder: Path) -> None:
    model, _ = load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.encode_passages(Tokens.of([[5, 6, 7]])).states.dtype == torch.bfloat16


def test_float16_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="overflow float16"):
        load(folder, dtype=torch.float16)


@pytest.mark.parametrize("device", ["banana", "meta", "cuda:99", ""])
def test_a_device_that_cannot_compute_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device '{device}' cannot be used on this machine \(.+\)\. Use cpu"):
        load(folder, device=device)


def test_an_untrained_model_needs_no_weights_and_is_always_the_same(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, trained=False)
    (folder / "model.safetensors").unlink()
    first, second = load(folder)[0], load(folder)[0]
    assert not first.config.trained
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert first.embedding.weight.std() > 0.5
    drawn, _ = from_scratch(first.config.to_dict(), tokenizer=tiny.tokenizer(), seed=0)
    assert torch.equal(first.embedding.weight, drawn.embedding.weight)


def test_an_untrained_model_that_has_weights_keeps_them(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, seed=5, trained=False)
    want = load_file(folder / "model.safetensors")
    for name, p in load(folder)[0].state_dict().items():
        assert torch.equal(p, want[name]), name


def test_weights_that_are_drawn_have_the_dtype_asked_for(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, trained=False)
    (folder / "model.safetensors").unlink()
    assert load(folder)[0].dtype == torch.float32
    assert {p.dtype for p in load(folder, dtype=torch.bfloat16)[0].parameters()} == {torch.bfloat16}


def test_a_model_from_scratch_is_of_its_seed_and_as_large_as_its_tokenizer_or_larger() -> None:
    values = {name: value for name, value in tiny.config().to_dict().items() if name != "vocab_size"}
    drawn = [from_scratch(values, tokenizer=tiny.tokenizer(), seed=seed)[0] for seed in (3, 3, 4)]
    assert torch.equal(drawn[0].embedding.weight, drawn[1].embedding.weight)
    assert not torch.equal(drawn[0].embedding.weight, drawn[2].embedding.weight)
    assert not drawn[0].training
    assert drawn[0].config.vocab_size == tiny.tokenizer().get_vocab_size()
    larger, _ = from_scratch(values | {"vocab_size": 512}, tokenizer=tiny.tokenizer(), seed=3)
    assert larger.embedding.weight.shape == (512, 32)


def test_the_default_is_the_packages_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_checkpoint().is_relative_to(Path(memstore.__file__).parent)
    tiny.save_checkpoint(tmp_path / "packaged", name="mine")
    tiny.save_checkpoint(tmp_path / "default", name="another")
    monkeypatch.setattr(memstore.checkpoint.loading, "default_checkpoint", lambda: tmp_path / "packaged")
    monkeypatch.chdir(tmp_path)
    assert load("default")[0].config.name == "mine"
    assert load("./default")[0].config.name == "another"
    assert load(Path("default"))[0].config.name == "another"


# --- every way of being broken ----------------------------------------------------------------------


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def refuse(path: Path) -> None:
    """The system does not let anybody read it."""
    path.unlink()
    path.mkdir()


def index(folder: Path, change: Callable[[Path], object]) -> None:
    """The weights in a file that an index names, and a change to it."""
    part = (folder / "model.safetensors").rename(folder / "part.safetensors")
    files = dict.fromkeys(load_file(part), part.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    change(part)


BROKEN: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), CheckpointNotFound, "has no config.json"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        CheckpointNotFound,
        "has no model.safetensors",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), CheckpointNotFound, "has no tokenizer.json"),
    "config not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        CheckpointError,
        "config.json is broken",
    ),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "holds a list"),
    "weights cut": (lambda f: cut(f / "model.safetensors"), CheckpointError, "model.safetensors is broken"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), CheckpointError, "is broken"),
    "tokenizer cut": (lambda f: cut(f / "tokenizer.json"), CheckpointError, "tokenizer.json is broken"),
    "config refused": (lambda f: refuse(f / "config.json"), CheckpointError, "config.json cannot be read"),
    "weights refused": (lambda f: index(f, refuse), CheckpointError, "part.safetensors cannot be read"),
    "unknown key": (
        lambda f: edit_config(f, d_modell=1),
        ConfigError,
        r"config\.json: unknown key\(s\) in model config: d_modell",
    ),
    "wrong type": (lambda f: edit_config(f, d_model="32"), ConfigError, "d_model"),
    "other width": (
        lambda f: edit_config(f, d_ff=128),
        CheckpointMismatch,
        r"feed_forward.wi.weight is \(128, 32\)",
    ),
    "parameter missing": (
        lambda f: edit_weights(f, lambda t: t.pop("scorer.weight")),
        CheckpointMismatch,
        "missing: scorer.weight$",
    ),
    "parameter left over": (
        lambda f: edit_weights(f, lambda t: t.update(more=torch.zeros(1))),
        CheckpointMismatch,
        "left over: more$",
    ),
    "no number": (
        lambda f: edit_weights(f, lambda t: t["scorer.weight"][0, 3].fill_(torch.nan)),
        CheckpointError,
        r"1 parameter\(s\) hold infinite numbers or none, scorer.weight first: .* take an earlier checkpoint$",
    ),
    "infinite": (
        lambda f: edit_weights(f, lambda t: t["embedding.weight"][1, 0].fill_(-torch.inf)),
        CheckpointError,
        "embedding.weight first",
    ),
    "one layer fewer": (lambda f: edit_config(f, num_decoder_layers=3), CheckpointMismatch, "and .* more"),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        CheckpointError,
        "save_pretrained",
    ),
    "pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin.index.json"),
        CheckpointError,
        "only as a pickle",
    ),
    "stock": (lambda f: tiny.save_stock_t5(f), CheckpointError, r"memstore convert.*from_t5"),
    "stock of old": (lambda f: edit_config(f, model_type="t5"), CheckpointError, "memstore convert"),
    "stock of no type": (lambda f: edit_config(f, architectures=["T5Model"]), CheckpointError, "memstore convert"),
    "smaller vocabulary": (
        lambda f: edit_config(f, vocab_size=100),
        CheckpointMismatch,
        "only 100 embeddings",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_each_way_of_being_broken_has_its_error(folder: Path, how: str) -> None:
    breaking, error, message = BROKEN[how]
    breaking(folder)
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert type(caught.value) is error


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "../x", Path("someone/model")])
def test_no_such_folder(name: str | Path) -> None:
    with pytest.raises(CheckpointNotFound, match="no checkpoint folder"):
        load(name)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="is a file"):
        load(folder / "config.json")


# --- the hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_offline_a_hub_id_is_not_found(hub_cache: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"'someone/model' is not a folder here.*give the path"):
        load("someone/model")


def test_a_hub_id_is_loaded_from_its_snapshot(hub_cache: Path, folder: Path) -> None:
    repository = hub_cache / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    assert load("someone/model")[0].config.name == "tiny"


# --- fingerprint ------------------------------------------------------------------------------------


def changed(model: MemoryModel, name: str) -> MemoryModel:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] += 1
    return model


@pytest.mark.parametrize(
    ("system", "name", "same"),
    [
        ("glimmer", "embedding.weight", False),
        ("glimmer", "memory_encoder.bias.table.weight", False),
        ("glimmer", "memory_encoder.blocks.3.feed_forward.wo.weight", False),
        ("glimmer", "live.bias.table.weight", True),
        ("glimmer", "live.blocks.0.attention.qkv.weight", True),
        ("glimmer", "final_norm.weight", True),
        ("glimmer", "scorer.weight", True),
        ("glimmer", "decoder.blocks.0.cross.kv.weight", True),
        ("glimmer", "projection.weight", True),
        ("lumen", "memory_embedding.weight", False),
        ("lumen", "memory_encoder.blocks.0.attention.o.weight", False),
        ("lumen", "embedding.weight", True),
        ("lumen", "question_encoder.blocks.0.attention.o.weight", True),
    ],
)
def test_the_fingerprint_is_of_what_makes_memories(system: str, name: str, same: bool) -> None:
    tokens = tiny.text_tokenizer()
    before, after = fingerprint(make(system), tokens), fingerprint(changed(make(system), name), tokens)
    assert (after.encoder == before.encoder) is same
    assert set(after.differences(before)) <= {"encoder"}


def test_the_fingerprint_names_what_differs() -> None:
    tokens = tiny.text_tokenizer()
    before = fingerprint(tiny.model(), tokens)
    assert before.dtype == "float32"
    after = fingerprint(tiny.model(max_passage_tokens=32, passage_template="{text}"), tokens, torch.bfloat16)
    assert set(after.differences(before)) == {"max_passage_tokens", "passage_template", "dtype"}
    assert fingerprint(tiny.model(alpha=1 / 2), tokens).memory_layers == 3


@pytest.mark.parametrize(
    "change", [{"relative_attention_max_distance": 64}, {"layer_norm_epsilon": 1e-5}, {"eos_token_id": 2}], ids=str
)
def test_the_fingerprint_sees_settings_that_shapes_do_not_show(change: dict[str, float]) -> None:
    tokens = tiny.text_tokenizer()
    before, after = fingerprint(tiny.model(), tokens), fingerprint(tiny.model(**change), tokens)
    assert set(after.differences(before)) == {"encoder"}


def test_the_fingerprint_stays_what_it_was() -> None:
    """Of any change to it, every store that was ever built would have to be built again."""
    model = tiny.model()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((torch.arange(p.numel()) % 7 / 4).view(p.shape))
    assert (
        fingerprint(model, tiny.text_tokenizer()).encoder
        == "e15ac106a07159804860f49ccb5b5efe7dea54851ce9a69b1ff44b825de650c7"
    )


def test_loaded_parameters_can_be_trained_without_touching_the_file(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model, _ = load(folder)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_bfloat16_files_encoder_is_the_same_in_float32(tmp_path: Path) -> None:
    save(tmp_path, tiny.model().bfloat16(), tiny.text_tokenizer())
    half, full = (fingerprint(*load(tmp_path, dtype=d)) for d in (torch.bfloat16, torch.float32))
    assert set(half.differences(full)) == {"dtype"}
