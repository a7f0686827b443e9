"""Stock T5 parameters (v1.0, v1.1, Flan) by our names: renamed, and some of them concatenated.

Knows the names and settings that `transformers` gives T5; refuses to know files, and how either model
computes. Stock encoder layers before the cut become the memory encoder, those after it the live one; each
stack gets a copy of the one table of position biases that T5 keeps in its first block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memstore.errors import CheckpointError, CheckpointMismatch
from memstore.model.config import ModelConfig

_SHARED = "shared.weight"
_HEAD = "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of the shared embedding, if there
# The first T5 checkpoints carry a table for cross-attention that nothing has ever read.
_UNREAD = frozenset({"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"})
_TABLE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_GATE_BIAS = 3.0  # of a new copy head: 95% vocabulary, so that a converted model still writes as it did
_NEW_SCALE = 0.02  # of other new parts, times d_model ** -0.5: the residual stream of T5 is large
_NEW_SEED = 0
_SAME_SETTINGS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "dropout_rate",
                  "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon",
                  "pad_token_id", "eos_token_id", "decoder_start_token_id")  # fmt: skip

# What a part of our block is called in a stock block; `{ff}` is 1 in the encoder and 2 in the decoder.
_PARTS: dict[str, tuple[str, ...]] = {
    "attention_norm": ("layer.0.layer_norm",),
    "attention.qkv": tuple(f"layer.0.SelfAttention.{x}" for x in "qkv"),
    "attention.o": ("layer.0.SelfAttention.o",),
    "cross_norm": ("layer.1.layer_norm",),
    "cross.q": ("layer.1.EncDecAttention.q",),
    "cross.kv": ("layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"),
    "cross.o": ("layer.1.EncDecAttention.o",),
    "feed_forward_norm": ("layer.{ff}.layer_norm",),
    "feed_forward.wo": ("layer.{ff}.DenseReluDense.wo",),
}
_WI: dict[str, tuple[str, ...]] = {
    "relu": ("layer.{ff}.DenseReluDense.wi",),
    "gated-gelu": ("layer.{ff}.DenseReluDense.wi_0", "layer.{ff}.DenseReluDense.wi_1"),
}
_WHOLE: dict[str, str] = {
    "embedding.weight": _SHARED,
    "memory_embedding.weight": _SHARED,
    "memory_encoder.bias.table.weight": f"encoder.{_TABLE}",
    "question_encoder.bias.table.weight": f"encoder.{_TABLE}",
    "live.bias.table.weight": f"encoder.{_TABLE}",
    "final_norm.weight": "encoder.final_layer_norm.weight",
    "decoder.bias.table.weight": f"decoder.{_TABLE}",
    "decoder.norm.weight": "decoder.final_layer_norm.weight",
    "head.weight": _HEAD,
}


def require_t5(stock: Mapping[str, Any], *, source: object) -> None:
    """Refuse what is no T5's `config.json`.

    Raises:
        CheckpointError: it is another model's, or memstore's own.
    """
    kind = stock.get("model_type")
    if kind in ("t5", "mt5"):
        return
    if "system" in stock and kind is None:
        raise CheckpointError(f"{source} is not a T5 checkpoint but memstore's own already: it can be used as it is")
    raise CheckpointError(f"{source} is not a T5 checkpoint: its model_type is {kind!r}, not t5 or mt5")


def settings(stock: Mapping[str, Any], *, tied: bool, source: object) -> dict[str, Any]:
    """Our settings from a stock `config.json`.

    Args:
        stock: the file's values.
        tied: whether the head is the input embedding (`merge_embeddings` says).
        source: what error messages call the checkpoint.

    Raises:
        CheckpointError: the feed-forward is of an unknown kind.
    """
    feed_forward = stock.get("feed_forward_proj", "gated-gelu" if stock.get("model_type") == "mt5" else "relu")
    if not isinstance(feed_forward, str) or feed_forward not in _WI:
        raise CheckpointError(f"{source}: feed_forward_proj is {feed_forward!r}; known: relu, gated-gelu")
    same = {name: stock[name] for name in _SAME_SETTINGS if stock.get(name) is not None}
    return same | {
        "num_decoder_layers": stock.get("num_decoder_layers") or stock.get("num_layers"),
        "feed_forward": feed_forward,
        "tie_word_embeddings": tied,
        "scale_head": _scales(stock),
    }


def _scales(stock: Mapping[str, Any]) -> Any:
    """Whether the head is scaled: an mT5's never, a T5's as its config says, an old one's if it ties."""
    if stock.get("model_type") == "mt5":
        return False
    return stock.get("scale_decoder_outputs", stock.get("tie_word_embeddings") is not False)


