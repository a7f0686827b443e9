"""Fits a calibration to answers known to be right or wrong, and says how well it does where it was not fitted.

Logistic regression by scikit-learn, on standard features; "isotonic" corrects its probabilities by a monotone curve.
Each task counts as much as any other, whatever its number of questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memstore.confidence.calibration import Calibration, Feature, Method
from memstore.confidence.curves import calibration_error, precision_at
from memstore.confidence.features import FEATURES, Features
from memstore.errors import CalibrationError

Values = NDArray[np.float64]
FOLDS = 5
_STRENGTH = 1.0  # of the penalty on weights, scikit-learn's default
_LEAST = 20  # questions


def fit(found: Sequence[Features], right: Values, tasks: Sequence[str], *, method: Method = "logistic") -> Calibration:
    """The calibration of n answers.

    Args:
        found: features of each.
        right: `(n,)`, 1 where the answer was right, else 0.
        tasks: the task of each.
        method: see `Calibration`.

    Raises:
        CalibrationError: there are too few answers, or all are right, or all wrong.
        ImportError: scikit-learn is not installed.
    """
    require_enough(right)
    table = _table(found)
    used = {name: column for name, column in table.items() if len(np.unique(column[~np.isnan(column)])) > 1}
    scaled, parts = _standard(used)
    weights, bias = _logistic(scaled, right, _balance(tasks))
    features = {name: Feature(**part, weight=float(w)) for (name, part), w in zip(parts.items(), weights, strict=True)}
    made = Calibration(method="logistic", features=features, bias=bias)
    if method == "logistic":
        return made
    apart = held_out(found, right, tasks, folds=_folds(len(right)))  # of answers that the function was not fitted to
    return Calibration(method=method, features=features, bias=bias, curve=_curve(apart, right, _balance(tasks)))


def require_enough(right: Values) -> None:
    """Raises CalibrationError unless something can be fitted to these answers."""
    if len(right) < _LEAST:
        raise CalibrationError(
            f"{len(right)} questions are too few to calibrate with: give at least {_LEAST}, better 1,000"
        )
    wrong = int(len(right) - right.sum())
    if min(wrong, len(right) - wrong) < 2:
        kind = "right" if wrong < 2 else "wrong"
        raise CalibrationError(f"nearly all of the {len(right)} answers are {kind}, so nothing tells them apart")


def held_out(
    found: Sequence[Features],
    right: Values,
    tasks: Sequence[str],
    *,
    folds: NDArray[np.int64],
    method: Method = "logistic",
) -> Values:
    """Each answer's confidence `(n,)` by a calibration fitted without its fold; NaN where the others are too few."""
    said = np.full(len(right), np.nan)
    for fold in np.unique(folds):
        out = folds == fold
        rest = [i for i, apart in enumerate(out.tolist()) if not apart]
        try:
            made = fit([found[i] for i in rest], right[~out], [tasks[i] for i in rest], method=method)
        except CalibrationError:
            continue
        said[out] = [made.confidence(one) for one, apart in zip(found, out.tolist(), strict=True) if apart]
    return said


def measured(found: Sequence[Features], right: Values, tasks: Sequence[str], *, method: Method) -> dict[str, Any]:
    """How well such a calibration does on answers that it was not fitted to: `questions` of the same tasks, and, where
    there are several, whole `tasks` that were left out.
    """
    names = np.asarray(tasks)
    report: dict[str, Any] = {"answers": len(right), "precision": float(right.mean())}
    said = held_out(found, right, tasks, folds=_folds(len(right)), method=method)
    report["questions"] = figures(said, right)
    kinds = np.unique(names)
    if len(kinds) > 1:
        said = held_out(found, right, tasks, folds=np.searchsorted(kinds, names), method=method)
        report["tasks"] = figures(said, right)
        report["by_task"] = {str(kind): figures(said[names == kind], right[names == kind]) for kind in kinds}
    return report


def figures(said: Values, right: Values) -> dict[str, float | None]:
    """Expected calibration error, and precision at two coverages; None where nothing was said."""
    known = ~np.isnan(said)
    if not known.any():
        return {"calibration_error": None, "precision": None, "precision_at_half": None}
    said, right = said[known], right[known]
    return {
        "calibration_error": calibration_error(said, right),
        "precision": float(right.mean()),
        "precision_at_half": precision_at(said, right, 0.5),
    }


def _folds(answers: int) -> NDArray[np.int64]:
    """A fold of each answer, the same ones every time."""
    return np.random.default_rng(0).permutation(np.arange(answers) % FOLDS)


def _table(found: Sequence[Features]) -> dict[str, Values]:
    return {
        name: np.array([np.nan if (value := one.get(name)) is None else value for one in found], dtype=np.float64)
        for name in FEATURES
    }


def _standard(table: dict[str, Values]) -> tuple[Values, dict[str, dict[str, float]]]:
    """Columns with mean 0 and deviation 1, `(n, features)`, and how each was made so. What is missing is the mean."""
    columns, parts = [], {}
    for name, values in table.items():
        low, high = np.nanquantile(values, [0.005, 0.995])  # so that no single answer sets the scale
        if low == high:
            low, high = np.nanmin(values), np.nanmax(values)
        clipped = np.clip(values, low, high)
        mean, scale = float(np.nanmean(clipped)), float(np.nanstd(clipped))
        parts[name] = {"mean": mean, "scale": scale, "low": float(low), "high": float(high)}
        columns.append(np.nan_to_num((clipped - mean) / scale, nan=0.0))
    return np.stack(columns, axis=1), parts


def _balance(tasks: Sequence[str]) -> Values:
    """A weight of each answer: all tasks weigh the same together, all answers one each on average."""
    kinds, place, count = np.unique(np.asarray(tasks), return_inverse=True, return_counts=True)
    weights: Values = len(tasks) / len(kinds) / count[place]
    return weights


def _logistic(x: Values, y: Values, weights: Values) -> tuple[Values, float]:
    from sklearn.linear_model import LogisticRegression  # slow to import; only fitting needs it

    made = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(x, y.astype(np.int64), sample_weight=weights)
    return made.coef_[0], float(made.intercept_[0])


def _curve(said: Values, right: Values, weights: Values) -> tuple[tuple[float, float], ...]:
    from sklearn.isotonic import IsotonicRegression

    known = ~np.isnan(said)
    made = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    made.fit(said[known], right[known], sample_weight=weights[known])
    return tuple(zip(map(float, made.X_thresholds_), map(float, made.y_thresholds_), strict=True))
