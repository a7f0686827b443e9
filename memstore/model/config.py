"""The settings of a model, frozen and typed. FiD, LUMEN and GLIMMER are three values of one class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from memstore.errors import ConfigError

System = Literal["fid", "lumen", "glimmer"]
FeedForward = Literal["relu", "gated-gelu"]
_TYPES: dict[str, tuple[type, ...]] = {  # what values of each annotation may be, as JSON has them
    "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "dict[str, str]": (dict,),
    "System": (str,), "FeedForward": (str,),
}  # fmt: skip

_GONE = ("copy_previous", "extractive")
"""Settings of earlier versions. Checkpoints of these have them, nearly all as False."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape and kind of a model. Layer counts follow from `alpha` and `beta` (GLIMMER, section 3).

    Attributes:
        system: "fid" (alpha must be 1), "lumen" (frozen memory encoder, own question encoder) or "glimmer".
        alpha: share of the encoder layers that run live, on `[question; memory]`.
        beta: share of the live layers that run before the scorer (GLIMMER only).
        d_kv: width of one attention head; `num_heads * d_kv` need not equal `d_model`.
        scale_head: logits are scaled by `d_model ** -0.5` (T5 v1.0, whose head is tied).
        copy_head: mix the vocabulary softmax with attention over the kept passages' tokens (1704.04368).
        match_embedding: rows `[question; memory]` get a learned vector by side and by whether the token is on
            the other side too (as the exact-match feature of arXiv 1704.00051, section 3.2).
        match_scale: what these vectors are multiplied by. Where the stream's values are in the hundreds, as those of a
            pretrained T5 are, vectors of a learning rate's size change nothing. Other than 1, they begin at zero.
        head_norms: an RMS norm of its own before what reads the residual stream: the scorer, and the projection for
            dense retrieval. A pretrained T5's stream has values in the thousands, from which neither learns without.
        embedding_dim: width of the passage vectors for dense retrieval from the model's own memory
            encoder; 0 for none.
        retrieval_prior: how much the retriever's order counts in reranking: a passage's score less this times the
            logarithm of its retrieval rank. 0 for GLIMMER as published, which has none.
        score_bias: how much the reader heeds the ranking: this times the logarithm of each kept passage's share, by
            softmax of what they are ordered by, is added to the decoder's cross-attention for all of its tokens. 0 for
            GLIMMER as published. Without a scorer it means nothing.
        question_template, passage_template: `{question}`, and `{title}` and `{text}`.
        tasks: question templates of tasks by name, instead of `question_template`.
        num_beams: hypotheses per answer where a request does not say; 1 is greedy.
        spellings: whole answers, as the tokenizer decodes them, and how they are to be written, such as
            {"supports": "SUPPORTS"} for a tokenizer that folds case.
        trained: False says that the weights are random; everything that answers with them says so too.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    system: System = "glimmer"
    alpha: float = 1 / 3
    beta: float = 1 / 4
    feed_forward: FeedForward = "gated-gelu"
    tie_word_embeddings: bool = False
    scale_head: bool = False
    copy_head: bool = False
    match_embedding: bool = False
    match_scale: float = 1.0
    head_norms: bool = False
    embedding_dim: int = 0
    retrieval_prior: float = 0.0
    score_bias: float = 0.0
    num_beams: int = 1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0
    max_question_tokens: int = 64
    max_passage_tokens: int = 256
    question_template: str = "{question}"
    passage_template: str = "title: {title} context: {text}"
    tasks: dict[str, str] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    name: str = ""
    trained: bool = True

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, types = getattr(self, f.name), _TYPES[str(f.type)]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise ConfigError(f"{f.name} must be {f.type}, not {value!r}")
            if isinstance(value, dict) and not all(isinstance(v, str) for pair in value.items() for v in pair):
                raise ConfigError(f"{f.name} must hold strings by name, not {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{f.name} must be finite, not {value}")
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers",
                      "max_question_tokens", "max_passage_tokens", "num_beams"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        self._check_numbers()
        if self.system not in ("fid", "lumen", "glimmer"):
            raise ConfigError(f"system must be fid, lumen or glimmer, not {self.system!r}")
        if self.feed_forward not in ("relu", "gated-gelu"):
            raise ConfigError(f"feed_forward must be relu or gated-gelu, not {self.feed_forward!r}")
        if not 0 < self.alpha <= 1 or not 0 < self.beta <= 1:
            raise ConfigError(f"alpha and beta must be in (0, 1], not {self.alpha} and {self.beta}")
        if self.system == "fid" and self.alpha != 1:
            raise ConfigError(f"FiD precomputes nothing: alpha must be 1, not {self.alpha}")
        if "{question}" not in self.question_template:
            raise ConfigError("question_template must contain {question}")
        for task, template in self.tasks.items():
            if "{question}" not in template:
                raise ConfigError(f"the question template of task {task!r} must contain {{question}}: {template!r}")
        if "{text}" not in self.passage_template:
            raise ConfigError("passage_template must contain {text}")

    def _check_numbers(self) -> None:
        """Raises ConfigError for numbers that no layer can be made with, or only one that fails when it runs."""
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ConfigError(f"{name} must be in [0, {self.vocab_size}), not {getattr(self, name)}")
        for name in ("embedding_dim", "layer_norm_epsilon", "retrieval_prior", "match_scale", "score_bias"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.dropout_rate <= 1:
            raise ConfigError(f"dropout_rate must be in [0, 1], not {self.dropout_rate}")
        buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4:
            raise ConfigError(f"relative_attention_num_buckets must be at least 4, not {buckets}")
        if farthest <= buckets // 2:  # the decoder's first half has a distance each
            raise ConfigError(
                "relative_attention_max_distance must be more than half of "
                f"relative_attention_num_buckets ({buckets}), not {farthest}"
            )

    @property
    def num_live_layers(self) -> int:
        """Encoder layers that run on `[question; memory]`: alpha of all, rounded, at least one."""
        return max(1, round(self.alpha * self.num_layers))

    @property
    def num_memory_layers(self) -> int:
        """Encoder layers that run offline over passages and online over the question."""
        return self.num_layers - self.num_live_layers

    @property
    def num_live_a_layers(self) -> int:
        """Live layers before the scorer: beta of the live ones, at least one; none without a scorer."""
        if self.system != "glimmer":
            return 0
        return max(1, round(self.beta * self.num_live_layers))

    @property
    def num_live_b_layers(self) -> int:
        """Live layers after the scorer."""
        return self.num_live_layers - self.num_live_a_layers

    @property
    def has_scorer(self) -> bool:
        """Whether passages are reranked after live_a."""
        return self.system == "glimmer"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a key is unknown, or a required one is missing; or the model used a setting that is gone.
        """
        values = without_gone(values)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"unknown key(s) in model config: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
        missing = sorted(required - set(values))
        if missing:
            raise ConfigError(f"missing key(s) in model config: {', '.join(missing)}")
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)


def without_gone(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config of any version, without settings that memstore has no more.

    Raises:
        ConfigError: the model used one of them.
    """
    if used := sorted(name for name in _GONE if values.get(name)):
        raise ConfigError(
            f"this model was made with {' and '.join(used)}, which memstore has no more: answer with the version that "
            "made it, or convert and train a model again (`memstore convert`, `memstore train`)"
        )
    return {name: value for name, value in values.items() if name not in _GONE}
