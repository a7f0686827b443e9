"""How well a model knows when it does not know: its confidences against which of its answers are right.

Every figure is of all questions, those that were not answered included, by what the model would have said. An answer is
right if exact match says so. Knows no model and no file but the plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memstore.confidence import curves
from memstore.evaluate.bootstrap import estimates
from memstore.evaluate.outcome import Outcome
from memstore.files import naming_refusals, writing_whole
from memstore.questions.metrics import exact_match

METRIC = "em"
RELIABILITY, COVERAGE = "reliability.png", "precision-coverage.png"
_POINTS = 101  # of a curve


def confidence_figures(outcomes: Sequence[Outcome], *, min_confidence: float = 0.0) -> dict[str, Any]:
    """Plain values for JSON.

    Returns:
        `metric`, by which answers are right; `answers`, how many; `calibrated`; `confidence`, the mean;
        `calibration_error` over bins of equal width; `precision` of all answers and `precision_at_half` of the surest
        half, with intervals, and `gain_at_half`, their ratio (None where nothing is right); `risk_area`; what
        `min_confidence` does: `answered`, `coverage` and `precision_of_answered`; and the curves: `reliability`, by
        bin, and `precision_curve`, pairs of coverage and precision.
    """
    said = np.array([one.confidence for one in outcomes], dtype=np.float64)
    right = np.array([exact_match(one.guess, one.question.answers) for one in outcomes], dtype=np.float64)
    coverage, precision = curves.precision_curve(said, right)
    surest = np.argsort(-said, kind="stable")[: (len(said) + 1) // 2]
    [everything], [half] = estimates(right[:, None]), estimates(right[surest, None])
    at_half = curves.precision_at(said, right, 0.5)
    answered = said >= min_confidence
    points = np.unique(np.linspace(0, len(said) - 1, min(len(said), _POINTS)).round().astype(np.int64))
    return {
        "metric": METRIC,
        "answers": len(outcomes),
        "calibrated": all(one.calibrated for one in outcomes),
        "confidence": float(said.mean()),
        "calibration_error": curves.calibration_error(said, right),
        "bins": curves.BINS,
        "precision": asdict(everything),
        "precision_at_half": asdict(half) | {"value": at_half},
        "gain_at_half": at_half / everything.value if everything.value else None,
        "risk_area": curves.risk_area(said, right),
        "min_confidence": min_confidence,
        "answered": int(answered.sum()),
        "coverage": float(answered.mean()),
        "precision_of_answered": float(right[answered].mean()) if answered.any() else None,
        "reliability": [asdict(one) for one in curves.reliability(said, right)],
        "precision_curve": [[float(coverage[at]), float(precision[at])] for at in points],
    }


def draw(figures: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw the reliability diagram and the precision at each coverage, a line for each name, as PNGs.

    Args:
        figures: by task, as `confidence_figures` gives them.
        folder: made if it is not there.

    Raises:
        OutputUnwritable: the system refuses to write them.
    """
    from matplotlib.figure import Figure  # slow to import; not pyplot, which has global state

    drawn = []
    for name, lines in ((RELIABILITY, _reliability), (COVERAGE, _coverage)):
        figure = Figure(figsize=(6.5, 5), layout="constrained")
        axes = figure.subplots()
        lines(axes, figures)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.grid(visible=True, alpha=0.2)
        axes.legend(fontsize="small", frameon=False)
        with naming_refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with writing_whole(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
        drawn.append(folder / name)
    return drawn


def _reliability(axes: Any, figures: Mapping[str, Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--", label="as it should be")
    for name, found in figures.items():
        bins = found["reliability"]
        share: NDArray[np.float64] = np.array([one["answers"] for one in bins]) / found["answers"]
        x, y = [one["confidence"] for one in bins], [one["right"] for one in bins]
        [line] = axes.plot(x, y, lw=1.5, label=f"{name}: error {found['calibration_error']:.3f}")
        axes.scatter(x, y, s=10 + 300 * share, color=line.get_color(), alpha=0.6)  # larger for more answers
    axes.set(xlabel="confidence", ylabel=f"share of right answers ({METRIC})")


def _coverage(axes: Any, figures: Mapping[str, Mapping[str, Any]]) -> None:
    for name, found in figures.items():
        label = f"{name}: {found['precision']['value']:.2f}, half {found['precision_at_half']['value']:.2f}"
        axes.plot(*zip(*found["precision_curve"], strict=True), lw=1.5, label=label)
    axes.set(xlabel="coverage: share of questions answered, surest first", ylabel=f"precision ({METRIC})")
