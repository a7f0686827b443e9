"""Draws a comparison: quality against cost, a colour for each system. Knows only figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memstore.compare.config import Point
from memstore.files import writing_whole

Json = Mapping[str, Any]
_MARKERS = "osD^vPX*<>p"  # one more than there are colours, so that pairs differ for 110 systems
_OFFSETS = [(0, 9), (0, -15), (16, 6), (-16, 6), (16, -12), (-16, -12), (0, 20), (0, -26), (28, 0), (-28, 0)]  # points


def draw(summary: Json, out: Path, *, cost: str) -> None:
    """Draw quality against a cost, as a PNG.

    Each system has its points with their intervals, and a line through its best ones. The Pareto front over all systems
    is a broad grey line; labels say which points of the grid are on it.

    Args:
        summary: the figures that `memstore.compare.summary` gives.
        out: the PNG.
        cost: "flops" or "ms".

    Raises:
        OutputUnwritable: the system refuses to write the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as it is slow to import
    from matplotlib.figure import Figure  # not pyplot, which has global state

    of: Callable[[Json], float] = (lambda p: p["flops"] / 1e9) if cost == "flops" else (lambda p: p["ms"]["median"])
    figure = Figure(figsize=(10, 6), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    front = []
    for i, system in enumerate(summary["systems"].values()):
        points = sorted((p for p in system["points"] if p["ms"] is not None or cost == "flops"), key=of)
        colour = f"C{i % 10}"
        if points:
            _system(axes, system, points, of, colour=colour, marker=_MARKERS[i % len(_MARKERS)])
        front += [(of(p), 100 * p["quality"]["value"], _place(p), colour) for p in points if p[f"front_{cost}"]]
    front.sort()
    xy = [label[:2] for label in front]
    axes.plot(*zip(*xy, strict=True), color="0.6", lw=5, alpha=0.4, zorder=1, label="Pareto front:\nretrieved→read")
    axes.set_xscale("log")
    _ticks(axes)
    axes.set_xlabel(
        "GFLOP per question (counted)" if cost == "flops" else "milliseconds per question (median, measured)"
    )
    axes.set_ylabel("quality, mean over tasks (%)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
    figure.draw_without_rendering()  # makes the layout, in which labels need room
    _label(canvas.get_renderer(), axes, front)
    with writing_whole(out) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _system(axes: Any, system: Json, points: Sequence[Json], of: Callable[[Json], float], **look: Any) -> None:
    """Draw one system's points, and the line through its best ones."""
    x, y = [of(p) for p in points], [100 * p["quality"]["value"] for p in points]
    errors = [[100 * abs(p["quality"][end] - p["quality"]["value"]) for p in points] for end in ("low", "high")]
    ablation = bool(system["ablation_of"])
    axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=look["colour"], elinewidth=0.8, alpha=0.3, zorder=2)
    axes.plot(x, y, look["marker"], color=look["colour"], ms=5, alpha=0.8, zorder=3)
    best, line = float("-inf"), []
    for cost, quality in zip(x, y, strict=True):  # by ascending cost: the best so far
        if quality > best:
            best = quality
            line.append((cost, quality))
    axes.plot(*zip(*line, strict=True), color=look["colour"], ls="--" if ablation else "-", lw=1.2 if ablation else 2,
              marker=look["marker"], ms=6, zorder=4, label=system["title"])  # fmt: skip


def _ticks(axes: Any) -> None:
    """Put plain numbers on a logarithmic axis, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    subs = [1.0, 2.0, 5.0] if high / low < 100 else [1.0]
    if high / low < 5:
        subs = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _place(point: Json) -> str:
    return str(Point(point["retrieve_k"], point["keep_k"]))


def _label(renderer: Any, axes: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Label points, `(x, y, text, colour)`, where there is room.

    A label that would cover another one or a point, or lie outside, is left out.
    """
    inside = axes.get_window_extent(renderer)
    taken: list[Any] = []
    dots = axes.transData.transform([label[:2] for label in labels])
    for x, y, text, colour in labels:
        for offset in _OFFSETS:
            made = axes.annotate(text, (x, y), color=colour, xytext=offset, textcoords="offset points", fontsize=8,
                                 ha="center", zorder=6)  # fmt: skip
            box = made.get_window_extent(renderer).padded(2)
            free = not any(box.overlaps(other) for other in taken) and not box.count_contains(dots)
            if free and inside.containsx(box.x0) and inside.containsx(box.x1) and inside.containsy(box.y0) and (
                inside.containsy(box.y1)
            ):  # fmt: skip
                taken.append(box)
                break
            made.remove()
