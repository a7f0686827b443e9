"""Counts the cost of a model's three systems at given lengths: `memstore flops`. Measures nothing.

`memstore.model.flops` has the arithmetic; this file only chooses the systems to compare. Knows no tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memstore import checkpoint
from memstore.errors import ConfigError
from memstore.model.config import ModelConfig
from memstore.model.flops import answer_bytes, answer_flops, stage_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The lengths of one question, its passages and its answer, and how many passages are read.

    Attributes:
        question_tokens, passage_tokens: of the question, and of every passage.
        retrieve_k, keep_k: passages retrieved, and passages that the decoder reads.
        new_tokens: decoder steps, eos included.
        num_beams: hypotheses.
    """

    question_tokens: int = 20
    passage_tokens: int = 128
    retrieve_k: int = 40
    keep_k: int = 10
    new_tokens: int = 16
    num_beams: int = 1

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            if getattr(self, f.name) < 1:
                raise ConfigError(f"{f.name} must be at least 1, not {getattr(self, f.name)}")
        if self.keep_k > self.retrieve_k:
            raise ConfigError(f"keep_k ({self.keep_k}) must not exceed retrieve_k ({self.retrieve_k})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCost:
    """The cost of one system at one point of the grid. Each mapping is by stage, with the sum as "total".

    Attributes:
        system, alpha, beta: which system; `beta` is None if it does not rerank.
        retrieve_k, keep_k: passages retrieved, and passages that its decoder reads.
        layers: encoder layers by part, and decoder layers.
        flops: floating-point operations.
        bytes: bytes that must at least be moved, in bfloat16.
        parameters: parameters that are read; none for passages, as their memories come from the store.
        store_bytes: bytes of memories read from an int8 store, uncompressed: one for each value.
    """

    system: str
    alpha: float
    beta: float | None
    retrieve_k: int
    keep_k: int
    layers: Mapping[str, int]
    flops: Mapping[str, int]
    bytes: Mapping[str, int]
    parameters: Mapping[str, int]
    store_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """`memstore flops`: a model's shape as each of the three systems."""

    model: str
    lengths: Lengths
    systems: list[SystemCost] = field(default_factory=list)


def costs(path_or_id: str, lengths: Lengths) -> Costs:
    """The three systems of a checkpoint's shape, FiD and LUMEN reading all that is retrieved and only as many as kept.

    Raises:
        CheckpointNotFound, CheckpointError, ConfigError: of the checkpoint's `config.json`.
    """
    config = checkpoint.read_config(checkpoint.resolve(path_or_id))
    every, few = (lengths.retrieve_k, lengths.retrieve_k), (lengths.keep_k, lengths.keep_k)
    wanted = [("fid", every), ("fid", few), ("lumen", every), ("lumen", few)]
    wanted += [("glimmer", (lengths.retrieve_k, lengths.keep_k))]
    return Costs(
        model=path_or_id,
        lengths=lengths,
        systems=[system_cost(as_system(config, name), lengths, *ks) for name, ks in dict.fromkeys(wanted)],
    )


def as_system(config: ModelConfig, system: str) -> ModelConfig:
    """The same shape as another system. A FiD has no cut to take over: the others then get the default one."""
    alpha = 1.0 if system == "fid" else config.alpha
    if system != "fid" and config.system == "fid":
        alpha = float({f.name: f.default for f in dataclasses.fields(ModelConfig)}["alpha"])  # type: ignore[arg-type]
    return config.replace(system=system, alpha=alpha)


def system_cost(config: ModelConfig, lengths: Lengths, retrieve_k: int, keep_k: int) -> SystemCost:
    """One system at one place of the grid."""
    counts: dict[str, Any] = {
        "question_tokens": lengths.question_tokens,
        "passage_tokens": [lengths.passage_tokens] * retrieve_k,
        "kept_tokens": [lengths.passage_tokens] * keep_k,
        "new_tokens": lengths.new_tokens,
        "num_beams": lengths.num_beams,
    }
    tokens = retrieve_k * lengths.passage_tokens
    return SystemCost(
        system=config.system,
        alpha=config.alpha,
        beta=config.beta if config.has_scorer else None,
        retrieve_k=retrieve_k,
        keep_k=keep_k,
        layers={"memory": config.num_memory_layers, "live_a": config.num_live_a_layers,
                "live_b": config.num_live_b_layers, "decoder": config.num_decoder_layers},
        flops=_summed(answer_flops(config, **counts)),
        bytes=_summed(answer_bytes(config, **counts)),
        parameters=_summed(dataclasses.replace(stage_parameters(config), passages=0)),
        store_bytes=tokens * config.d_model if config.num_memory_layers else 0,
    )  # fmt: skip


def _summed(stages: Any) -> dict[str, int]:
    return {**dataclasses.asdict(stages), "total": stages.total}
