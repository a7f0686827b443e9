"""Engine threads over a fake engine, shared by the tests of batching."""

from __future__ import annotations

import time
from collections.abc import Callable

from memstore.answer import Question
from memstore_server.batching import EngineThread
from tests.server.fakes import PATIENCE, FakeEngine, admission


class Threads:
    """Makes engine threads over one fake engine, and closes them after the test."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.made = engine, []

    def __call__(self, *, max_wait=0.0, clock=time.monotonic, **more) -> EngineThread:
        thread = EngineThread(self.engine, admission=admission(**more), max_wait=max_wait, clock=clock)
        thread.start()
        self.made.append(thread)
        return thread


def questions(*texts: str) -> list[Question]:
    return [Question(text=text) for text in texts]


def keep_busy(thread: EngineThread, engine: FakeEngine, asked: Callable[..., list[Question]] = questions):
    """The engine is inside a batch of its own, until the gate opens."""
    engine.gate.clear()
    (busy,) = thread.ask(asked("busy"))
    assert engine.begun.acquire(timeout=PATIENCE)
    return busy
