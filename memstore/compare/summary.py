"""Computes the figures of a report from answers and times: means, intervals, Pareto fronts, differences.

Takes and gives plain values. Every task weighs the same, whatever its number of questions. Knows no models, and not how
a report looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memstore.compare.config import CompareConfig
from memstore.compare.measure import SCORES, headline
from memstore.errors import ConfigError
from memstore.evaluate.bootstrap import CONFIDENCE, RESAMPLES, SEED, Estimate, intervals, resampled_means

Json = dict[str, Any]
Values = NDArray[np.float64]
_MEANS = (*SCORES, "flops", "bytes", "store_bytes")


# --- arithmetic ---------------------------------------------------------------------------------------------


def estimates(by_task: Sequence[Values]) -> list[Estimate]:
    """For each column the mean over tasks of the tasks' means, with its bootstrap interval.

    Each resample draws questions within each task, and columns share the draws. For differences between two systems on
    the same questions, this is the paired bootstrap.

    Args:
        by_task: `(questions, columns)` for each task; none may be empty.
    """
    # Another seed for each task, or tasks with equally many questions would share their draws, and luck with them.
    drawn = [resampled_means(v, resamples=RESAMPLES, seed=SEED + i) for i, v in enumerate(by_task)]  # (resamples, c)
    means = np.mean([v.mean(axis=0) for v in by_task], axis=0)
    return intervals(means, np.mean(drawn, axis=0))


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point `(cost, quality)`, whether it is on the Pareto front: no other point beats it.

    A point beats another if it is no worse in either, and better in one.
    """

    def beaten(cost: float, quality: float) -> bool:
        return any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in points)

    return [not beaten(*point) for point in points]


# --- the report's figures -----------------------------------------------------------------------------------


def summarise(config: CompareConfig, measured: Mapping[str, Json], times: Json | None) -> Json:
    """All figures of a comparison.

    Args:
        config: titles, and which systems are compared.
        measured: the records of the systems that are measured, by name.
        times: the record of times, if there is one.

    Raises:
        ConfigError: two systems were asked different questions.
    """
    names = [name for name in config.systems if name in measured]
    first = measured[names[0]]["results"]
    for name in names[1:]:
        if measured[name]["results"]["ids"] != first["ids"]:
            raise ConfigError(f"{names[0]} and {name} were not asked the same questions; remove one and measure again")
    tasks = _rows_by_task(first)
    answerable = np.array(first["answerable"], dtype=bool)
    clock = {} if times is None else times["times"]["systems"]
    systems = {}
    for name in names:
        points = _points(measured[name]["results"]["points"], tasks, answerable)
        for point, taken in zip(points, clock.get(name, [None] * len(points)), strict=True):
            point["ms"] = None if taken is None else _milliseconds(taken, times["times"]["tasks"])  # type: ignore[index]
        systems[name] = _described(config, name, measured[name]) | {"points": points}
    _mark_fronts(systems)
    return {
        "title": config.title,
        "about": config.about,
        "bootstrap": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED},
        "missing": [n for n, s in config.systems.items() if s.measured and n not in measured],
        "cache": measured[names[0]]["cache"] | {"fingerprint": measured[names[0]]["fingerprints"]["cache"]},
        "measured_by": measured[names[0]]["made_by"],
        "timed_by": None if times is None else times["made_by"],
        "timed_questions": 0 if times is None else len(times["times"]["tasks"]),
        "repeats": config.grid.repeats,
        "gold": config.base.get("data", {}).get("gold", "answer"),
        "tasks": {
            task: {"questions": len(rows), "answerable": int(answerable[rows].sum()), "headline": headline(task)}
            for task, rows in tasks.items()
        },
        "systems": systems,
        "ablations": [line for name in names for line in _ablation(config, name, measured, systems, tasks)],
    }


def _rows_by_task(results: Json) -> dict[str, NDArray[np.int64]]:
    tasks = np.array(results["tasks"])
    return {task: np.flatnonzero(tasks == task) for task in dict.fromkeys(results["tasks"])}


def _described(config: CompareConfig, name: str, record: Json) -> Json:
    table = config.systems[name]
    kept = ("training", "models", "fingerprints", "device", "dtype", "made_by", "settings_hash", "reranker")
    return {"title": table.title or name, "ablation_of": table.ablation_of, "changes": table.changes,
            "checkpoint": table.checkpoint, "models_of": table.models_of, "single_task": table.single_task,
            "parameters": sum(m["parameters"] for m in record["models"].values()),
            } | {key: record[key] for key in kept}  # fmt: skip


