"""Figures of a run: dev scores by task, the metrics file, and a picture of that file.

Knows texts, numbers and JSON lines; refuses to know models and batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore.errors import CheckpointError, ConfigError, OutputUnwritable
from memstore.files import replacing, writing_whole

ALL = "all"  # the key of the means over tasks in a dev record


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One dev question.

    Attributes:
        task: its task.
        scores: "em", "f1" and "accuracy" of the answer, and its "loss" per token.
        ranks: by order ("retrieved", "reranked", "dense"), the rank (from 1) of the best gold passage; empty if no
            candidate is gold.
    """

    task: str
    scores: Mapping[str, float]
    ranks: Mapping[str, int]


def summarise(measured: Sequence[Measured], *, recall_at: Sequence[int]) -> dict[str, dict[str, float]]:
    """The figures of each task, and under "all" their unweighted means over tasks.

    The figures of a task are the means of all scores; the number of "questions"; "with_gold", the share of questions
    with a gold passage among their candidates; over these questions "em_with_gold", and "{order}@{k}", the share with a
    gold passage among the first k of that order.
    """
    tasks = sorted({m.task for m in measured})
    found = {t: _task_figures([m for m in measured if m.task == t], recall_at) for t in tasks}
    names = sorted({name for figures in found.values() for name in figures})
    whole = {name: _mean([f[name] for f in found.values() if name in f]) for name in names if name != "questions"}
    return found | {ALL: whole | {"questions": float(len(measured))}}


def _task_figures(measured: Sequence[Measured], recall_at: Sequence[int]) -> dict[str, float]:
    figures = {name: _mean([m.scores[name] for m in measured]) for name in measured[0].scores}
    with_gold = [m for m in measured if m.ranks]
    figures |= {"questions": float(len(measured)), "with_gold": len(with_gold) / len(measured)}
    if with_gold:
        figures["em_with_gold"] = _mean([m.scores["em"] for m in with_gold])
        for order in with_gold[0].ranks:
            for k in recall_at:
                figures[f"{order}@{k}"] = _mean([float(m.ranks[order] <= k) for m in with_gold])
    return figures


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- the metrics file ---------------------------------------------------------------------------------------


class MetricsFile:
    """`metrics.jsonl`: one record in each line, written at once; each has a "step"."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record.

        Raises:
            OutputUnwritable: the system refuses, or the disk is full. `cut` removes half a line when training goes on.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputUnwritable(
                f"{self.path} cannot be written: {error.strerror or error}. Make room, and run the same command again."
            ) from error

    def last_dev(self) -> dict[str, dict[str, float]]:
        """The latest dev scores; empty if there are none."""
        records = read_metrics(self.path, whole=False) if self.path.is_file() else []
        return next((r["dev"] for r in reversed(records) if "dev" in r), {})

    def cut(self, step: int) -> None:
        """Remove records after `step`, and a half line that a killed run left: training goes on from `step`."""
        if not self.path.exists():
            return
        kept = [json.dumps(r) + "\n" for r in read_metrics(self.path, whole=False) if r["step"] <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def read_metrics(path: Path, *, whole: bool = True) -> list[dict[str, Any]]:
    """The records of a metrics file.

    Args:
        path: the file.
        whole: whether a line that is not JSON is an error; otherwise reading ends there.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: a line is not JSON, or the system does not let us read the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ConfigError(f"there is no metrics file at {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if whole:
                raise CheckpointError(f"{path}:{number} is not JSON: {error}") from None
            break
    return records


# --- the picture --------------------------------------------------------------------------------------------

_PANELS: dict[str, Callable[[str], bool]] = {
    "loss parts": lambda name: name in ("answer", "distill", "gold", "dense", "dense_distill"),
    "learning rate": lambda name: name == "lr",
    "gradient norm": lambda name: name == "grad_norm",
    "tokens per second": lambda name: name == "tokens_per_s",
}
_DEV_PANELS: dict[str, Callable[[str], bool]] = {
    "dev scores, mean over tasks": lambda name: name in ("em", "f1", "accuracy", "em_with_gold"),
    "dev recall of gold passages, mean over tasks": lambda name: "@" in name,
}


def plot(metrics: Path, out: Path | None = None) -> Path:
    """Draw a metrics file: losses, learning rate, gradient norm, speed, and dev scores against steps.

    Args:
        metrics: the file.
        out: the PNG; by default beside the metrics.

    Returns:
        The PNG's path.

    Raises:
        ConfigError: no metrics file, or one without records.
        OutputUnwritable: the system refuses to write the PNG.
    """
    records = read_metrics(metrics, whole=False)
    if not records:
        raise ConfigError(f"{metrics} has no records yet")
    from matplotlib.figure import Figure  # here, as it is slow to import; not pyplot, which has global state

    train = [(r["step"], r) for r in records if "dev" not in r]
    dev = [(r["step"], r["dev"][ALL]) for r in records if "dev" in r]
    panels = [(title, wanted, train) for title, wanted in _PANELS.items()]
    panels += [(title, wanted, dev) for title, wanted in _DEV_PANELS.items()]
    figure = Figure(figsize=(14, 8), layout="constrained")
    for axes, (title, wanted, rows) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        _draw(axes, title, wanted, rows)
    out = out or metrics.with_suffix(".png")
    with writing_whole(out) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return out


def _draw(
    axes: Any, title: str, wanted: Callable[[str], bool], rows: Sequence[tuple[int, Mapping[str, float]]]
) -> None:
    names = sorted({name for _, values in rows for name in values if wanted(name)})
    for name in names:
        points = [(step, values[name]) for step, values in rows if name in values]
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 50 else "")
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(visible=True, alpha=0.3)
    if len(names) > 1:
        axes.legend(fontsize="small")
