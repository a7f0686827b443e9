"""Percentile bootstrap intervals of means over questions. Knows numbers, no metric by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000  # 50 of them then lie beyond each end of a 95% interval
SEED = 20230618
_DRAWS_AT_A_TIME = 2**22  # limits memory: 32 MB of row numbers, and as much again of counts


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def estimates(
    values: NDArray[np.float64], *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = SEED
) -> list[Estimate]:
    """Means of the columns, each with its interval, from questions drawn with replacement.

    All columns share the draws, and equal input gives equal output. The intervals are too narrow where there are few
    questions (say, under 30) or where almost all have the same score: 20 right answers of 20 give [1, 1].

    Args:
        values: `(questions, metrics)`; at least one question.
        resamples: how often to draw.
        confidence: the share of resampled means within the interval. Of the rest, half lies below it, half above.
        seed: of the draws.
    """
    means = values.mean(axis=0)
    return intervals(means, resampled_means(values, resamples=resamples, seed=seed), confidence=confidence)


def intervals(
    means: NDArray[np.float64], drawn: NDArray[np.float64], *, confidence: float = CONFIDENCE
) -> list[Estimate]:
    """Each of the means `(metrics,)` with its interval: percentiles of resampled means `(resamples, metrics)`.

    An interval always holds its mean. Without that rule, rounding could leave it out where all draws are equal.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    ends = (means, np.minimum(low, means), np.maximum(high, means))
    return [Estimate(*map(float, row)) for row in zip(*ends, strict=True)]


def resampled_means(values: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """The columns' means in each resample, `(resamples, metrics)`."""
    rows = len(values)
    generator = np.random.default_rng(seed)
    at_a_time = max(1, _DRAWS_AT_A_TIME // rows)
    means = []
    for start in range(0, resamples, at_a_time):
        count = min(at_a_time, resamples - start)
        # Row i of resample r is counted as r * rows + i, so that one bincount serves all resamples. The counts times
        # the values are the sums: no copy of the drawn rows is made.
        drawn = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        means.append(times_drawn @ values / rows)
    return np.concatenate(means)
