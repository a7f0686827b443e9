"""What an evaluation says of confidence, and the calibration that is fitted to answers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memstore.answer import Answer, Question
from memstore.checkpoint import weights_mark
from memstore.checkpoint.files import CALIBRATION, read_calibration
from memstore.errors import CalibrationError, CheckpointNotFound, ConfigError, OutputUnwritable
from memstore.evaluate.calibrate import CalibrateOptions, calibrate
from memstore.evaluate.confidence import COVERAGE, RELIABILITY
from memstore.evaluate.outcome import NO_ANSWER
from memstore.evaluate.run import EvaluateOptions, evaluate
from tests import tiny
from tests.evaluate.evaluate_cases import SCRIPT, Scripted, answer, options, write_gold

SURE = {"longest river": 0.9, "who climbed Everest": 0.1, "king of Germany": 0.6, "capital of Egypt": 0.6}


class Sure(Scripted):
    """The script's answers, each with its confidence. "nile" and "Louis" are right."""

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        assert all(q.min_confidence == 0 for q in questions)  # what it would have said is scored too
        return [replace(one, confidence=SURE[q.text], calibrated=True)
                for q, one in zip(questions, super().answer(questions), strict=True)]  # fmt: skip


def test_confidences_are_held_against_what_was_right(tmp_path: Path) -> None:
    report = evaluate(options(tmp_path), answerer=Sure())
    found = report["tasks"]["rivers"]["confidence"]
    assert found == report["confidence"]  # the only task
    assert (found["metric"], found["answers"], found["calibrated"]) == ("em", 4, True)
    assert found["confidence"] == pytest.approx(0.55)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.1 + 2 * 0.1) / 4)
    assert found["precision"]["value"] == 0.5
    assert found["precision_at_half"]["value"] == 0.75  # one right, and one of two that are as sure
    assert found["gain_at_half"] == 1.5
    assert (found["answered"], found["coverage"], found["precision_of_answered"]) == (4, 1.0, 0.5)
    assert [(b["answers"], b["right"]) for b in found["reliability"]] == [(1, 0.0), (2, 0.5), (1, 1.0)]
    assert [x for x, _ in found["precision_curve"]] == [0.25, 0.5, 0.75, 1.0]


def test_what_is_not_sure_enough_counts_as_no_answer(tmp_path: Path) -> None:
    predictions = tmp_path / "out.jsonl"
    report = evaluate(options(tmp_path, min_confidence=0.7, predictions=predictions), answerer=Sure())
    task = report["tasks"]["rivers"]
    assert task["questions"] == 4
    assert task["groups"]["all"]["downstream"]["em"]["value"] == 0.25
    found = task["confidence"]
    assert (found["answered"], found["coverage"], found["precision_of_answered"]) == (1, 0.25, 1.0)
    assert found["precision"]["value"] == 0.5  # of what it would have said
    said = [json.loads(line)["output"][0]["answer"] for line in predictions.read_text().splitlines()]
    assert said == ["nile", NO_ANSWER, NO_ANSWER, NO_ANSWER]


def test_with_nothing_answered_there_is_no_precision(tmp_path: Path) -> None:
    found = evaluate(options(tmp_path, min_confidence=1.0), answerer=Sure())["confidence"]
    assert (found["answered"], found["precision_of_answered"]) == (0, None)


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    report = evaluate(options(tmp_path, plots=tmp_path / "plots"), answerer=Sure())
    assert report["plots"] == str(tmp_path / "plots")
    for name in (RELIABILITY, COVERAGE):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = Sure()
    with pytest.raises(OutputUnwritable):
        evaluate(options(tmp_path, plots=tmp_path / "file"), answerer=script)
    assert script.asked == []


def test_a_limit_is_a_probability(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="min_confidence must be from 0 to 1"):
        options(tmp_path, min_confidence=2)


# --- memstore calibrate ---------------------------------------------------------------------------------------


class Learnable:
    """Right where the first token is probable, mostly."""

    def __init__(self) -> None:
        self.model = tiny.model()

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer(q.text) for q in questions]

    def _answer(self, text: str) -> Answer:
        rng = random.Random(text)
        sure = rng.random()
        right = rng.random() < sure
        made = answer("Nile" if right else "lake", *SCRIPT["longest river"][1:])
        return replace(made, features={"first_token": sure, "tokens": 1.0}, confidence=sure)

    def info(self) -> dict[str, Any]:
        return {"model": {"name": "m", "trained": True, "tasks": []}, "store": {}}


def calibrating(folder: Path, *, tasks: int = 2, questions: int = 150, **changes: Any) -> CalibrateOptions:
    data = {}
    for task in range(tasks):
        rows = [(f"{i}", f"{task} {i}", ["Nile"], None) for i in range(questions)]
        data[f"t{task}"] = write_gold(folder / f"t{task}.jsonl", rows)
    asked = EvaluateOptions(store=folder / "store", data=data, retrieve_k=5, keep_k=2)
    return CalibrateOptions(asked=asked, out=tiny.save_checkpoint(folder / "model"), **changes)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_a_calibration_is_kept_in_the_checkpoint(tmp_path: Path, method: Any) -> None:
    answerer: Any = Learnable()
    report = calibrate(calibrating(tmp_path, method=method), answerer=answerer)
    assert report["calibration"] == str(tmp_path / "model" / CALIBRATION)
    assert report["by_questions"] == {"t0": 150, "t1": 150}
    assert list(report["weights"]) == ["first_token"]
    assert report["tasks"]["precision_at_half"] > 1.3 * report["precision"]
    assert json.loads(json.dumps(report)) == report
    kept = read_calibration(tmp_path / "model")
    assert kept is not None
    assert (kept.method, kept.weights, kept.metric) == (method, weights_mark(answerer.model), "em")
    assert kept.settings["keep_k"] == 2
    assert kept.confidence({"first_token": 0.9}) > 0.7 > 0.4 > kept.confidence({"first_token": 0.1})


def test_too_few_questions_leave_the_checkpoint_as_it_is(tmp_path: Path) -> None:
    answerer: Any = Learnable()
    with pytest.raises(CalibrationError, match="too few"):
        calibrate(calibrating(tmp_path, questions=5), answerer=answerer)
    assert read_calibration(tmp_path / "model") is None


def test_it_is_kept_in_a_checkpoint_or_nowhere(tmp_path: Path) -> None:
    answerer: Any = Learnable()
    chosen = replace(calibrating(tmp_path), out=tmp_path)
    with pytest.raises(CheckpointNotFound, match="no checkpoint"):
        calibrate(chosen, answerer=answerer)
