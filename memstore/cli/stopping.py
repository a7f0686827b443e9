"""Signals that ask a training to end: its state is saved first. Knows signals alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def asked_to_stop(*, announce: bool) -> Iterator[Callable[[], bool]]:
    """Whether a signal has asked the program to end; the second one ends it at once.

    Says so, if `announce`; not in processes that load batches, which control-C reaches too.
    """
    asked, own = threading.Event(), os.getpid()
    before = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: object) -> None:
        asked.set()
        signal.signal(number, before[number])
        if announce and os.getpid() == own:
            typer.echo("stopping after this step; once more ends it at once, without saving", err=True)

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
