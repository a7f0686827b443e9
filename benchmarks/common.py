"""Shared by all benchmarks: options, timing in turns, reports, and facts about the machine.

Refuses to know what is measured.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from memstore.machine import StageTimer

TOTAL = "total"
Subject = Callable[[StageTimer], object]
"""Work that is timed as a whole. It may also time stages of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line.

    Attributes:
        quick: use tiny models and few rounds, to see that a benchmark runs; its figures mean nothing.
        large: also measure what takes many minutes and gigabytes.
        stores: finished stores to read from, instead of random ones.
        corpus: files or folders of documents, instead of generated text.
        data: questions with answers, instead of the sample's.
        llm: the model to compare with, a GGUF file, instead of the one that a package brings.
        limit: the most documents of the corpus that `growing` takes, all by default; those that `adding` adds; the most
            questions that `budgets` asks.
        seconds: how long `replicas` and each part of `overload` run, and `adding` asks without a change.
        device: where `ON_DEVICE` benchmarks compute: "cpu", "cuda", "cuda:1", ...
        size: the T5 whose shape these benchmarks take; None for their usual model.
        passages: how many `filters` searches; None for its usual number.
        model: the checkpoint that `growing` builds with; None for a very small random one that has vectors.
    """

    quick: bool = False
    large: bool = False
    stores: tuple[Path, ...] = ()
    corpus: Path | None = None
    data: Path | None = None
    llm: Path | None = None
    limit: int | None = None
    seconds: float | None = None
    device: str = "cpu"
    size: Literal["base", "large"] | None = None
    passages: int | None = None
    model: str | None = None

    @property
    def store(self) -> Path | None:
        """The first store named."""
        return self.stores[0] if self.stores else None


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one subject: `rounds[i][stage]`. One of the stages is "total"."""

    rounds: tuple[Mapping[str, float], ...]

    def of(self, *stages: str) -> list[float]:
        """For each round the sum of these stages; without stages, the total."""
        return [sum(r[s] for s in stages or (TOTAL,)) for r in self.rounds]

    def median(self, *stages: str) -> float:
        """The median of `of` over the rounds."""
        return statistics.median(self.of(*stages))

    def summary(self) -> dict[str, dict[str, float]]:
        """For each stage the median, the 95th percentile, the minimum and the maximum."""
        return {stage: summary(self.of(stage)) for stage in self.rounds[0]}


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """The median, the 95th percentile, the minimum and the maximum of some times."""
    ordered = sorted(milliseconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"median": statistics.median(ordered), "p95": p95, "min": ordered[0], "max": ordered[-1]}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def take_turns(
    subjects: Mapping[str, Subject], *, rounds: int, warm_ups: int = 1, device: str = "cpu"
) -> dict[str, Times]:
    """The times of all subjects, run in turns: A B A B ..., so that a busy machine slows all of them equally.

    Another subject begins each round. Warm-up rounds are not counted. Work on a GPU is waited for.
    """
    kept: dict[str, list[Mapping[str, float]]] = {name: [] for name in subjects}
    names = list(subjects)
    for r in range(-warm_ups, rounds):
        first = r % len(names)
        for name in names[first:] + names[:first]:
            stages = StageTimer(torch.device(device))
            with stages(TOTAL):
                subjects[name](stages)
            if r >= 0:
                kept[name].append(stages.milliseconds)
    return {name: Times(tuple(times)) for name, times in kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One comparison: `value` is the ratio of two medians, `low` and `high` are its extremes over the rounds.

    Above 1 is in memstore's favour. `aim` is the project's goal, None where there is none.
    """

    name: str
    value: float
    low: float
    high: float
    aim: float | None = None


def ratio(name: str, baseline: Sequence[float], ours: Sequence[float], *, aim: float | None = None) -> Ratio:
    """The median of the baseline's times over the median of ours. Both are of the same rounds."""
    each = [b / o for b, o in zip(baseline, ours, strict=True)]
    value = statistics.median(baseline) / statistics.median(ours)
    return Ratio(name=name, value=value, low=min(each), high=max(each), aim=aim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one benchmark.

    Attributes:
        name, claim: its name, and what is compared with what.
        settings: sizes and choices that the figures depend on.
        ratios: the comparisons, most important first.
        times: milliseconds by subject and stage.
        figures: other numbers worth keeping.
        rows: another table. All rows have the columns of the first; a row that was not run has only the first column.
    """

    name: str
    claim: str
    settings: Mapping[str, Any]
    ratios: Sequence[Ratio]
    times: Mapping[str, Mapping[str, Mapping[str, float]]]
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, float | int | str]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def show(report: Report) -> None:
    """Print a report: first the ratios, then the times that they come from."""
    print(f"\n{report.name}: {report.claim}")
    width = max((len(r.name) for r in report.ratios), default=0)
    for r in report.ratios:
        aim = "" if r.aim is None else f"   aim {r.aim:g}: {'met' if r.value >= r.aim else 'NOT met'}"
        spread = "" if r.low == r.high else f"   ({r.low:.2f} to {r.high:.2f} over the rounds)"
        print(f"  ratio  {r.name:<{width}}  {r.value:6.2f}x{spread}{aim}")
    rows = [(f"{subject}, {stage}", t) for subject, stages in report.times.items() for stage, t in stages.items()]
    width = max(len(name) for name, _ in rows)
    print(f"  {'milliseconds':<{width}}  {'median':>10} {'p95':>10} {'min':>10}")
    for name, t in rows:
        print(f"  {name:<{width}}  {t['median']:10.2f} {t['p95']:10.2f} {t['min']:10.2f}")
    for name, value in report.figures.items():
        print(f"  {name}: {value:,.4g}" if isinstance(value, float) else f"  {name}: {value}")
    for row in report.rows:
        print("  " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()))
    print("  settings: " + ", ".join(f"{k} {v}" for k, v in report.settings.items()), flush=True)


def cell(value: float | int | str) -> str:
    """A number as tables show it: three digits, thousands separated."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def machine(dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
    """Facts about the machine that the figures depend on."""
    on_gpu = device.startswith("cuda")
    return {
        "processor": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "dtype": str(dtype).removeprefix("torch."),
        "native_bfloat16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    }


class Neighbours:
    """Measures how much of the machine other processes use: figures beside busy ones are worth little."""

    def __init__(self) -> None:
        self._begin = self._times()

    def cores(self) -> float:
        """The average number of cores that others kept busy since this was made; NaN where it is not known."""
        busy, own, seconds = (now - then for now, then in zip(self._times(), self._begin, strict=True))
        return max(0.0, busy - own) / seconds

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Processor seconds of all processes, and of this one with its children; and the clock."""
        own = sum(os.times()[:4])
        try:
            values = [int(v) for v in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
        except OSError:
            return math.nan, own, time.perf_counter()
        idle, waiting = values[3:5]
        return (sum(values) - idle - waiting) / os.sysconf("SC_CLK_TCK"), own, time.perf_counter()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
