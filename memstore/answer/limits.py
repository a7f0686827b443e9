"""Questions held to what they may cost: before their passages are found, and once these are known.

Knows a store's lengths and a model's tokenizer. Refuses to know the model's weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from memstore.answer.budget import GIGA, Bill, Rung
from memstore.answer.candidates import Candidates, brought
from memstore.answer.values import Question
from memstore.model.tokens import TextTokenizer
from memstore.store import AnyStore


def afforded(question: Question, store: AnyStore, tokenizer: TextTokenizer) -> Question:
    """The question with as many passages as its `max_gflop` has room for, if they are as long as the store's are on
    average; those that it brings have their own lengths.

    Raises:
        RequestError: there is no room for one passage, or the model knows no such task.
    """
    if question.max_gflop is None:
        return question
    return _usual_bill(question, store, tokenizer).lowered().question


def most_gflop(question: Question, store: AnyStore, tokenizer: TextTokenizer) -> float:
    """Billions of operations that a question costs at most, if passages are as long as the store's are on average."""
    return _usual_bill(question, store, tokenizer).of(Rung(question.retrieve_k, question.keep_k)) / GIGA


def within(
    questions: Sequence[Question], found: Sequence[Candidates], store: AnyStore, tokenizer: TextTokenizer
) -> tuple[list[Question], list[Candidates], int | None]:
    """The questions with as many of the passages found as their `max_gflop` has room for, those passages, and how many
    steps the decoder may take for a question alone; None for as many as it likes.

    Raises:
        RequestError: there is no room for one passage.
    """
    bills = [None if q.max_gflop is None else _bill(q, _lengths(own, store, tokenizer), tokenizer).lowered()
             for q, own in zip(questions, found, strict=True)]  # fmt: skip
    asked = [q if bill is None else bill.question for q, bill in zip(questions, bills, strict=True)]
    fewer = [own if q.passages is not None else own[: q.retrieve_k] for q, own in zip(asked, found, strict=True)]
    return asked, fewer, bills[0].steps() if len(bills) == 1 and bills[0] is not None else None


def _usual_bill(question: Question, store: AnyStore, tokenizer: TextTokenizer) -> Bill:
    if question.passages is not None:
        return _bill(question, _lengths(brought(question.passages), store, tokenizer), tokenizer)
    usual = math.ceil(store.generation.tokens / max(1, store.generation.passages))
    return _bill(question, [usual] * question.retrieve_k, tokenizer)


def _bill(question: Question, passage_tokens: Sequence[int], tokenizer: TextTokenizer) -> Bill:
    (ids,) = tokenizer.questions([question.text], tasks=[question.task])
    return Bill(config=tokenizer.config, question=question, question_tokens=len(ids), passage_tokens=passage_tokens)


def _lengths(candidates: Candidates, store: AnyStore, tokenizer: TextTokenizer) -> list[int]:
    """Tokens of each passage: all are the store's, or all the caller's."""
    if stored := [c.stored for c in candidates if c.stored is not None]:
        return store.lengths(stored)
    longest = tokenizer.config.max_passage_tokens
    return [min(longest, n) for n in tokenizer.lengths([c.found.passage for c in candidates])]