def merge_embeddings(
    tensors: Mapping[str, Tensor], stock: Mapping[str, Any], *, source: object
) -> tuple[dict[str, Tensor], bool]:
    """The parameters with one shared embedding, and whether the head is tied to it.

    Files differ in which names of tied parameters they hold, so what is tied is seen from the values.

    Raises:
        CheckpointMismatch: there is no embedding, or no head where the config wants its own.
        CheckpointError: encoder and decoder have different embeddings.
    """
    merged = dict(tensors)
    may_tie = stock.get("tie_word_embeddings") is not False
    names = [n for n in (_SHARED, *_COPIES, *([_HEAD] if may_tie else [])) if n in merged]
    if not names:
        raise CheckpointMismatch(f"{source} misses {_SHARED}")
    shared = merged[_SHARED] = merged[names[0]]
    for name in _COPIES:
        if not torch.equal(merged.pop(name, shared), shared):
            raise CheckpointError(f"{source}: {name} differs from {names[0]}; memstore has one input embedding")
    if _HEAD not in merged and not may_tie:
        raise CheckpointMismatch(f"{source} misses {_HEAD}, and its config says that the head is not tied")
    tied = torch.equal(merged.get(_HEAD, shared), shared)
    if tied:
        merged.pop(_HEAD, None)
    return merged, tied


def convert(
    stock: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], config: ModelConfig, *, source: object
) -> dict[str, Tensor]:
    """Every parameter of a model of ours: renamed, concatenated, or new.

    Args:
        stock: stock parameters by their names, from `merge_embeddings`.
        shapes: what the model wants, by our names.
        config: the model's.
        source: what error messages call the checkpoint.

    Raises:
        CheckpointMismatch: parameters are missing, misshapen or left over; they are named.
    """
    sources = {name: _stock_names(name, config) for name in shapes}
    wanted = {n for names in sources.values() for n in names}
    misshapen = [
        f"{n} is {tuple(stock[n].shape)}, not {want}"
        for name, names in sources.items()
        for n in names
        if n in stock and stock[n].shape != (want := (shapes[name][0] // len(names), *shapes[name][1:]))
    ]
    problems = {
        "missing": sorted(wanted - set(stock)),
        "misshapen": misshapen,
        "left over": sorted(set(stock) - wanted - _UNREAD),
    }
    require_none(problems, source=source)
    generator = torch.Generator().manual_seed(_NEW_SEED)
    return {
        name: torch.cat([stock[n] for n in names]) if names else _new(name, shapes[name], generator)
        for name, names in sources.items()
    }


def require_none(problems: Mapping[str, list[str]], *, source: object, at_most: int = 8) -> None:
    """Refuse a checkpoint over lists of parameters by complaint, long lists cut to `at_most`.

    Raises:
        CheckpointMismatch: a list is not empty.
    """
    complaints = []
    for complaint, names in problems.items():
        rest = len(names) - at_most
        if names:
            complaints.append(f"{complaint}: " + ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else ""))
    if complaints:
        raise CheckpointMismatch(f"the parameters in {source} do not fit its config. " + "; ".join(complaints))


def _stock_names(name: str, config: ModelConfig) -> tuple[str, ...]:
    """The stock parameters that make up one of ours, in order; none for a part that T5 has not."""
    if name in _WHOLE:
        return (_WHOLE[name],)
    match = re.fullmatch(r"(memory_encoder|question_encoder|live|decoder)\.blocks\.(\d+)\.(.+)\.weight", name)
    if match is None:
        return ()
    stack, block, part = match[1], int(match[2]), match[3]
    if stack == "live":
        block += config.num_memory_layers
    side, ff = ("decoder", 2) if stack == "decoder" else ("encoder", 1)
    parts = _WI[config.feed_forward] if part == "feed_forward.wi" else _PARTS[part]
    return tuple(f"{side}.block.{block}.{p.format(ff=ff)}.weight" for p in parts)


def _new(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name == "match_embedding.weight":  # so that a converted model begins as it was
        return torch.zeros(shape)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name == "copy_head.gate.bias":
        return torch.full(shape, _GATE_BIAS)
    deviation = _NEW_SCALE / math.sqrt(shape[-1])
    return torch.randn(shape, generator=generator) * deviation
