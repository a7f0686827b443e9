"""What the commands that change stores print for people; see `show`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.table import Table

from memstore.cli.show import PlainConsole, Values
from memstore.units import duration, size

_COUNTS = ("added", "replaced", "unchanged", "skipped", "deleted", "not_found")


def show_change(report: Values) -> None:
    """`memstore add`, `memstore delete`."""
    console = PlainConsole()
    counts = ", ".join(f"{report[name]:,} {name.replace('_', ' ')}" for name in _COUNTS if report[name])
    console.print(f"documents: {counts or 'none'}")
    console.print(
        f"{report['store']}: generation {report['generation']}, {report['passages']:,} passages in "
        f"{report['segments']} segments ({report['passages_written']:,} written, {report['passages_died']:,} gone; "
        f"{size(report['dead_bytes'])} to be freed by `memstore compact`)"
    )
    if report["missing"]:
        console.print(f"not found: {', '.join(report['missing'])}")
    for message in report["errors"]:
        console.print(f"skipped: {message}", style="yellow")
    console.print(", ".join(f"{stage} {duration(seconds)}" for stage, seconds in report["seconds"].items()))


def show_compacted(report: Values) -> None:
    """`memstore compact`."""
    console = PlainConsole()
    done = "was compact already" if report["already_compact"] else (
        f"{report['segments_written']} segments written, {report['segments_kept']} kept as they were"
    )  # fmt: skip
    console.print(
        f"{report['store']}: generation {report['generation']}, {report['passages']:,} passages in "
        f"{report['segments']} segments; {done}; {size(report['bytes_freed'])} freed"
    )
    _say_in_use(console, report["in_use"])
    if report["seconds"]:
        console.print(", ".join(f"{stage} {duration(seconds)}" for stage, seconds in report["seconds"].items()))


def show_recompressed(report: Values) -> None:
    """`memstore recompress`."""
    console = PlainConsole()
    dead = f" and {report['dead']:,} dead ones, which `memstore compact` frees" if report["dead"] else ""
    done = "was there already" if report["already_done"] else f"from {report['codec_before']}"
    console.print(
        f"{report['out']}: {report['passages']:,} passages{dead} as {report['codec']}, {done}; "
        f"{size(report['store_bytes'])}, {report['bytes_per_token']:,.0f} bytes a token, with texts "
        f"(before: {report['bytes_per_token_before']:,.0f})"
    )
    if report["seconds"]:
        console.print(", ".join(f"{stage} {duration(seconds)}" for stage, seconds in report["seconds"].items()))


def show_generations(found: Values) -> None:
    """`memstore generations`."""
    console = PlainConsole()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("generation", "passages", "dead", "dead bytes", "segments", "written", "made by"):
        table.add_column(name, justify="left" if name == "made by" else "right", no_wrap=True)
    for one in found["generations"]:
        change = one["change"]
        counts = ", ".join(f"{change[name]:,} {name}" for name in _COUNTS if change.get(name))
        what = change["kind"] + (f" of {change['of']}" if "of" in change else "") + (f": {counts}" if counts else "")
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["written"]))
        mark = "* " if one["in_force"] else ""
        counted = (f"{one['passages']:,}", f"{one['dead_passages']:,}", size(one["dead_bytes"]), str(one["segments"]))
        table.add_row(f"{mark}{one['generation']}", *counted, written, what)
    console.print_table(table)
    console.print("* in force")


def show_rollback(found: Values) -> None:
    """`memstore rollback`."""
    PlainConsole().print(
        f"{found['store']}: generation {found['generation']} is in force, {found['passages']:,} passages"
    )


def show_forgotten(found: Values) -> None:
    """`memstore forget`."""
    console = PlainConsole()
    kept = ", ".join(map(str, found["kept"]))
    console.print(f"{len(found['removed'])} generations removed, {size(found['bytes_freed'])} freed; kept: {kept}")
    _say_in_use(console, found["in_use"])


def _say_in_use(console: PlainConsole, numbers: Sequence[int]) -> None:
    if numbers:
        busy = ", ".join(map(str, numbers))
        console.print(
            f"generations that a server or another program reads are kept: {busy}. Run `memstore forget` later.",
            style="yellow",
        )
