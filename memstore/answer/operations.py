"""Counts the operations that an answer took, and FiD's for the same. Knows lengths; refuses to know tensors."""

from __future__ import annotations

from typing import Any

from memstore.answer.values import Question
from memstore.model import flops
from memstore.model.config import ModelConfig


def operations(
    question: Question, config: ModelConfig, *, answer_tokens: int, **tokens: Any
) -> tuple[dict[str, float], float]:
    """Operations per stage, and FiD's for the same answer.

    Args:
        question: what was asked.
        config: the model's.
        answer_tokens: of the answer itself, which may be shorter than what was decoded.
        tokens: the counts that `flops.answer_flops` takes.
    """
    beams = question.num_beams or config.num_beams
    spent = flops.answer_flops(config, **tokens, num_beams=beams, precomputed=question.passages is None).to_dict()
    if question.attention:
        read = {name: tokens[name] for name in ("question_tokens", "kept_tokens")}
        spent["attention"] = float(flops.attention_flops(config, **read, answer_tokens=answer_tokens))
    given = {name: count for name, count in tokens.items() if name != "kept_tokens"}
    return spent, float(flops.fid_flops(config, **given, num_beams=beams).total)
