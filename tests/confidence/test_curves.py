"""Reliability, calibration error, and precision against coverage, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.confidence import curves

SAID = np.array([0.95, 0.9, 0.6, 0.55, 0.1])
RIGHT = np.array([1.0, 1.0, 0.0, 1.0, 0.0])


def test_bins_have_their_means() -> None:
    low, middle, high = curves.reliability(SAID, RIGHT, bins=3)
    assert (low.answers, low.confidence, low.right) == (1, 0.1, 0.0)
    assert (middle.low, middle.high, middle.answers) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 2)
    assert (middle.confidence, middle.right) == (pytest.approx(0.575), 0.5)
    assert (high.answers, high.confidence, high.right) == (2, pytest.approx(0.925), 1.0)


def test_the_calibration_error_weighs_bins_by_their_answers() -> None:
    assert curves.calibration_error(SAID, RIGHT, bins=3) == pytest.approx((0.1 + 2 * 0.075 + 2 * 0.075) / 5)


def test_certainty_is_in_the_last_bin() -> None:
    assert curves.calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0


def test_the_surest_answers_come_first() -> None:
    coverage, precision = curves.precision_curve(SAID[::-1], RIGHT[::-1])
    assert coverage.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])
    assert curves.precision_at(SAID, RIGHT, 0.5) == pytest.approx(2 / 3)  # three of five answers
    assert curves.risk_area(SAID, RIGHT) == pytest.approx(1 - (1 + 1 + 2 / 3 + 3 / 4 + 3 / 5) / 5)


def test_the_order_of_equal_confidences_does_not_matter() -> None:
    said, right = np.full(4, 0.5), np.array([1.0, 0.0, 0.0, 0.0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert curves.precision_curve(said, right[order])[1].tolist() == [0.25] * 4
