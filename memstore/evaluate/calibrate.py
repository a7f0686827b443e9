"""Fits the confidence of a model's answers to development questions: `memstore calibrate`.

    1. answer   files of questions, as a server would
    2. fit      the probability that an answer is right, from its features
    3. measure  the same on questions, and on whole tasks, that were left out of the fit
    4. keep     calibration.json in the checkpoint, beside the weights that it is for

What it is fitted to must not be what it is later measured on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from memstore.answer import Answerer
from memstore.checkpoint import weights_mark
from memstore.checkpoint.files import CALIBRATION, CONFIG, write_calibration
from memstore.checkpoint.loading import name_of, resolve
from memstore.confidence.calibration import Calibration, Method
from memstore.confidence.fit import fit, measured
from memstore.errors import CheckpointNotFound
from memstore.evaluate.confidence import METRIC
from memstore.evaluate.outcome import Outcome
from memstore.evaluate.run import EvaluateOptions, QuestionProgress, answered
from memstore.files import check_outputs
from memstore.questions.metrics import exact_match
from memstore.store import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """What to fit, and how.

    Attributes:
        asked: the questions and how they are answered; its outputs are of no use here.
        method: "logistic", or "isotonic", which needs thousands of questions.
        out: folder of the checkpoint to keep the calibration in; the model's own by default.
    """

    asked: EvaluateOptions
    method: Method = "logistic"
    out: Path | None = None


def calibrate(
    options: CalibrateOptions, *, progress: QuestionProgress | None = None, answerer: Answerer | None = None
) -> dict[str, Any]:
    """Fit a calibration and keep it in the checkpoint.

    Args:
        options: what to fit.
        progress: gets the number of questions answered.
        answerer: answers instead of the options' store and model.

    Returns:
        `model`, `calibration` (the file), `weights` (what each feature counts, standardised) and the keys of
        `memstore.confidence.fit.measured`, as plain values for JSON.

    Raises:
        CalibrationError: the answers are too few, or all right, or all wrong.
        DataNotFound, DataUnreadable, DataError: a file of questions cannot be used.
        ImportError: scikit-learn is not installed.
        OutputUnwritable: the checkpoint's folder cannot be written.
        StoreNotFound, CheckpointNotFound, FingerprintMismatch: see `Answerer.open`.
    """
    if find_spec("sklearn") is None:  # to be missed before the work
        raise ImportError("fitting a calibration needs scikit-learn: pip install '.[calibrate]' in memstore's folder")
    asked = options.asked
    folder = options.out or resolve(name_of(open_store(asked.store), asked.model))
    if not (folder / CONFIG).is_file():
        raise CheckpointNotFound(f"{folder} is no checkpoint to keep a calibration in: it has no {CONFIG}")
    check_outputs([folder / CALIBRATION], inputs=asked.data.values())
    answerer = answerer or Answerer.open(asked.store, model=asked.model, device=asked.device, calibrated=False)
    outcomes = answered(asked, answerer, progress=progress)
    made = replace(calibration_of_outcomes(outcomes, method=options.method), weights=weights_mark(answerer.model))
    made = replace(made, settings=_settings(asked))
    write_calibration(folder, made)
    return {
        "model": answerer.info()["model"],
        "calibration": str(folder / CALIBRATION),
        "method": made.method,
        "metric": METRIC,
        "by_questions": dict(made.questions),
        "weights": {name: one.weight for name, one in made.features.items()},
        **made.measured,
    }


def calibration_of_outcomes(outcomes: Mapping[str, Sequence[Outcome]], *, method: Method) -> Calibration:
    """The calibration fitted to outcomes, by task, with its figures on questions and tasks that were left out."""
    pairs = [(task, one) for task, own in outcomes.items() for one in own]
    found, tasks = [one.features for _, one in pairs], [task for task, _ in pairs]
    right = np.array([exact_match(one.guess, one.question.answers) for _, one in pairs], dtype=np.float64)
    made = fit(found, right, tasks, method=method)
    questions = {task: len(own) for task, own in outcomes.items()}
    return replace(made, metric=METRIC, questions=questions, measured=measured(found, right, tasks, method=method))


def _settings(asked: EvaluateOptions) -> dict[str, Any]:
    limits = {name: getattr(asked, name) for name in ("keep_mass", "max_gflop") if getattr(asked, name) is not None}
    return limits | {name: getattr(asked, name) for name in ("retrieve_k", "keep_k", "max_new_tokens", "num_beams")}