def _points(
    points: Sequence[Json], tasks: Mapping[str, NDArray[np.int64]], answerable: NDArray[np.bool_]
) -> list[Json]:
    """The figures of a system at every point of its grid: for each task, and over all tasks."""
    found: list[Json] = [{"retrieve_k": p["retrieve_k"], "keep_k": p["keep_k"], "tasks": {}} for p in points]
    whole = {task: _columns(points, headline(task), rows) for task, rows in tasks.items()}
    right = {task: _columns(points, headline(task), rows[answerable[rows]]) for task, rows in tasks.items()}
    right = {task: values for task, values in right.items() if len(values)}
    for task, rows in tasks.items():
        _add_quality(
            [p["tasks"].setdefault(task, {}) for p in found], [whole[task]], [right[task]] if task in right else []
        )
        for one, point in zip(found, points, strict=True):
            gold = _values(point, "kept_gold")[rows[answerable[rows]]]
            one["tasks"][task] |= {key: float(_values(point, key)[rows].mean()) for key in _MEANS}
            one["tasks"][task]["recall"] = float(gold.mean()) if len(gold) else None
    _add_quality(found, list(whole.values()), list(right.values()))
    for one in found:
        one |= {key: float(np.mean([t[key] for t in one["tasks"].values()])) for key in _MEANS}
        recalls = [t["recall"] for t in one["tasks"].values() if t["recall"] is not None]
        one["recall"] = float(np.mean(recalls)) if recalls else None
    return found


def _add_quality(into: Sequence[Json], whole: Sequence[Values], right: Sequence[Values]) -> None:
    """Add to each point its quality over all questions, and over the answerable ones if there are any."""
    for key, values in (("quality", whole), ("quality_answerable", right)):
        found = [asdict(e) for e in estimates(values)] if values else [None] * len(into)
        for one, value in zip(into, found, strict=True):
            one[key] = value


def _columns(points: Sequence[Json], key: str, rows: NDArray[np.int64]) -> Values:
    """One score of the chosen questions at every point, `(rows, points)`."""
    return np.stack([_values(p, key)[rows] for p in points], axis=1)


def _values(point: Json, key: str) -> Values:
    return np.array(point[key], dtype=np.float64)


def _milliseconds(taken: Json, tasks: Sequence[str]) -> Json:
    by_task = {
        t: median(ms for ms, of in zip(taken["ms"], tasks, strict=True) if of == t) for t in dict.fromkeys(tasks)
    }
    return {
        "median": median(taken["ms"]),
        "p90": float(np.quantile(taken["ms"], 0.9)),
        "encode_median": median(taken["ms_encode"]),
        "tasks": by_task,
    }


def _mark_fronts(systems: Mapping[str, Json]) -> None:
    """Mark the points on the front over all systems: by operations, and by time where times were taken."""
    points = [p for s in systems.values() for p in s["points"]]
    marks = pareto([(p["flops"], p["quality"]["value"]) for p in points])
    for point, mark in zip(points, marks, strict=True):
        point["front_flops"], point["front_ms"] = mark, False
    timed = [p for p in points if p["ms"] is not None]
    marks = pareto([(p["ms"]["median"], p["quality"]["value"]) for p in timed])
    for point, mark in zip(timed, marks, strict=True):
        point["front_ms"] = mark


def _ablation(
    config: CompareConfig,
    name: str,
    measured: Mapping[str, Json],
    systems: Mapping[str, Json],
    tasks: Mapping[str, NDArray[np.int64]],
) -> list[Json]:
    """The differences between a system and the one it is an ablation of.

    Both read the same number of passages, each from the most that it can choose from.
    """
    other = config.systems[name].ablation_of
    if not other or other not in measured:
        return []
    own, reference = widest(measured[name]["results"]["points"]), widest(measured[other]["results"]["points"])
    lines = []
    for keep_k in sorted(set(own) & set(reference)):
        a, b = own[keep_k], reference[keep_k]
        differences = {
            task: _columns([a], headline(task), rows) - _columns([b], headline(task), rows)
            for task, rows in tasks.items()
        }
        ours, theirs = (widest(systems[n]["points"])[keep_k] for n in (name, other))
        lines.append(
            {
                "system": name, "reference": other, "keep_k": keep_k, "retrieve_k": a["retrieve_k"],
                "reference_retrieve_k": b["retrieve_k"],
                "quality": ours["quality"]["value"], "reference_quality": theirs["quality"]["value"],
                "flops": ours["flops"], "reference_flops": theirs["flops"],
                "difference": asdict(estimates(list(differences.values()))[0]),
                "tasks": {task: asdict(estimates([values])[0]) for task, values in differences.items()},
            }
        )  # fmt: skip
    return lines


def widest(points: Sequence[Json]) -> dict[int, Json]:
    """For each keep_k, the point that chooses from most passages."""
    return {p["keep_k"]: p for p in sorted(points, key=lambda p: p["retrieve_k"])}  # a later one replaces it
