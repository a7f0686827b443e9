"""The README's table of benchmarks, made from a file of results: `python -m benchmarks table RESULTS.json`.

Knows the form of results and of the README, and measures nothing: the same file gives the same table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.common import cell
from memstore.outputs import write_text

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
BUSY = 0.2  # cores taken by others from which a measurement is marked


def main(arguments: Sequence[str]) -> int:
    """Make the README's table anew from a file of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks table", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--readme", type=Path, default=None, help="the file with the two marker lines")
    chosen = parser.parse_args(arguments)
    readme = chosen.readme or README
    try:
        values = json.loads(chosen.results.read_text(encoding="utf-8"))
        write(readme, table(values, source=_name(chosen.results)))
    except (OSError, ValueError) as error:
        parser.error(f"{chosen.results}: {error}")
    print(f"{readme}: the table is now that of {chosen.results}")
    return 0


def table(values: Mapping[str, Any], *, source: str) -> str:
    """The lines between the markers, without them, from what `python -m benchmarks` writes.

    Args:
        values: the results.
        source: the name of their file, which the table tells its reader and a test.
    """
    reports = {r["name"]: r for r in values["benchmarks"]}
    lines = [_preface(values, source), ""]
    lines += ["| `python -m benchmarks ...` | compared | ratio | over the rounds |", "|---|---|---|---|"]
    for name in (n for n in BENCHMARKS if n in reports):
        lines += [_ratio_line(reports[name], r, first=i == 0) for i, r in enumerate(reports[name]["ratios"])]
    lines += [f"| `{name}` | not run | | |" for name in BENCHMARKS if name not in reports]
    for name in (n for n in BENCHMARKS if n in reports):
        if rows := reports[name].get("rows"):
            lines += ["", f"`{name}` ({_settings(reports[name])}):", "", *_rows(rows)]
    return "\n".join(lines)


def write(readme: Path, lines: str) -> None:
    """Replace what stands between the markers.

    Raises:
        ValueError: the two markers are not there, once each and in order.
    """
    before, _, after = split(readme.read_text(encoding="utf-8"), source=str(readme))
    write_text(readme, f"{before}{BEGIN}\n{lines}\n{END}{after}")


def split(text: str, *, source: str) -> tuple[str, str, str]:
    """A text before, between and after the markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{source} must have {BEGIN} and, behind it, {END}, once each")
    before, _, rest = text.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between.strip("\n"), after


def _name(results: Path) -> str:
    """The file's name as seen from the repository's root, if it is inside."""
    path = results.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _preface(values: Mapping[str, Any], source: str) -> str:
    m = values["machine"]
    quick = " **Of a quick run: tiny models and few rounds; these figures mean nothing.**" if values["quick"] else ""
    machine = f"{m['processor']}, {m['cores']} cores, {m['threads']} threads, {m['dtype']}, torch {m['torch']}"
    return (
        f"From `{source}`: {machine}."
        f"{quick} Above 1 is in our favour; ratios of medians, and their extremes over the rounds, taken in turns."
    )


def _ratio_line(report: Mapping[str, Any], r: Mapping[str, Any], *, first: bool) -> str:
    name, claim = (f"`{report['name']}`", f"{report['claim']}: ") if first else ("", "")
    busy = report.get("cores_taken_by_others", 0.0)
    beside = f" (others took {busy:.1f} cores)" if first and busy >= BUSY else ""
    aim = "" if r.get("aim") is None else f" (aim {r['aim']:g})"
    spread = "" if r["low"] == r["high"] else f"{_times(r['low'])} to {_times(r['high'])}"
    return f"| {name}{beside} | {claim}{r['name']} | **{_times(r['value'])}**{aim} | {spread} |"


def _times(value: float) -> str:
    """A ratio with three digits."""
    return f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def _settings(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in report["settings"].items())


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cell(row[c]) if c in row else "" for c in columns) + " |" for row in rows]
