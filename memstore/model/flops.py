"""What answering costs, counted from the configuration: operations, bytes and parameters of each stage.

Only matrix products count, 2 m n k for an `(m, k)` by `(k, n)` product, attention's and the copy head's
included; norms, softmaxes, activations and embedding lookups do not. Only real tokens count: attention pads
rows of unequal length and token counts are rounded up by 3% on average (`packed.rounded`), so they cost a little
more than said here. One function per kind of layer; a test
holds each stage to what torch counts. Refuses to know tensors and clocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from memstore.errors import ConfigError
from memstore.model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PerStage:
    """One number for each stage of answering one question.

    Attributes:
        question: the question through the memory encoder.
        passages: the passages through the memory encoder; 0 where they are precomputed.
        live_a, live_b: the live layers before the scorer (and the scorer), the last of them as `memstore.model.ranking`
            runs it, and those after it.
        cross: cross keys and values of the kept rows, and the copy head's keys; once per question.
        steps: the decoder and its heads, all steps and beams.
    """

    question: int
    passages: int
    live_a: int
    live_b: int
    cross: int
    steps: int

    @property
    def decode(self) -> int:
        """All that follows the encoder: `cross + steps`."""
        return self.cross + self.steps

    @property
    def total(self) -> int:
        """All stages together."""
        return sum(dataclasses.astuple(self))

    def to_dict(self) -> dict[str, float]:
        """The stages a timing has, by name: question (with passages encoded live), live_a, live_b, decode."""
        return {"question": float(self.question + self.passages), "live_a": float(self.live_a),
                "live_b": float(self.live_b), "decode": float(self.decode)}  # fmt: skip


class StageFlops(PerStage):
    """Floating-point operations per stage."""


class StageBytes(PerStage):
    """Bytes that each stage must at least move."""


class StageParameters(PerStage):
    """Parameters that each stage reads."""


# --- one function per kind of layer: floating-point operations ------------------------------------------


def linear(tokens: int, width_in: int, width_out: int) -> int:
    """A linear map of `tokens` vectors."""
    return 2 * tokens * width_in * width_out


def attention(config: ModelConfig, *, queries: int, keys: int) -> int:
    """Scores and weighted sum of one attention over all heads, without projections."""
    return 2 * linear(queries, config.num_heads * config.d_kv, keys)


def feed_forward(config: ModelConfig, tokens: int) -> int:
    """One feed-forward; a gated one has two maps in."""
    return linear(tokens, config.d_model, config.d_ff) * (3 if config.feed_forward == "gated-gelu" else 2)


def encoder_layer(config: ModelConfig, rows: Sequence[int]) -> int:
    """One encoder layer over rows of the given lengths: q, k, v, o, attention within rows, feed-forward."""
    tokens = sum(rows)
    projections = 4 * linear(tokens, config.d_model, config.num_heads * config.d_kv)
    attentions = sum(attention(config, queries=length, keys=length) for length in rows)
    return projections + attentions + feed_forward(config, tokens)


def ranking_layer(config: ModelConfig, rows: Sequence[int]) -> int:
    """The last layer before the scorer, for scores: keys and values of all, the rest at each row's first token."""
    inner = config.num_heads * config.d_kv
    first = 2 * linear(len(rows), config.d_model, inner) + feed_forward(config, len(rows))  # q, o
    attentions = sum(attention(config, queries=1, keys=length) for length in rows)
    return 2 * linear(sum(rows), config.d_model, inner) + first + attentions


def rest_of_ranking_layer(config: ModelConfig, rows: Sequence[int]) -> int:
    """What that layer still has to do for rows that are kept: all but their keys and values."""
    return encoder_layer(config, rows) - 2 * linear(sum(rows), config.d_model, config.num_heads * config.d_kv)


def scorer(config: ModelConfig, rows: int) -> int:
    """The map from each row's first token to its score."""
    return linear(rows, config.d_model, 1) if config.has_scorer else 0


def cross_keys(config: ModelConfig, tokens: int) -> int:
    """Once, from the `tokens` the decoder reads: keys and values of each layer, keys of the copy head."""
    per_layer = 2 * linear(tokens, config.d_model, config.num_heads * config.d_kv)
    copy = linear(tokens, config.d_model, config.d_model) if config.copy_head else 0
    return config.num_decoder_layers * per_layer + copy


