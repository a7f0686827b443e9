"""How often each task is drawn, and which of a question's answers is trained on. Knows only numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memstore.errors import ConfigError
from memstore.train.data.settings import AnswerChoice


def mixture(counts: Mapping[str, int], *, weights: Mapping[str, float] | float | None = None) -> dict[str, float]:
    """The probability of each task: shares that sum to 1, in the order of `counts`.

    Args:
        counts: questions of each task, by name. A task without questions has share 0.
        weights: None: all tasks equal. A number is a temperature T, `p ~ n ** (1 / T)`: 1 is by size, infinity equal. A
            mapping gives the weights; a task that is not in it has weight 0.

    Raises:
        ConfigError: a weight is not a finite number of at least 0, or of an unknown task; the temperature is not above
            0; or nothing is left to draw.
    """
    if isinstance(weights, Mapping):
        if unknown := sorted(set(weights) - set(counts)):
            raise ConfigError(f"weights for unknown task(s) {', '.join(unknown)}; known: {', '.join(counts)}")
        if bad := {name: w for name, w in weights.items() if not _is_weight(w)}:
            raise ConfigError(f"weights must be numbers, finite and not negative: {bad}")
        raw = {name: float(weights.get(name, 0.0)) for name in counts}
    elif weights is not None:
        if not weights > 0:
            raise ConfigError(f"the temperature of a mixture must be above 0, not {weights}")
        largest = max(counts.values(), default=0)
        # Divided by the largest, no power of a count is too large for a float.
        raw = {name: (n / largest) ** (1 / weights) if n else 0.0 for name, n in counts.items()}
    else:
        raw = dict.fromkeys(counts, 1.0)
    raw = {name: w if counts[name] else 0.0 for name, w in raw.items()}
    total = sum(raw.values())
    if not total > 0:
        raise ConfigError("no task is left to draw from: all weights are 0, or no task has a question")
    return {name: w / total for name, w in raw.items()}


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def choose_answer(lengths: Sequence[int], choice: AnswerChoice, draw: float) -> int:
    """The number of the answer to train on, from 0.

    Args:
        lengths: tokens of each answer.
        choice: "first", "shortest" (of equals, the first), or "random".
        draw: a random number in [0, 1), used by "random".
    """
    if choice == "first":
        return 0
    if choice == "shortest":
        return min(range(len(lengths)), key=lengths.__getitem__)
    return int(draw * len(lengths))
