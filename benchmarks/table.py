"""The tables of benchmarks/README.md, made from a file of results: `python -m benchmarks table RESULTS.json`.

Knows the form of results and of that page; measures nothing. The same file gives the same tables.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.common import cell
from memstore.files import write_text

ROOT = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
BUSY = 0.2  # a measurement is marked if others took more cores than this
WIDTH = 120  # of a line of prose


def main(arguments: Sequence[str]) -> int:
    """Write the page's tables from a file of results."""
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
    print(f"{readme}: the tables are now those of {chosen.results}")
    return 0


def table(values: Mapping[str, Any], *, source: str) -> str:
    """The lines between the markers, made from what `python -m benchmarks` writes.

    Args:
        values: the results.
        source: the name of their file. The page names it, for its reader and for a test.
    """
    reports = {r["name"]: r for r in values["benchmarks"]}
    lines = _preface(values, source)
    for name in (n for n in BENCHMARKS if n in reports):
        lines += ["", *_section(reports[name])]
    if missing := [f"`{name}`" for name in BENCHMARKS if name not in reports]:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines)


def write(readme: Path, lines: str) -> None:
    """Replace the lines between the markers.

    Raises:
        ValueError: the page does not have both markers, once each and in order.
    """
    before, _, after = split(readme.read_text(encoding="utf-8"), source=str(readme))
    write_text(readme, f"{before}{BEGIN}\n{lines}\n{END}{after}")


def split(text: str, *, source: str) -> tuple[str, str, str]:
    """A text before, between and after the markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{source} must have {BEGIN} and, after it, {END}, once each")
    before, _, rest = text.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between.strip("\n"), after


def _name(results: Path) -> str:
    """The file's path from the repository's root if it is inside, else its name."""
    path = results.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _preface(values: Mapping[str, Any], source: str) -> list[str]:
    m = values["machine"]
    quick = " **Of a quick run: tiny models and few rounds; these figures mean nothing.**" if values["quick"] else ""
    machine = f"{m['processor']}, {m['cores']} cores, {m['threads']} threads, {m['dtype']}, torch {m['torch']}"
    return _wrapped(
        f"From `{source}`: {machine}.{quick} Above 1 is in our favour. "
        "Ratios are of medians; their extremes are over the rounds, which were taken in turns."
    )


def _section(report: Mapping[str, Any]) -> list[str]:
    """The lines of one benchmark: what is compared, the settings, the ratios, and the rows if it has any."""
    busy = report.get("cores_taken_by_others", 0.0)
    beside = f" Others took {busy:.1f} cores meanwhile." if busy >= BUSY else ""
    claim = f"{report['claim'][:1].upper()}{report['claim'][1:]}.{beside}"
    settings = _wrapped(f"Settings: {_settings(report)}.") if report["settings"] else []
    ratios = ["| compared | ratio | over the rounds |", "|---|---|---|", *map(_ratio_line, report["ratios"])]
    rows = ["", *_rows(report["rows"])] if report.get("rows") else []
    return [f"### `{report['name']}`", "", *_wrapped(claim), *settings, "", *ratios, *rows]


def _ratio_line(r: Mapping[str, Any]) -> str:
    aim = "" if r.get("aim") is None else f" (aim {r['aim']:g})"
    spread = "" if r["low"] == r["high"] else f"{_times(r['low'])} to {_times(r['high'])}"
    return f"| {r['name']} | **{_times(r['value'])}**{aim} | {spread} |"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _times(value: float) -> str:
    """A ratio with three digits."""
    return f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def _settings(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in report["settings"].items())


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cell(row[c]) if c in row else "" for c in columns) + " |" for row in rows]