def decoder_layer(config: ModelConfig, *, decoded: int, encoded: int) -> int:
    """One decoder layer for one token that sees `decoded` positions, its own too, and `encoded` tokens."""
    projections = 6 * linear(1, config.d_model, config.num_heads * config.d_kv)  # own q, k, v, o; cross q, o
    attentions = attention(config, queries=1, keys=decoded) + attention(config, queries=1, keys=encoded)
    return projections + attentions + feed_forward(config, 1)


def heads(config: ModelConfig, encoded: int) -> int:
    """From a decoder state to a distribution: the vocabulary, and the copy head's query, gate and weights."""
    vocabulary = linear(1, config.d_model, config.vocab_size)
    if not config.copy_head:
        return vocabulary
    query, gate, weights = (linear(1, config.d_model, n) for n in (config.d_model, 1, encoded))
    return vocabulary + query + gate + weights


def decoder_step(config: ModelConfig, *, decoded: int, encoded: int) -> int:
    """One token of one hypothesis through the decoder and the heads."""
    layer = decoder_layer(config, decoded=decoded, encoded=encoded)
    return config.num_decoder_layers * layer + heads(config, encoded)


# --- whole stages ---------------------------------------------------------------------------------------


def memory_flops(config: ModelConfig, passage_tokens: Sequence[int]) -> int:
    """Encoding passages of the given lengths offline; the projection for dense retrieval is not included."""
    return config.num_memory_layers * encoder_layer(config, passage_tokens)


def answer_flops(
    config: ModelConfig,
    *,
    question_tokens: int,
    passage_tokens: Sequence[int],
    kept_tokens: Sequence[int],
    new_tokens: int,
    num_beams: int = 1,
    precomputed: bool = True,
) -> StageFlops:
    """Floating-point operations of answering one question.

    Args:
        config: the model's.
        question_tokens: length of the question.
        passage_tokens: lengths of the passages retrieved; none means that the question is read alone.
        kept_tokens: lengths of those kept after reranking (all of them without a scorer).
        new_tokens: decoder steps, eos included.
        num_beams: hypotheses per question.
        precomputed: memories come from a store; otherwise passages pass the memory encoder now.

    Raises:
        ConfigError: a count is negative, or more passages are kept than retrieved, or none of some.
    """
    _check(passage_tokens, kept_tokens, question_tokens, new_tokens, num_beams)
    retrieved = _rows(question_tokens, passage_tokens)
    kept = _rows(question_tokens, kept_tokens)
    encoded = sum(kept)
    steps = sum(decoder_step(config, decoded=i + 1, encoded=encoded) for i in range(new_tokens))
    return StageFlops(
        question=memory_flops(config, [question_tokens]),
        passages=0 if precomputed else memory_flops(config, passage_tokens),
        live_a=_ranking(config, retrieved) + rest_of_ranking_layer(config, kept) if config.has_scorer else 0,
        live_b=config.num_live_b_layers * encoder_layer(config, kept),
        cross=cross_keys(config, encoded),
        steps=num_beams * steps,
    )


def ranking_flops(config: ModelConfig, *, question_tokens: int, passage_tokens: Sequence[int]) -> int:
    """Floating-point operations of scoring stored passages against a question, and no more; 0 without a scorer."""
    if not config.has_scorer:
        return 0
    return memory_flops(config, [question_tokens]) + _ranking(config, _rows(question_tokens, passage_tokens))


def attention_flops(
    config: ModelConfig, *, question_tokens: int, kept_tokens: Sequence[int], answer_tokens: int
) -> int:
    """Floating-point operations of finding the reader's attention to each passage (`memstore.decode.attention`).

    That is one more pass of the decoder over the answer, its end where it has no tokens, with the weights of its
    cross-attention computed twice.
    """
    encoded, written = sum(_rows(question_tokens, kept_tokens)), max(1, answer_tokens)
    again = linear(1, config.d_model, config.num_heads * config.d_kv)
    again += attention(config, queries=1, keys=encoded) // 2  # scores, without the weighted sum
    layer = decoder_layer(config, decoded=written, encoded=encoded) + again
    return cross_keys(config, encoded) + written * (config.num_decoder_layers * layer + heads(config, encoded))


