"""Fitting a calibration to answers made up so that the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from memstore.confidence import curves
from memstore.confidence.calibration import Calibration, Method
from memstore.confidence.features import Features
from memstore.confidence.fit import fit, measured
from memstore.errors import CalibrationError


def made_up(
    answers: int, *, seed: int = 0
) -> tuple[list[Features], NDArray[np.float64], list[str], NDArray[np.float64]]:
    """Answers whose probability depends on two features: those, whether each is right, its task and probability."""
    rng = np.random.default_rng(seed)
    first, held = rng.normal(-1.0, 1.0, answers), (rng.random(answers) < 0.4).astype(float)
    truth = 1 / (1 + np.exp(-(0.2 + 1.5 * first + 2.0 * held)))
    right = (rng.random(answers) < truth).astype(float)
    found: list[Features] = [
        {"first_token": float(f), "held": float(h), "tokens": 0.0, "rerank_best": None}
        for f, h in zip(first, held, strict=True)
    ]
    return found, right, [("nq", "squad", "trex")[i % 3] for i in range(answers)], truth


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_the_truth_is_found(method: Method) -> None:
    found, right, tasks, _ = made_up(3000)
    made = fit(found, right, tasks, method=method)
    assert made.method == method
    assert set(made.features) == {"first_token", "held"}  # of the others nothing can be learned
    others, _, _, truth = made_up(2000, seed=1)
    said = np.array([made.confidence(one) for one in others])
    assert np.abs(said - truth).mean() < 0.04
    assert json.loads(json.dumps(Calibration.from_dict(made.to_dict()).to_dict())) == json.loads(
        json.dumps(made.to_dict())
    )


def test_a_fit_is_the_same_every_time() -> None:
    found, right, tasks, _ = made_up(200)
    assert fit(found, right, tasks, method="isotonic") == fit(found, right, tasks, method="isotonic")


def test_each_task_counts_as_much_as_another() -> None:
    """Nine easy questions of ten: a fit that counted questions would say 0.9 where nothing tells them apart."""
    found: list[Features] = [{"tokens": float(i % 2)} for i in range(400)]
    tasks = ["easy" if i >= 40 else "hard" for i in range(400)]
    right = np.array([float(task == "easy") for task in tasks])
    assert fit(found, right, tasks).confidence({"tokens": None}) == pytest.approx(0.5, abs=0.01)


def test_what_was_held_out_is_measured() -> None:
    found, right, tasks, _ = made_up(900)
    report = measured(found, right, tasks, method="logistic")
    assert report["answers"] == 900
    assert report["precision"] == pytest.approx(right.mean())
    assert set(report["by_task"]) == {"nq", "squad", "trex"}
    for figures in (report["questions"], report["tasks"]):
        assert figures["precision_at_half"] > 1.4 * report["precision"]
        assert figures["calibration_error"] < 0.06
    assert "tasks" not in measured(found, right, ["nq"] * 900, method="logistic")


def test_held_out_answers_are_not_fitted_to() -> None:
    """Features that name each answer fit anything; nothing is known of those left out, so nothing is gained there."""
    rng = np.random.default_rng(0)
    found: list[Features] = [{"first_token": float(x)} for x in rng.normal(size=300)]
    right = (rng.random(300) < 0.3).astype(float)
    report = measured(found, right, ["nq"] * 300, method="isotonic")
    assert report["questions"]["precision_at_half"] == pytest.approx(0.3, abs=0.08)
    said = np.array([fit(found, right, ["nq"] * 300).confidence(one) for one in found])
    assert curves.calibration_error(said, right) < 0.1


@pytest.mark.parametrize(
    ("answers", "right", "message"), [(19, 9, "19 questions are too few"), (50, 50, "are right"), (50, 1, "are wrong")]
)
def test_where_nothing_can_be_fitted_it_says_why(answers: int, right: int, message: str) -> None:
    found: list[Features] = [{"tokens": float(i)} for i in range(answers)]
    with pytest.raises(CalibrationError, match=message):
        fit(found, np.array([1.0] * right + [0.0] * (answers - right)), ["nq"] * answers)
