"""Takes up new generations of a store while questions are answered: opened beside, put in place between two batches.

One thread does it, for all who ask: a request, a signal, the clock. The former generation goes on answering until the
other one is ready, and for good if that cannot be used. Refuses to know HTTP, and what a store is.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from memstore.errors import MemstoreError
from memstore.machine import give_memory_back
from memstore_server.batching import Engine, EngineStopped, EngineThread

log = logging.getLogger(__name__)


class NotReloaded(MemstoreError):  # noqa: N818 - reads as the fact it states
    """The generation in force in the store is damaged, or another model made it. The former one goes on."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What answers now (`Engine.info`), whether that is another generation than before, and seconds of opening it."""

    info: Mapping[str, object]
    changed: bool
    seconds: float


class Reloader:
    """Replaces a collection's engine in a thread when its store has another generation in force.

    Args:
        thread: whose engine is replaced.
        collection: which of its engines; by default the first.
        watch: seconds between two looks of its own; None for none.
        try_with: the question that a new engine is tried with, before it answers others.

    Attributes:
        before_release: called when another engine answers, and the former one's generation is about to be given back.
    """

    def __init__(
        self, thread: EngineThread, *, watch: float | None, try_with: str, collection: str | None = None
    ) -> None:
        self._engines, self._collection, self._watch, self._try_with = thread, collection, watch, try_with
        self._asked: queue.SimpleQueue[Future[Reloaded] | None] = queue.SimpleQueue()
        self._stopped = False
        self._error: str | None = None
        self.before_release: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, name="memstore-reload", daemon=True)

    @property
    def error(self) -> str | None:
        """Why the last try to take up a generation failed; None if it did not."""
        return self._error

    def start(self) -> None:
        """Starts the thread. Once."""
        self._thread.start()

    def stop(self) -> None:
        """Begins no other reload. Does not wait: one that is under way ends by itself."""
        self._stopped = True
        self._asked.put(None)
        if not self._thread.is_alive():
            self._refuse_all()

    def request(self) -> Future[Reloaded]:
        """Asks for a look at the store; the result says what answers then.

        Never blocks and takes no lock, so that a handler of signals may call it. Fails with NotReloaded,
        EngineStopped, or what was not foreseen.
        """
        asked: Future[Reloaded] = Future()
        self._asked.put(asked)
        if self._stopped:
            self._refuse_all()
        return asked

    # --- the thread itself ---

    def _run(self) -> None:
        while not self._stopped:
            try:
                first = self._asked.get(timeout=self._watch)
            except queue.Empty:
                self._serve([])  # the clock asks
            else:
                self._serve([*([first] if first else []), *self._others()])
        self._refuse_all()

    def _others(self) -> list[Future[Reloaded]]:
        """All who wait: one reload that begins after they asked is enough for them."""
        others = []
        while not self._asked.empty():
            if (one := self._asked.get()) is not None:
                others.append(one)
        return others

    def _refuse_all(self) -> None:
        for one in self._others():
            if one.set_running_or_notify_cancel():
                one.set_exception(EngineStopped("the server is shutting down"))

    def _serve(self, asked: list[Future[Reloaded]]) -> None:
        asked = [one for one in asked if one.set_running_or_notify_cancel()]
        try:
            done = self._reload(by_clock=not asked)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to those who asked, not to this thread
            for one in asked:
                one.set_exception(error)
        else:
            for one in asked:
                one.set_result(done)

    def _reload(self, *, by_clock: bool) -> Reloaded:
        began = time.monotonic()
        before = self._engines.info_of(self._collection)
        try:
            opened = _opened(self._engines.engine_of(self._collection), self._try_with)
        except EngineStopped:
            raise
        except Exception as error:
            if self._stopped:  # meanwhile: threads and files may be gone, which says nothing of the generation
                raise EngineStopped("the server is shutting down") from error
            reason = _without_place(str(error) or type(error).__name__, before)
            reason = f"generation {_generation(before)} goes on answering: {reason}"
            if not by_clock or reason != self._error:  # a clock that asks again finds the same
                log.error(
                    "collection %s: %s",
                    before["collection"],
                    reason,
                    exc_info=None if isinstance(error, MemstoreError) else error,
                )
            self._error = reason
            if isinstance(error, MemstoreError):
                raise NotReloaded(reason) from error
            raise
        self._error = None
        seconds = time.monotonic() - began
        if opened is None:
            return Reloaded(before, changed=False, seconds=seconds)
        try:
            former = self._engines.replace(opened, collection=self._collection).result().value
        except BaseException:
            opened.close()
            raise
        for release in self.before_release:
            release()
        former.close()
        del former  # its memory maps go with the last name that it has
        give_memory_back()
        after = self._engines.info_of(self._collection)
        log.info(
            "collection %s: generation %s answers after %s; opened in %.0f ms",
            after["collection"], _generation(after), _generation(before), seconds * 1e3,
        )  # fmt: skip
        return Reloaded(after, changed=True, seconds=seconds)


def _opened(engine: Engine, try_with: str) -> Engine | None:
    """The engine to come, opened in a thread that then ends: OpenMP's pool of threads goes with it (`app._opened`)."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="memstore-open") as opener:
        return opener.submit(engine.reopened, try_with=try_with).result()


def _without_place(reason: str, info: Mapping[str, object]) -> str:
    """A message that names files by their place in the store: where that is, is not for clients."""
    store = info["store"]
    path = str(store["path"]) if isinstance(store, Mapping) else ""
    return reason.replace(f"{path}{os.sep}", "").replace(path, "the store") if path else reason


def _generation(info: Mapping[str, object]) -> object:
    store = info["store"]
    return store["generation"] if isinstance(store, Mapping) else None
