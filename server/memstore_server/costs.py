"""How long batches take: a model of the engine's time, fitted to the batches that ran.

The time of a batch is `a + b * questions + c * scored + d * read + e * brought`, of which all are tokens but the first
two. The coefficients begin in fixed proportions, scaled to what was seen, and move from there as far as the last
batches say. How far the last batches were off is kept too: what must not be late counts with that margin.

Refuses to know threads, queues and clocks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from memstore.answer import Answer, Question

PASSAGE_TOKENS = 130  # of a stored passage: 100 words and a title
CHARACTERS_PER_TOKEN = 4  # of English text, with the usual vocabularies
WINDOW = 64  # batches that the fit looks back on: half a minute to some minutes
FIRST_MARGIN = 1.5  # until enough batches were seen to know how far predictions are off
MARGINS_KNOWN = 8  # batches that are enough for that
MOST_MARGIN = 4.0
MARGIN_QUANTILE = 0.95
_PULL = 0.01  # weight of the usual proportions; a batch brings each coefficient about 0.05
_THOUSAND = 1_000.0


@dataclass(frozen=True, slots=True)
class Work:
    """What the time of a batch depends on. Works of questions that are answered together add up.

    Attributes:
        questions: their number.
        scored: tokens of the rows `[question; passage]` that are reranked.
        read: tokens of the rows that the decoder reads, times beams.
        brought: tokens of passages that are not in the store, and encoded now.
    """

    questions: int = 0
    scored: float = 0.0
    read: float = 0.0
    brought: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.questions + other.questions,
            self.scored + other.scored,
            self.read + other.read,
            self.brought + other.brought,
        )

    @property
    def tokens(self) -> float:
        """Tokens that must be in memory at once for it: what a batch may hold is counted in these."""
        return self.scored + self.brought


NOTHING = Work()


def work_of(question: Question, *, kept: int | None = None) -> Work:
    """What a question will cost, from what it asks for: nothing is tokenized. Without a number of beams it is one.

    `kept` is how many passages were read, where it is known; else it is the most.
    """
    own = [len(one.text) + len(one.title) for one in question.passages or ()]
    passages = len(own) if question.passages is not None else question.retrieve_k
    brought = sum(own) / CHARACTERS_PER_TOKEN
    mean = brought / max(1, passages) if own else PASSAGE_TOKENS
    row = mean + len(question.text) / CHARACTERS_PER_TOKEN
    read = min(question.keep_k if kept is None else kept, passages)
    return Work(questions=1, scored=passages * row, read=read * row * (question.num_beams or 1), brought=brought)


def total(works: Iterable[Work]) -> Work:
    """All of them together."""
    return sum(works, NOTHING)


# What parts of the time of one usual question (40 passages scored, 10 read, 4 beams) are: the batch itself, the
# question, scoring, reading. Only where the fit begins. They are of the model of 2026-11-27 on two cores; to measure
# them again, with one beam: `python -m benchmarks shares`.
_USUAL = Work(questions=1, scored=40 * 142.0, read=10 * 142.0 * 4)
_SHARES = (0.15, 0.20, 0.35, 0.30)


def _features(work: Work) -> tuple[float, float, float, float, float]:
    return 1.0, float(work.questions), work.scored / _THOUSAND, work.read / _THOUSAND, work.brought / _THOUSAND


_PRIOR = np.array([share / of for share, of in zip(_SHARES, _features(_USUAL)[:4], strict=True)] + [0.15])


class CostModel:
    """Predicts seconds of batches. Not for several threads at once, but for one that observes and others that ask.

    Without any batch seen, everything takes no time: nothing is known, and nobody is to be refused for it.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[tuple[float, ...], float]] = deque(maxlen=WINDOW)  # features, seconds
        self._ratios: deque[float] = deque(maxlen=WINDOW)  # of seconds to what was predicted
        self._coefficients = (0.0,) * len(_PRIOR)
        self._margin = 1.0

    @property
    def known(self) -> bool:
        """Whether any batch was seen."""
        return bool(self._seen)

    @property
    def per_batch(self) -> float:
        """Seconds that a batch takes whatever is in it."""
        return self._coefficients[0]

    @property
    def margin(self) -> float:
        """By what to multiply a prediction that is to hold nearly always; 1 or more."""
        return self._margin

    def seconds(self, work: Work, *, batches: float = 1.0) -> float:
        """The time of some work in so many batches; 0 as long as nothing is known."""
        _, questions, scored, read, brought = _features(work)
        a, b, c, d, e = self._coefficients
        return a * batches + b * questions + c * scored + d * read + e * brought

    def observe(self, work: Work, seconds: float) -> None:
        """Takes in that a batch took so long."""
        if work.questions < 1 or seconds <= 0:
            return
        if self.known:
            self._ratios.append(seconds / max(self.seconds(work), 1e-9))
        self._seen.append((_features(work), seconds))
        self._coefficients = _fitted(self._seen)
        self._margin = _margin(self._ratios)


def _fitted(seen: Sequence[tuple[tuple[float, ...], float]]) -> tuple[float, ...]:
    """Coefficients by least squares of relative errors, `(1 - predicted / seen)`: a batch that was held up, and took
    many times as long, weighs no more than one that was right. Pulled a little towards the usual proportions, so that
    what never differed between batches stays in proportion.
    """
    features = np.array([one for one, _ in seen])  # (N, 5)
    seconds = np.array([took for _, took in seen])  # (N,)
    scale = float(np.median(seconds / (features @ _PRIOR)))
    parts = features * (_PRIOR * scale) / seconds[:, None]  # (N, 5): shares of each batch's time
    pull = _PULL * np.eye(len(_PRIOR))
    factors = np.linalg.solve(parts.T @ parts + pull, parts.sum(0) + pull.sum(0))
    return tuple((_PRIOR * scale * factors.clip(0.05, 20.0)).tolist())


def _margin(ratios: Sequence[float]) -> float:
    if len(ratios) < MARGINS_KNOWN:
        return FIRST_MARGIN
    return float(min(MOST_MARGIN, max(1.0, np.quantile(ratios, MARGIN_QUANTILE))))


class Answers(Protocol):
    """The part of an engine that is timed."""

    def answer(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """One answer per question."""
        ...


def calibrate(
    costs: CostModel, engine: Answers, question: Question, *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Has a model see some batches: the question alone, with a quarter of its passages, and four times.

    Each is run twice, and only the second time is believed: the first one also pays for files not read and kernels not
    prepared yet.
    """
    few = replace(question, retrieve_k=max(1, question.retrieve_k // 4), keep_k=max(1, question.keep_k // 4))
    for batch in ([question], [few], [question] * 4):
        engine.answer(batch)
        began = clock()
        engine.answer(batch)
        costs.observe(total(map(work_of, batch)), clock() - began)
