"""What a question may cost: fewer passages are found and read until it costs no more than it may.

Which fewer: `rungs` is the ladder from one passage found and read to all that was asked for, along which both numbers
go down in proportion. Whoever has a limit, of operations here or of time in a server, takes the highest rung below it.

Knows lengths and counts. Refuses to know models' weights, stores and clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from memstore.answer.values import Question
from memstore.decode.drafts import MOST
from memstore.errors import RequestError
from memstore.model.config import ModelConfig
from memstore.model.flops import answer_flops, attention_flops

GIGA = 1e9


class Rung(NamedTuple):
    """A step of the ladder: passages found, and passages read."""

    retrieve_k: int
    keep_k: int


def rungs(question: Question, *, found: int | None = None) -> list[Rung]:
    """From the least that a question can have found and read to all that it asks for; each costs more than the former.

    A caller's own passages are all scored whatever is read of them: there only the second number changes.

    >>> [tuple(rung) for rung in rungs(Question("?", retrieve_k=4, keep_k=2))]
    [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2)]

    Args:
        question: the last rung is what it asks for.
        found: passages that there are, where it is known and fewer than it asks for.
    """
    every = question.retrieve_k if found is None else min(question.retrieve_k, found)
    if question.passages is not None:
        every = len(question.passages)
        return [Rung(question.retrieve_k, k) for k in range(1, max(1, min(question.keep_k, every)) + 1)]
    most = min(question.keep_k, every)
    ladder = []
    for r in range(1, every + 1):
        least, here = (max(1, -(-most * n // every)) for n in (r - 1, r))
        ladder += [Rung(r, k) for k in range(least, here + 1)]
    return ladder


def highest(levels: int, fits: Callable[[int], bool]) -> int | None:
    """The highest of levels 0, 1, ... that fits, where each costs more than the former; None if not even 0 does."""
    if levels < 1 or not fits(0):
        return None
    low, high = 0, levels  # fits(low), and perhaps not high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a question costs by the passages found and read, in operations.

    Attributes:
        config: the model's.
        question: what is asked.
        question_tokens: its length.
        passage_tokens: lengths of the passages found, in the retriever's order.
    """

    config: ModelConfig
    question: Question
    question_tokens: int
    passage_tokens: Sequence[int]

    def of(self, rung: Rung, *, steps: int | None = None) -> int:
        """At most so many, whichever passages are read, and however long the answer becomes.

        `steps` are the decoder's; by default one for each token that the answer may have.
        """
        q = self.question
        found = self.passage_tokens if q.passages is not None else self.passage_tokens[: rung.retrieve_k]
        kept = sorted(found, reverse=True)[: rung.keep_k]
        answer = answer_flops(
            self.config,
            question_tokens=self.question_tokens,
            passage_tokens=found,
            kept_tokens=kept,
            new_tokens=q.max_new_tokens if steps is None else steps,
            num_beams=q.num_beams or self.config.num_beams,
            precomputed=q.passages is None,
        ).total
        if not q.attention:
            return answer
        return answer + attention_flops(
            self.config,
            question_tokens=self.question_tokens,
            kept_tokens=kept,
            answer_tokens=q.max_new_tokens,
        )

    def lowered(self) -> Bill:
        """The bill with as many passages as the question's `max_gflop` has room for; as it is without one.

        Raises:
            RequestError: there is not even room for one passage.
        """
        q = self.question
        if q.max_gflop is None:
            return self
        limit, ladder = q.max_gflop * GIGA, rungs(q, found=len(self.passage_tokens)) or [Rung(q.retrieve_k, q.keep_k)]
        level = highest(len(ladder), lambda at: self.of(ladder[at]) <= limit)
        if level is None:
            least = self.of(ladder[0]) / GIGA
            raise RequestError(
                f"max_gflop is {q.max_gflop:g}, but with one passage read an answer can take {_up(least):g}, the least "
                f"that there is: allow for that, or for a shorter answer (max_new_tokens, now {q.max_new_tokens})"
            )
        if level == len(ladder) - 1:
            return self
        return replace(self, question=q.lower(*ladder[level], reason="max_gflop"))

    def steps(self) -> int | None:
        """Decoder steps that the question's `max_gflop` has room for; None without one.

        There are more than the answer has tokens where drafts of it are tried (`memstore.decode.drafts`).
        """
        q = self.question
        if q.max_gflop is None:
            return None
        limit, rung = q.max_gflop * GIGA, Rung(q.retrieve_k, q.keep_k)
        spare = highest(MOST * q.max_new_tokens + 1, lambda n: self.of(rung, steps=q.max_new_tokens + n) <= limit)
        return q.max_new_tokens + (spare or 0)


def _up(value: float) -> float:
    """Three digits of a positive number, rounded up: who allows for so much has enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit
