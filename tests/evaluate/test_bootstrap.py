"""Intervals: known widths, known degenerate cases, and the plain twin of the fast path."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.evaluate import bootstrap
from memstore.evaluate.bootstrap import Estimate, estimates

VALUES = np.random.default_rng(7).random((53, 3))


def test_equals_the_plain_way() -> None:
    generator = np.random.default_rng(5)
    means = np.stack([VALUES[generator.integers(53, size=53)].mean(axis=0) for _ in range(200)])
    low, high = np.quantile(means, [0.05, 0.95], axis=0)
    for column, estimate in enumerate(estimates(VALUES, resamples=200, confidence=0.9, seed=5)):
        assert estimate.value == pytest.approx(VALUES[:, column].mean(), abs=1e-12)
        assert (estimate.low, estimate.high) == pytest.approx((low[column], high[column]), abs=1e-12)


def test_memory_bound_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimates(VALUES, resamples=101)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_A_TIME", 1000)
    for one, other in zip(whole, estimates(VALUES, resamples=101), strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-12)


def test_same_input_same_interval() -> None:
    for one, other in zip(estimates(VALUES), estimates(VALUES.copy()), strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-12)


def test_the_width_is_the_theoretical_one() -> None:
    """120 right of 400: the mean is near normal, with standard error sqrt(0.3 * 0.7 / 400)."""
    [estimate] = estimates(np.repeat([1.0, 0.0], [120, 280])[:, None])
    error = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert estimate.value == pytest.approx(0.3)
    assert (estimate.low, estimate.high) == pytest.approx((0.3 - error, 0.3 + error), abs=0.005)


def test_an_interval_holds_its_mean_in_spite_of_rounding() -> None:
    """The mean of seven scores of 0.1 depends on the order of the sum: two ways differ by 1e-17."""
    for score in (0.1, 0.3, 0.7):
        for questions in range(1, 40):
            [found] = estimates(np.full((questions, 1), score), resamples=20)
            assert found.low <= found.value <= found.high
            assert (found.low, found.high) == pytest.approx((score, score), abs=1e-12)


@pytest.mark.parametrize("values", [[0.25], [1.0, 1.0, 1.0], [0.0, 0.0]])
def test_no_spread_no_width(values: list[float]) -> None:
    assert estimates(np.array(values)[:, None]) == [Estimate(values[0], values[0], values[0])]
