"""The probability that an answer is right, from its features: a logistic function, and a curve that corrects it.

It is fitted by `fit.py` and kept in a checkpoint's `calibration.json`. Applying it needs numpy alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from memstore.confidence.features import FEATURES, Features
from memstore.errors import ConfigError

FORMAT = 1
Method = Literal["logistic", "isotonic"]


def plain(score: float) -> float:
    """The confidence in an answer of a model without a calibration: the probability that the model itself gives to
    exactly this answer, the exponential of its log-probability.
    """
    return math.exp(min(0.0, score))


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """How one feature counts. `mean` and `scale` make it a standard one, `low` and `high` are what was seen in fitting:
    values beyond them count as these, as nothing is known of what is there.
    """

    mean: float
    scale: float
    low: float
    high: float
    weight: float

    def part(self, value: float | None) -> float:
        """What a value adds to the sum; None counts as the mean."""
        if value is None or math.isnan(value):
            return 0.0
        return self.weight * (min(max(value, self.low), self.high) - self.mean) / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `memstore calibrate` fitted.

    Attributes:
        method: "isotonic" where `curve` corrects the logistic function's probability, else "logistic".
        features: by name.
        bias: added to the features' parts.
        curve: points `(probability before, probability after)`, ascending; empty for "logistic".
        weights: mark of the model that it was fitted for; it means nothing for another.
        metric: what counts as right.
        questions: how many, by task.
        settings: how they were answered.
        measured: figures of questions that were held out, as `memstore calibrate` printed them.
    """

    method: Method
    features: Mapping[str, Feature]
    bias: float
    curve: tuple[tuple[float, float], ...] = ()
    weights: str = ""
    metric: str = "em"
    questions: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def confidence(self, features: Features) -> float:
        """The probability that an answer of these features is right."""
        total = self.bias + sum(one.part(features.get(name)) for name, one in self.features.items())
        probability = 1 / (1 + math.exp(-min(max(total, -30.0), 30.0)))
        if not self.curve:
            return probability
        before, after = zip(*self.curve, strict=True)
        return float(np.interp(probability, before, after))

    def summary(self) -> dict[str, Any]:
        """What a server reports of it: what it was fitted to, and how well it did where it was not fitted."""
        held_out = self.measured.get("tasks") or self.measured.get("questions") or {}
        return {
            "method": self.method,
            "metric": self.metric,
            "questions": dict(self.questions),
            "calibration_error": held_out.get("calibration_error"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT} | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: another format, or a key or a value that is none of ours.
        """
        given = dict(values)
        if given.pop("format", None) != FORMAT:
            raise ConfigError(f"format is {values.get('format')!r}, not {FORMAT}: fit it again with this release")
        try:
            given["features"] = {name: Feature(**one) for name, one in given["features"].items()}
            given["curve"] = tuple((float(x), float(y)) for x, y in given.get("curve", ()))
            made = cls(**given)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"it is no calibration ({error})") from None
        made._check()
        return made

    def _check(self) -> None:
        if unknown := sorted(set(self.features) - set(FEATURES)):
            raise ConfigError(f"it has the feature {unknown[0]!r}, which this release does not know: fit it again")
        numbers = [self.bias, *(x for pair in self.curve for x in pair)]
        for name, one in self.features.items():
            values = dataclasses.astuple(one)
            numbers += values
            if all(isinstance(v, int | float) for v in values) and not one.scale > 0:
                raise ConfigError(f"the scale of {name!r} must be above 0, not {one.scale}")
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise ConfigError("its numbers must be finite")
        if not all(0 <= y <= 1 for _, y in self.curve) or [x for x, _ in self.curve] != sorted(
            x for x, _ in self.curve
        ):
            raise ConfigError("its curve must ascend, and end in probabilities")
