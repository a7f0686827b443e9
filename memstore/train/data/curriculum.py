"""Schedules of a curriculum: lists of `[batch, value]`, linear between them. Knows numbers only."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from memstore.errors import ConfigError

Points = tuple[tuple[float, ...], ...]


def at(points: Points, number: int) -> float:
    """The value of a schedule at a batch: linear between its points, constant before the first and after the last."""
    i = bisect_right([p[0] for p in points], number)
    if i == 0 or i == len(points):
        return points[max(0, i - 1)][1]
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 + (y1 - y0) * (number - x0) / (x1 - x0)


def check_points(name: str, points: Points, *, low: float, high: float) -> None:
    """Check a schedule.

    Raises:
        ConfigError: it has no points, a point is not two numbers, batches do not ascend, or a value is not between
            `low` and `high`.
    """
    if not points or any(len(p) != 2 for p in points):
        raise ConfigError(f"{name} must be a list of [batch, value], such as [[0, {low:g}]], not {points!r}")
    if any(a[0] >= b[0] for a, b in pairwise(points)):
        raise ConfigError(f"the batches of {name} must ascend: {points!r}")
    if bad := [p[1] for p in points if not low <= p[1] <= high]:
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, not {bad[0]:g}")
