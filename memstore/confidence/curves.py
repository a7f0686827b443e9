"""How well confidences hold: reliability, expected calibration error, and precision against coverage. Numbers alone.

Everywhere `confidence` and `right` are `(n,)`: what was said of n answers, and whether each was right, 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of nearly the same confidence: how many, the mean of what was said, and the share that was right."""

    low: float
    high: float
    answers: int
    confidence: float
    right: float


def reliability(confidence: Values, right: Values, *, bins: int = BINS) -> list[Bin]:
    """The answers in bins of equal width, lowest first, without empty ones.

    >>> [(b.answers, b.right) for b in reliability(np.array([0.1, 0.9, 0.95]), np.array([0.0, 1.0, 0.0]), bins=2)]
    [(1, 0.0), (2, 0.5)]
    """
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    made = []
    for at in np.unique(place):
        chosen = place == at
        said, was = float(confidence[chosen].mean()), float(right[chosen].mean())
        made.append(Bin(float(at / bins), float((at + 1) / bins), int(chosen.sum()), said, was))
    return made


def calibration_error(confidence: Values, right: Values, *, bins: int = BINS) -> float:
    """Expected calibration error (arXiv 1706.04599, section 2): the mean, over answers, of how far a bin's confidence
    is from its share of right answers. Bins of equal width; with few answers the error of chance alone is not small.
    """
    found = reliability(confidence, right, bins=bins)
    return sum(b.answers * abs(b.confidence - b.right) for b in found) / max(1, len(confidence))


def precision_curve(confidence: Values, right: Values) -> tuple[Values, Values]:
    """Coverages and precisions, `(n,)` each: of the surest k answers of n, for k from 1. Answers of equal confidence
    count with their mean, since which of them comes first means nothing.

    >>> precision_curve(np.array([0.2, 0.9, 0.2, 0.8]), np.array([1.0, 1.0, 0.0, 0.0]))[1].tolist()
    [1.0, 0.5, 0.5, 0.5]
    """
    order = np.argsort(-confidence, kind="stable")
    said, was = confidence[order], right[order].astype(np.float64)
    _, group = np.unique(-said, return_inverse=True)
    was = (np.bincount(group, weights=was) / np.bincount(group))[group]
    count = np.arange(1, len(was) + 1)
    return count / max(1, len(was)), was.cumsum() / count


def precision_at(confidence: Values, right: Values, coverage: float) -> float:
    """Precision of the surest answers that make up a share of all, rounded up to whole answers."""
    _, precision = precision_curve(confidence, right)
    return float(precision[max(1, int(np.ceil(coverage * len(precision)))) - 1])


def risk_area(confidence: Values, right: Values) -> float:
    """The mean over all coverages of the share of wrong answers (AURC, arXiv 1805.08206); lower is better."""
    return float(1 - precision_curve(confidence, right)[1].mean())
