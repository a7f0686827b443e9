"""Gives passages their shares of the reader's attention, where a question asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memstore.answer.values import Question
from memstore.decode.attention import attention_shares
from memstore.decode.steps import Decoded
from memstore.model.model import Encoded, MemoryModel
from memstore.model.packed import Rows
from memstore.passage import RankedPassage

Ranked = tuple[RankedPassage, ...]


def with_attention(
    model: MemoryModel,
    questions: Sequence[Question],
    ranked: Sequence[Ranked],
    encoded: Encoded,
    live: Rows,
    decoded: Sequence[Decoded],
) -> list[Ranked]:
    """The passages of B questions; those that were kept, which come first, with their shares.

    Args:
        model: in evaluation mode.
        questions: those that do not ask for shares get none.
        ranked: each question's passages, best first.
        encoded: what was read.
        live: its rows, questions ascending, best first within each.
        decoded: the answers.
    """
    rows: list[list[int]] = [[] for _ in questions]
    for question, tokens in zip(live.question_of.tolist(), live.layout.lengths.tolist(), strict=True):
        rows[question].append(tokens)
    shares = attention_shares(model, encoded, [one.ids for one in decoded], rows)
    return [
        _shared(own, of) if question.attention else own
        for question, own, of in zip(questions, ranked, shares, strict=True)
    ]


def _shared(passages: Ranked, shares: Sequence[float]) -> Ranked:
    """Without any passage a question has a row all the same, which is left out."""
    kept = [replace(one, attention=share) for one, share in zip(passages, shares, strict=False)]
    return (*kept, *passages[len(kept) :])
