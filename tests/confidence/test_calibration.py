"""Applying a calibration, and reading it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from memstore.confidence import Calibration, plain
from memstore.confidence.calibration import Feature
from memstore.errors import ConfigError

TOKENS = Feature(mean=2.0, scale=0.5, low=1.0, high=3.0, weight=-1.5)
HELD = Feature(mean=0.5, scale=0.5, low=0.0, high=1.0, weight=2.0)
MADE = Calibration(
    method="logistic", features={"tokens": TOKENS, "held": HELD}, bias=0.25, weights="f00d", questions={"nq": 30},
    settings={"keep_k": 10}, measured={"questions": {"calibration_error": 0.125}},
)  # fmt: skip


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("found", "total"),
    [
        ({"tokens": 2.0, "held": 0.5}, 0.25),
        ({"tokens": 2.5, "held": 1.0}, 0.25 - 1.5 + 2.0),
        ({"tokens": 99.0, "held": 0.5}, 0.25 - 3.0),  # no further than what was seen
        ({"tokens": -99.0, "held": 0.5}, 0.25 + 3.0),
        ({"tokens": None, "held": 1.0}, 0.25 + 2.0),  # what is missing counts as the mean
        ({"tokens": math.nan}, 0.25),
    ],
)
def test_the_probability_by_hand(found: dict[str, float | None], total: float) -> None:
    assert MADE.confidence(found) == pytest.approx(logistic(total))


def test_a_curve_corrects_the_probability() -> None:
    made = Calibration(method="isotonic", features={"tokens": TOKENS}, bias=0.0, curve=((0.25, 0.0), (0.75, 0.4)))
    assert made.confidence({"tokens": 2.0}) == pytest.approx(0.2)  # half way
    assert made.confidence({"tokens": 3.0}) == 0.0  # below the first point
    assert made.confidence({"tokens": 1.0}) == 0.4


def test_it_comes_back_from_json() -> None:
    made = Calibration(**{**_fields(MADE), "curve": ((0.0, 0.125), (1.0, 0.5))})
    back = Calibration.from_dict(json.loads(json.dumps(made.to_dict())))
    assert back == made
    assert back.confidence({"tokens": 1.5}) == made.confidence({"tokens": 1.5})


def _fields(made: Calibration) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2"),
        ({"features": {"juggling": MADE.to_dict()["features"]["held"]}}, "'juggling'"),
        ({"features": {"held": {"mean": 0.0}}}, "no calibration"),
        ({"features": {"held": MADE.to_dict()["features"]["held"] | {"scale": 0.0}}}, "scale of 'held'"),
        ({"bias": math.nan}, "finite"),
        ({"bias": "high"}, "finite"),
        ({"curve": [[0.5, 0.1], [0.25, 0.2]]}, "ascend"),
        ({"curve": [[0.5, 1.5]]}, "probabilities"),
        ({"curve": 3}, "no calibration"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_is_no_calibration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration.from_dict(MADE.to_dict() | change)


def test_the_summary_says_how_well_it_does_where_it_was_not_fitted() -> None:
    assert MADE.summary() == {
        "method": "logistic", "metric": "em", "questions": {"nq": 30}, "calibration_error": 0.125
    }  # fmt: skip


@pytest.mark.parametrize(("score", "confidence"), [(0.0, 1.0), (math.log(0.25), 0.25), (1e-6, 1.0), (-math.inf, 0.0)])
def test_without_a_calibration_it_is_the_models_own_probability(score: float, confidence: float) -> None:
    assert plain(score) == pytest.approx(confidence)
