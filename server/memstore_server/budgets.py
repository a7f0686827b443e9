"""Fewer passages for more questions: how far questions are lowered, for a deadline or because there is much to do.

Knows questions, and ladders of what they may have found and read. Refuses to know how long anything takes, and threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memstore.answer import Question, Reason
from memstore.answer.budget import highest, rungs

DEGRADE_FROM = 0.25  # of the queue's pressure: below it nobody is lowered
DEGRADE_LEAST = 0.25  # of the ladder, where the queue is full: answers of fewer passages are hardly worth their time


class Lowering:
    """Questions that are lowered together, all alike: level 0 is the least, and the last level what they ask for."""

    def __init__(self, questions: Sequence[Question], *, reason: Reason) -> None:
        self._questions, self._reason = questions, reason
        self._ladders = [rungs(question) for question in questions]
        self.levels = max(map(len, self._ladders), default=0)

    def at(self, level: int) -> list[Question]:
        """The questions at a level."""
        if level >= self.levels - 1:
            return list(self._questions)
        found = []
        for question, ladder in zip(self._questions, self._ladders, strict=True):
            rung = ladder[level * (len(ladder) - 1) // (self.levels - 1)]
            top = rung == ladder[-1]  # may be fewer than it asks for: a caller's own passages, all of them read
            found.append(question if top else question.lower(*rung, reason=self._reason))
        return found


def highest_that(fits: Callable[[Sequence[Question]], bool], lowering: Lowering) -> list[Question] | None:
    """The questions at the highest level at which they fit; None if they do not at the least."""
    level = highest(lowering.levels, lambda at: fits(lowering.at(at)))
    return None if level is None else lowering.at(level)


def degraded(question: Question, pressure: float) -> Question:
    """The question as a server answers it whose queue is so full: 0 is empty, 1 is full."""
    if pressure <= DEGRADE_FROM:
        return question
    lowering = Lowering([question], reason="load")
    share = 1 - (1 - DEGRADE_LEAST) * (min(pressure, 1.0) - DEGRADE_FROM) / (1 - DEGRADE_FROM)
    return lowering.at(round(share * (lowering.levels - 1)))[0]
