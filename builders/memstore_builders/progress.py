"""How a long command reports what it is doing. Knows stages and counts; the command line decides where they go."""

from __future__ import annotations

import json
import sys
import time
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.text import Text

from memstore.errors import ConfigError

HEARTBEAT_SECONDS = 10.0
SECONDS_BETWEEN_OBJECTS = 0.25


class Progress(Protocol):
    """What work reports to. One stage at a time."""

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        """A stage starts: `total` items if known, of which `done` were made by an earlier run."""

    def advance(self, items: int) -> None:
        """So many more items are done."""

    def end(self) -> None:
        """The stage is over."""


class Silent:
    """Says nothing."""

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        """See `Progress`."""

    def advance(self, items: int) -> None:
        """See `Progress`."""

    def end(self) -> None:
        """See `Progress`."""


class _Rate(ProgressColumn):
    """Items per second over the whole stage."""

    def render(self, task: Task) -> Text:
        """One cell."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class Bars:
    """Progress bars with rate and remaining time, for a terminal."""

    def __init__(self) -> None:
        self._bars: RichBars | None = None
        self._console = Console(stderr=True)

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        """See `Progress`."""
        columns = (TextColumn("{task.description:>10}", markup=False), BarColumn(), MofNCompleteColumn(), _Rate(),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        self._bars = RichBars(*columns, console=self._console)
        self._bars.start()
        self._bars.add_task(stage, total=total, completed=done)

    def advance(self, items: int) -> None:
        """See `Progress`."""
        if self._bars is not None:
            self._bars.advance(self._bars.task_ids[0], items)

    def end(self) -> None:
        """See `Progress`."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class Lines:
    """A line every ten seconds, for logs: items done, rate, and time left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stage, self._total, self._first, self._done = "", 0, 0, 0
        self._begun = self._said = 0.0

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        """See `Progress`."""
        self._stage, self._total, self._first, self._done = stage, total or 0, done, done
        self._begun = self._said = time.monotonic()

    def advance(self, items: int) -> None:
        """See `Progress`."""
        self._done += items
        now = time.monotonic()
        if now - self._said >= HEARTBEAT_SECONDS:
            self._said = now
            self._say(now)

    def end(self) -> None:
        """See `Progress`."""
        self._say(time.monotonic())

    def _say(self, now: float) -> None:
        rate = (self._done - self._first) / max(1e-9, now - self._begun)
        line = f"{self._stage}: {self._done:,}"
        if self._total:
            line += f"/{self._total:,}"
        line += f"  {rate:,.0f}/s"
        if self._total and rate and self._done < self._total:
            line += f"  {(self._total - self._done) / rate / 60:.1f} min left"
        print(line, file=self._stream, flush=True)


class JsonLines:
    """A JSON object a line, for programs: what begins, what ends, and every quarter of a second how far it is.

    Where nobody reads any more, writing ends the work with BrokenPipeError: a change that nobody waits for is undone.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stage, self._done, self._said = "", 0, 0.0
        self._total: int | None = None

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        """See `Progress`."""
        self._stage, self._total, self._done = stage, total, done
        self._say()

    def advance(self, items: int) -> None:
        """See `Progress`."""
        self._done += items
        if time.monotonic() - self._said >= SECONDS_BETWEEN_OBJECTS:
            self._say()

    def end(self) -> None:
        """See `Progress`."""
        self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        line = json.dumps({"stage": self._stage, "done": self._done, "of": self._total})
        print(line, file=self._stream, flush=True)


def for_people() -> Progress:
    """Bars on a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


def named(form: str) -> Progress:
    """Progress in a form: "auto" is `for_people`, "json" `JsonLines`.

    Raises:
        ConfigError: there is no such form.
    """
    if form not in ("auto", "json"):
        raise ConfigError(f"--progress must be auto or json, not {form!r}")
    return JsonLines() if form == "json" else for_people()
