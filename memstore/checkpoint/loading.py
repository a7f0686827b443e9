"""Checkpoints on disk: a folder of `config.json`, `model.safetensors` and `tokenizer.json`. Never pickle.

Knows folders, hub ids and the names of parameters; refuses to know how a model computes. Missing is
`CheckpointNotFound`, unreadable `CheckpointError`, and parts that do not fit each other `CheckpointMismatch`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from memstore.checkpoint import t5
from memstore.checkpoint.files import (
    CALIBRATION,
    CONFIG,
    PIECES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS_INDEX,
    has_weights,
    read_json,
    read_tensors,
    read_tokenizer,
    stock_tokenizer,
    write,
)
from memstore.checkpoint.int8 import quantised
from memstore.errors import CheckpointError, CheckpointMismatch, CheckpointNotFound, ConfigError
from memstore.fingerprint import Fingerprint
from memstore.machine import why_unusable
from memstore.model.config import ModelConfig, System
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer, ids_of

if TYPE_CHECKING:  # a machine that trains from a cache has no stores
    from memstore.store import AnyStore

FILES = (CONFIG, CALIBRATION, "*.safetensors", WEIGHTS_INDEX, TOKENIZER, TOKENIZER_CONFIG, PIECES)
Weights = Literal["float32", "bfloat16", "int8"]
DEFAULT = "default"  # the model that comes with the package
DTYPES = (torch.float32, torch.bfloat16)  # T5 activations overflow float16
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_UNTRAINED_SEED = 0
_UNSEEN_SETTINGS = ("feed_forward", "layer_norm_epsilon", "relative_attention_max_distance", "eos_token_id")


def default_checkpoint() -> Path:
    """The folder of the model that comes with the package; also what `load("default")` reads."""
    return Path(__file__).parents[1] / "models" / DEFAULT


def load(
    path_or_id: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[MemoryModel, TextTokenizer]:
    """Read a checkpoint of ours from a folder, a hub id, or "default".

    A config that says `trained: false` needs no weights: without them they are drawn from a fixed seed.

    Args:
        path_or_id: a folder, a hub id (`owner/name`), or "default".
        dtype: what to compute in, float32 or bfloat16; what the file holds, if None (bfloat16, if it holds int8).
        device: where to put the parameters.

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        CheckpointNotFound: no folder, or one of its files is missing.
        CheckpointError: a file is broken, or is a stock T5 checkpoint's.
        CheckpointMismatch: parameters are missing, misshapen or left over.
        ConfigError: `config.json` has unknown keys or impossible values, the dtype is neither of the two, or this
            machine cannot compute on the device.
    """
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"dtype must be float32 or bfloat16, not {dtype}: T5 activations overflow float16")
    require_device(device)
    folder = resolve(path_or_id)
    config = read_config(folder)
    tokenizer = TextTokenizer(read_tokenizer(folder), config)
    if not config.trained and not has_weights(folder):
        model = MemoryModel(config)
        model.initialise(_UNTRAINED_SEED)
        model = model.to(dtype or torch.float32)
    else:
        with torch.device("meta"):
            model = MemoryModel(config)
        assign(model, read_tensors(folder), dtype=dtype, source=folder)
    return model.to(device).eval(), tokenizer


def model_of(store: AnyStore, *, name: str | None = None, device: str = "cpu") -> tuple[MemoryModel, TextTokenizer]:
    """The model that built a store, or the one named, in the store's dtype. Whether they fit, the caller has to ask.

    Raises:
        CheckpointNotFound, CheckpointError, ConfigError: see `load`.
    """
    return load(name_of(store, name), dtype=getattr(torch, store.fingerprint.dtype), device=device)


def tokenizer_of(store: AnyStore, *, name: str | None = None) -> TextTokenizer:
    """The tokenizer of the model that built a store, or of the one named. Reads no parameters.

    Raises:
        CheckpointNotFound, CheckpointError, ConfigError: see `load`.
        FingerprintMismatch: the model is another one, as its tokenizer and settings alone show.
    """
    folder = resolve(name_of(store, name))
    config = read_config(folder)
    tokenizer = TextTokenizer(read_tokenizer(folder), config)
    known = store.fingerprint
    known.require(_fingerprint(config, tokenizer, encoder=known.encoder, dtype=known.dtype))
    return tokenizer


def name_of(store: AnyStore, name: str | None) -> str:
    """The checkpoint that is named, or else the one that built a store."""
    return name or str(store.generation.settings.get("model", DEFAULT))


def save(folder: str | Path, model: MemoryModel, tokenizer: TextTokenizer, *, weights: Weights | None = None) -> None:
    """Write a checkpoint, `config.json` last. No file is ever half there.

    Args:
        folder: where to.
        model: the model.
        tokenizer: its tokenizer.
        weights: what parameters are kept in; the dtype they have, if None. "int8" has scales, and is read again as
            bfloat16.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full. What was there before still is.
    """
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.state_dict().items()}
    if weights == "int8":
        tensors = quantised(tensors)
    elif weights is not None:
        tensors = {name: p.to(getattr(torch, weights)) for name, p in tensors.items()}
    write(Path(folder), tensors, tokenizer=tokenizer.json, config=model.config.to_dict())


def from_scratch(values: Mapping[str, Any], *, tokenizer: Tokenizer, seed: int) -> tuple[MemoryModel, TextTokenizer]:
    """A model with random weights.

    Args:
        values: of `ModelConfig`; `vocab_size` comes from the tokenizer if it is left out.
        tokenizer: the model's.
        seed: of the weights.

    Raises:
        ConfigError: a value is unknown or impossible.
        CheckpointMismatch: the tokenizer has ids beyond `vocab_size`.
    """
    model = MemoryModel(ModelConfig.from_dict({"vocab_size": ids_of(tokenizer)} | dict(values)))
    model.initialise(seed)
    return model.eval(), TextTokenizer(tokenizer, model.config)


def from_t5(
    path_or_id: str | Path,
    *,
    system: System = "glimmer",
    alpha: float | None = None,
    beta: float = 1 / 4,
    copy_head: bool = False,
    embedding_dim: int = 0,
    **changes: Any,
) -> tuple[MemoryModel, TextTokenizer]:
    """Turn a stock T5 checkpoint into any of the three systems.

    LUMEN's question encoder and memory embedding begin as copies. Parts that T5 has not (scorer, copy head,
    projection) begin small and are always the same; scorer and projection have a norm before them.

    Args:
        path_or_id: a folder or a hub id. The flavour is read from its `config.json`.
        system: "fid", "lumen" or "glimmer".
        alpha: share of the encoder layers that run live; if None, 1 for FiD and 1/3 otherwise.
        beta: share of the live layers before the scorer.
        copy_head: add a copy head.
        embedding_dim: width of the projection for dense retrieval; 0 for none.
        changes: other values of `ModelConfig`, such as templates, limits and the name.

    Returns:
        The model, in evaluation mode, and its tokenizer. The dtype is the file's; float16 becomes float32.

    Raises:
        CheckpointNotFound: nothing is there, or a file is missing.
        CheckpointError: a file is broken, a pickle, or not a T5's.
        CheckpointMismatch: parameters are missing, misshapen or left over, or the tokenizer is another model's.
        ConfigError: a setting is unknown or impossible.
    """
    folder = resolve(path_or_id)
    stock = read_json(folder / CONFIG)
    t5.require_t5(stock, source=folder)
    tensors, tied = t5.merge_embeddings(read_tensors(folder), stock, source=folder)
    shape = t5.settings(stock, tied=tied, source=folder)
    _checked(shape, folder)  # so that a mistake in the file is not taken for one in the arguments
    config = ModelConfig.from_dict(
        {
            **shape,
            "system": system,
            "alpha": alpha if alpha is not None else 1.0 if system == "fid" else 1 / 3,
            "beta": beta,
            "copy_head": copy_head,
            "embedding_dim": embedding_dim,
            "head_norms": True,
            "name": folder.resolve().name if Path(path_or_id).is_dir() else str(path_or_id),
        }
        | changes
    )
    with torch.device("meta"):
        model = MemoryModel(config)
    assign(model, t5.convert(tensors, _shapes(model), config, source=folder), dtype=None, source=folder)
    tokenizer = stock_tokenizer(folder, vocab_size=config.vocab_size)
    _require_end(tokenizer, config, source=folder)
    return model.eval(), TextTokenizer(tokenizer, config)


def fingerprint(model: MemoryModel, tokenizer: TextTokenizer, dtype: torch.dtype | None = None) -> Fingerprint:
    """What makes this model's memories what they are; a store built with another fingerprint is refused.

    Args:
        model: its memory encoder and the embedding that passages use are hashed as float32 values, which is
            exact, so the hash is the same before saving and after loading, and says nothing of the rest;
            with them those settings of the encoder that the shapes do not show.
        tokenizer: its tokenizer.
        dtype: what memories are computed in; the parameters' dtype, if None.
    """
    encoder = _hash({name: getattr(model.config, name) for name in _UNSEEN_SETTINGS}, _memory_parameters(model))
    return _fingerprint(
        model.config, tokenizer, encoder=encoder, dtype=str(dtype or model.dtype).removeprefix("torch.")
    )


def _fingerprint(config: ModelConfig, tokenizer: TextTokenizer, *, encoder: str, dtype: str) -> Fingerprint:
    return Fingerprint(
        encoder=encoder,
        tokenizer=tokenizer.fingerprint,
        memory_layers=config.num_memory_layers,
        passage_template=config.passage_template,
        max_passage_tokens=config.max_passage_tokens,
        d_model=config.d_model,
        dtype=dtype,
    )


def read_config(folder: Path) -> ModelConfig:
    """The settings of a checkpoint of ours.

    Raises:
        CheckpointNotFound: `config.json` is missing.
        CheckpointError: it is broken, or a stock T5 checkpoint's.
        ConfigError: it has unknown keys or impossible values.
    """
    values = read_json(folder / CONFIG)
    if "model_type" in values or "architectures" in values:
        raise CheckpointError(
            f"{folder} is a stock checkpoint (model_type {values.get('model_type')!r}), not memstore's own. "
            "Turn it into one with `memstore convert`, or with memstore.checkpoint.loading.from_t5 in Python."
        )
    return _checked(values, folder)


def is_own(path_or_id: str | Path) -> bool:
    """Whether a checkpoint is one of ours, not a stock one's.

    Raises:
        CheckpointNotFound: nothing is there, or `config.json` is missing.
        CheckpointError: it is broken.
    """
    values = read_json(resolve(path_or_id) / CONFIG)
    return "system" in values and "model_type" not in values


# --- pieces of both ----------------------------------------------------------------------------


def require_device(device: torch.device | str) -> None:
    """Check that a number can be put there and read back.

    Raises:
        ConfigError: it cannot; says why.
    """
    if reason := why_unusable(device):
        raise ConfigError(
            f"device {str(device)!r} cannot be used on this machine ({reason}). Use cpu, or with a GPU that this torch "
            "can use, cuda or cuda:1."
        )


def resolve(path_or_id: str | Path) -> Path:
    """The folder of a checkpoint: the path, the package's own for "default", or a snapshot from the hub.

    A folder here that is called "default" is read as "./default".

    Raises:
        CheckpointNotFound: neither a folder nor a hub id that can be had.
        CheckpointError: the system does not let us look.
    """
    if path_or_id == DEFAULT:
        return default_checkpoint()
    path = Path(path_or_id)
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if folder:
        return path
    if there:
        raise CheckpointNotFound(f"{path} is a file; a checkpoint is a folder that holds {CONFIG}")
    name = str(path_or_id)
    if not isinstance(path_or_id, str) or not _HUB_ID.fullmatch(name):
        raise CheckpointNotFound(f"there is no checkpoint folder at {path}")
    import huggingface_hub  # only who names a hub id pays for the import

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # the hub, its transport and the disk share no root
        raise CheckpointNotFound(
            f"{name!r} is not a folder here, and could not be fetched from the hub "
            f"({type(error).__name__}: {str(error).partition('.')[0]}). "
            "Offline, give the path of a folder."
        ) from error


def assign(model: MemoryModel, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None, source: object) -> None:
    """Give a model (which may be on the meta device) its parameters, all in one dtype.

    Raises:
        CheckpointMismatch: parameters are missing, misshapen or left over; all are named.
        CheckpointError: some are no finite numbers.
    """
    shapes = _shapes(model)
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    missing, left_over = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    t5.require_none({"missing": missing, "misshapen": misshapen, "left over": left_over}, source=source)
    if lost := [name for name, t in tensors.items() if not torch.stack(torch.aminmax(t)).isfinite().all()]:
        raise CheckpointError(
            f"{source}: {len(lost)} parameter(s) hold infinite numbers or none, {min(lost)} first: "
            "the training that wrote them diverged, take an earlier checkpoint"
        )
    held = tensors["embedding.weight"].dtype
    dtype = dtype or (held if held in DTYPES else torch.float32)
    model.load_state_dict({name: t.to(dtype) for name, t in tensors.items()}, assign=True)


def _shapes(model: MemoryModel) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.state_dict().items()}


def _checked(values: Mapping[str, Any], folder: Path) -> ModelConfig:
    try:
        return ModelConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from None


def _require_end(tokenizer: Tokenizer, config: ModelConfig, *, source: object) -> None:
    """Raises CheckpointMismatch unless answers end in a special token, as they do with each T5's own tokenizer."""
    eos = tokenizer.get_added_tokens_decoder().get(config.eos_token_id)
    if eos is None or not eos.special:
        raise CheckpointMismatch(
            f"{source}: the config ends answers with the token of id {config.eos_token_id}, which to the tokenizer is "
            f"{tokenizer.id_to_token(config.eos_token_id)!r}, no special token: this is another model's tokenizer."
        )


def _memory_parameters(model: MemoryModel) -> Iterator[tuple[str, Tensor]]:
    embedding = model.memory_embedding or model.embedding
    yield "embedding.weight", embedding.weight
    if model.config.num_memory_layers:
        yield from sorted(model.memory_encoder.state_dict(prefix="memory_encoder.").items())


def _hash(settings: Mapping[str, object], parameters: Iterator[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, p in parameters:
        digest.update(f"{name} {tuple(p.shape)}\n".encode())
        digest.update(p.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()
