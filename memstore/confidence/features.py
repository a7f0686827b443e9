"""What shows how sure one may be of an answer: numbers of the reader, of the reranker, and of both together.

All are made to mean the same for any task, number of passages and length, since what is fitted on some questions is
used for others. One that cannot be had of an answer is None, such as a rerank score where nothing was reranked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = dict[str, float | None]

FEATURES = {
    "log_probability": "sum of the answer tokens' log-probabilities",
    "token_log_probability": "their mean",
    "least_token": "the least of them",
    "first_token": "that of the first token",
    "lead": "log-probability less that of the second best answer; beam search only",
    "tokens": "logarithm of the number of tokens",
    "rerank_best": "the best passage's rerank score",
    "rerank_gap": "that less the second best's",
    "rerank_entropy": "of the softmax over the retrieved passages' scores, 1 where all are equal",
    "retrieval_place": "logarithm of the best passage's place in retrieval",
    "retrieval_gap": "the best retrieval score less the second best, as a share of the best",
    "verdict": "whether the answer is a verdict, such as SUPPORTS, that no passage could hold",
    "held": "whether a passage that was read holds the answer; not of a verdict, nor the next two",
    "held_mass": "softmax share of the passages that hold it, among those read",
    "held_best": "whether the best passage holds it",
    "question_words": "share of the question's words in the best passage that holds the answer, or in the best one",
}
"""Names of the features, in order, and what each is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of an answer.

    Attributes:
        log_probs: of the answer's tokens, its end included where it came.
        runner_up: log-probability of the second best answer; None where only one was looked for.
        scores: rerank scores of the retrieved passages, best first; empty where nothing was reranked.
        places: their places in retrieval, from 1; empty where nothing was retrieved.
        retrieval_scores: the same order.
        held: of each passage that was read, best first, whether it holds the answer.
        verdict: whether the answer is one that no passage could hold.
        question_words: see `FEATURES`; 0 where nothing was read.
    """

    log_probs: Sequence[float]
    runner_up: float | None = None
    scores: Sequence[float] = ()
    places: Sequence[int] = ()
    retrieval_scores: Sequence[float] = ()
    held: Sequence[bool] = ()
    verdict: bool = False
    question_words: float = 0.0


def features(found: Evidence) -> Features:
    """The features of an answer, in the order of `FEATURES`."""
    steps = [max(p, _LEAST) for p in found.log_probs] or [0.0]
    total = sum(steps)
    shares = softmax(found.scores[: len(found.held)]) if found.scores else None
    values: Features = {
        "log_probability": total,
        "token_log_probability": total / len(steps),
        "least_token": min(steps),
        "first_token": steps[0],
        "lead": None if found.runner_up is None else min(_MOST, total - max(found.runner_up, total - _MOST)),
        "tokens": math.log(len(steps)),
        **_of_ranking(found),
        "verdict": float(found.verdict),
        "held": None if found.verdict else float(any(found.held)),
        "held_mass": None if found.verdict else _mass(found.held, shares),
        "held_best": None if found.verdict else float(bool(found.held) and found.held[0]),
        "question_words": found.question_words,
    }
    assert list(values) == list(FEATURES)
    return values


_LEAST, _MOST = -30.0, 30.0  # a bound on log-probabilities, which may be minus infinity


def _of_ranking(found: Evidence) -> Features:
    scores, places = found.scores, found.places
    by_score = sorted(found.retrieval_scores, reverse=True)
    gap = None
    if len(by_score) > 1 and by_score[0] > 0:
        gap = (by_score[0] - by_score[1]) / by_score[0]
    return {
        "rerank_best": scores[0] if scores else None,
        "rerank_gap": scores[0] - scores[1] if len(scores) > 1 else None,
        "rerank_entropy": _entropy(softmax(scores)) if len(scores) > 1 else None,
        "retrieval_place": math.log(places[0]) if places else None,
        "retrieval_gap": gap,
    }


def _mass(held: Sequence[bool], shares: NDArray[np.float64] | None) -> float:
    if not held:
        return 0.0
    if shares is None or len(shares) != len(held):
        return sum(held) / len(held)
    return float(shares @ np.asarray(held, dtype=np.float64))


def _entropy(shares: NDArray[np.float64]) -> float:
    """Of a distribution `(n,)`, as a share of the most that n can have."""
    return float(-(shares * np.log(np.clip(shares, 1e-12, None))).sum() / math.log(len(shares)))


def softmax(scores: Sequence[float]) -> NDArray[np.float64]:
    """Shares `(n,)` of n scores."""
    values = np.asarray(scores, dtype=np.float64)
    raised = np.exp(values - values.max())
    shares: NDArray[np.float64] = raised / raised.sum()
    return shares
