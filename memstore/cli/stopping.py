"""Lets signals ask work to stop in order: a training saves its state first, a change removes what it wrote. Knows only
signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def asked_to_stop(*, announce: bool) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a signal has asked the program to stop. The same signal again ends it at once.

    With `announce`, a message says so. Processes that load batches get control-C too, but print nothing.
    """
    asked, own = threading.Event(), os.getpid()
    before = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: object) -> None:
        asked.set()
        signal.signal(number, before[number])
        if announce and os.getpid() == own:
            typer.echo("stopping after this step; the same signal again ends it at once, without saving", err=True)

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undone_when_ended() -> Iterator[None]:
    """Within, SIGTERM ends the program as control-C does, by an exception, so that work half done is removed."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