def _ranking(config: ModelConfig, rows: Sequence[int]) -> int:
    """live_a as far as scores need it (`memstore.model.ranking`), and the scorer."""
    whole = (config.num_live_a_layers - 1) * encoder_layer(config, rows)
    return whole + ranking_layer(config, rows) + scorer(config, len(rows))


def fid_flops(
    config: ModelConfig,
    *,
    question_tokens: int,
    passage_tokens: Sequence[int],
    new_tokens: int,
    num_beams: int = 1,
) -> StageFlops:
    """What FiD of the same size costs: all encoder layers over `[question; passage]`, the decoder over all.

    Given the passages retrieved, it says what FiD pays for having read as much; given those kept, what it
    pays for reading no more than the decoder here sees. Both leave out retrieval.
    """
    fid = config.replace(system="fid", alpha=1.0)
    return answer_flops(
        fid,
        question_tokens=question_tokens,
        passage_tokens=passage_tokens,
        kept_tokens=passage_tokens,
        new_tokens=new_tokens,
        num_beams=num_beams,
    )


# --- what must be read ----------------------------------------------------------------------------------


def stage_parameters(config: ModelConfig) -> StageParameters:
    """Parameters in the matrices that each stage reads (norms, biases of position and embeddings left out).

    `passages` names those of the memory encoder, which LUMEN keeps apart from the question's.
    """
    layer = encoder_layer(config, [1]) - attention(config, queries=1, keys=1)  # 2 operations per parameter
    inner = config.num_heads * config.d_kv
    step = decoder_step(config, decoded=0, encoded=0)
    return StageParameters(
        question=config.num_memory_layers * layer // 2,
        passages=config.num_memory_layers * layer // 2,
        live_a=(config.num_live_a_layers * layer + scorer(config, 1)) // 2,
        live_b=config.num_live_b_layers * layer // 2,
        cross=config.num_decoder_layers * 2 * config.d_model * inner + config.copy_head * config.d_model**2,
        steps=step // 2,
    )


def answer_bytes(
    config: ModelConfig,
    *,
    question_tokens: int,
    passage_tokens: Sequence[int],
    kept_tokens: Sequence[int],
    new_tokens: int,
    num_beams: int = 1,
    precomputed: bool = True,
    bytes_per_value: int = 2,
) -> StageBytes:
    """Bytes that answering one question must move between memory and processor, at least.

    Each stage's weights once (in decoding once per step), the token states it starts from and those it
    leaves, and at each decoding step the caches. What stays within a layer is not counted. `bytes_per_value`
    is 2 for bfloat16, 4 for float32; all else, and the error, as for `answer_flops`.
    """
    _check(passage_tokens, kept_tokens, question_tokens, new_tokens, num_beams)
    weights = stage_parameters(config)
    d, inner = config.d_model, config.num_heads * config.d_kv
    live = sum(_rows(question_tokens, passage_tokens))
    encoded = sum(_rows(question_tokens, kept_tokens))
    cross_values = encoded * (config.num_decoder_layers * 2 * inner + config.copy_head * d)
    own_values = num_beams * config.num_decoder_layers * 2 * inner * new_tokens * (new_tokens + 1) // 2
    values = {
        "question": weights.question + 2 * question_tokens * d,
        "passages": 0 if precomputed else weights.passages + 2 * sum(passage_tokens) * d,
        "live_a": weights.live_a + 2 * live * d if config.num_live_a_layers else 0,
        "live_b": weights.live_b + 2 * encoded * d,
        "cross": weights.cross + encoded * d + cross_values,
        "steps": new_tokens * (weights.steps + cross_values) + own_values,
    }
    return StageBytes(**{stage: n * bytes_per_value for stage, n in values.items()})


def _rows(question_tokens: int, passage_tokens: Sequence[int]) -> list[int]:
    return [question_tokens + p for p in passage_tokens] or [question_tokens]


def _check(passages: Sequence[int], kept: Sequence[int], *counts: int) -> None:
    if min(*counts, *passages, *kept) < 0:
        raise ConfigError("counts of tokens and beams cannot be negative")
    if len(kept) > len(passages) or bool(kept) != bool(passages):
        raise ConfigError(f"{len(kept)} passages kept of {len(passages)} retrieved; at least one, and no more")
