"""Several processes that serve one address: each has a model, and all map the same store.

The first loads alone, so that what is wrong is said once; then come the others. One that ends is replaced. Signals that
are sent to this process reach all of them. Imports nothing that takes long: this process computes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from memstore.errors import ConfigError
from memstore_server.addresses import url_of
from memstore_server.settings import Settings

log = logging.getLogger(__name__)
READY, CHANGED = "ready", "changed"
"""What a worker says, a line each: it can answer; it has another generation of a store, as the others should."""
COMMAND = (sys.executable, "-m", "memstore", "serve-worker")
BACKLOG = 2048  # connections that wait, as uvicorn has it
_LEAST_WAIT, _MOST_WAIT = 0.5, 60.0  # seconds before a worker that ended is replaced: longer each time in a row
_KILLED_AFTER = 10.0  # seconds beyond `drain_seconds`, twice: of connections, and of the model


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[str] | None = None
    ready: bool = False
    failures: int = 0  # in a row
    due: float = field(default=0.0)  # when it is started again


def supervise(settings: Settings, listener: socket.socket) -> bool:
    """Serves on a bound socket by `settings.workers` processes until asked to stop (SIGTERM or SIGINT).

    Returns:
        True, when all of them have ended.

    Raises:
        SystemExit: the first worker could not begin. It has said why.
    """
    listener.listen(BACKLOG)
    with tempfile.TemporaryDirectory(prefix="memstore-workers-") as folder:
        return _Supervisor(settings, listener, Path(folder)).run()


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, folder: Path) -> None:
        self._settings, self._listener, self._folder = settings, listener, folder
        self._workers = [_Worker(number) for number in range(settings.workers)]
        self._told: queue.SimpleQueue[tuple[str, _Worker | None]] = queue.SimpleQueue()
        self._begun = self._stopping = False
        self._kill_at = 0.0

    def run(self) -> bool:
        """From the first worker's start to the last one's end."""
        with _signals(self._told.put):
            self._start(self._workers[0])
            while any(worker.process is not None for worker in self._workers) or not self._stopping:
                what, worker = self._next()
                self._hear(what, worker)
                self._start_those_due()
        return True

    def _next(self) -> tuple[str, _Worker | None]:
        waiting = [worker.due for worker in self._workers if worker.due]
        until = self._kill_at if self._stopping else min(waiting, default=0.0)
        with suppress(queue.Empty):
            return self._told.get(timeout=max(0.0, until - time.monotonic()) if until else None)
        return "", None

    def _hear(self, what: str, worker: _Worker | None) -> None:
        if what == "stop":
            self._stop()
        elif what == "reload" or what == CHANGED:
            self._signal(signal.SIGHUP, but=worker)
        elif what == READY and worker is not None:
            worker.ready, worker.failures = True, 0
            self._first_is_ready()
        elif what == "ended" and worker is not None:
            self._ended(worker)
        elif self._stopping and time.monotonic() >= self._kill_at:
            self._signal(signal.SIGKILL)

    def _first_is_ready(self) -> None:
        if self._begun or self._stopping:
            return
        self._begun = True
        sys.stdout.write(f"memstore: serving on {url_of(self._listener)}\n")
        sys.stdout.flush()
        for worker in self._workers[1:]:
            self._start(worker)

    def _ended(self, worker: _Worker) -> None:
        assert worker.process is not None
        code = worker.process.wait()
        worker.process, was_ready, worker.ready = None, worker.ready, False
        if self._stopping:
            return
        if not self._begun:
            raise SystemExit(code or 1)
        worker.failures += 1
        wait = 0.0 if was_ready and worker.failures == 1 else min(_MOST_WAIT, _LEAST_WAIT * 2**worker.failures)
        worker.due = time.monotonic() + wait
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        log.error("worker %d %s; another one begins%s", worker.number, how, f" in {wait:.0f} s" if wait else "")

    def _start_those_due(self) -> None:
        for worker in self._workers:
            if worker.due and time.monotonic() >= worker.due and not self._stopping:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        worker.due = 0.0
        worker.process = subprocess.Popen(  # noqa: S603 - our own program
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[self._listener.fileno()]
        )
        orders = {
            "settings": given(self._settings), "listener": self._listener.fileno(), "number": worker.number,
            "size": len(self._workers), "folder": str(self._folder), "first": not self._begun,
        }  # fmt: skip
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which is heard of
            worker.process.stdin.write(json.dumps(orders) + "\n")
            worker.process.stdin.flush()  # and stays open: its end is how a worker knows that this process is gone
        assert worker.process.stdout is not None
        args = (worker.process.stdout, worker, self._told.put)
        threading.Thread(target=_listen, args=args, name=f"memstore-worker-{worker.number}", daemon=True).start()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._kill_at = time.monotonic() + 2 * self._settings.drain_seconds + _KILLED_AFTER
            self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals, *, but: _Worker | None = None) -> None:
        for worker in self._workers:
            if worker.process is not None and worker is not but:
                worker.process.send_signal(number)


def _listen(said: IO[str], worker: _Worker, tell: Callable[[tuple[str, _Worker]], None]) -> None:
    """Hands on what a worker says, and that it has ended."""
    for line in said:
        tell((line.strip(), worker))
    tell(("ended", worker))


@contextmanager
def _signals(tell: Callable[[tuple[str, None]], None]) -> Iterator[None]:
    """Has signals told of as what they ask for. Only a program's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    meant = {signal.SIGINT: "stop", signal.SIGTERM: "stop", signal.SIGHUP: "reload"}
    before = {number: signal.signal(number, lambda *_, what=what: tell((what, None))) for number, what in meant.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the worker's side ---


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told when it starts. `first`: it loads alone, and says to all who ask how far that is."""

    settings: Settings
    listener: socket.socket
    number: int
    size: int
    folder: Path
    first: bool


def read_orders(from_parent: IO[str]) -> Orders:
    """Waits for the orders of the process that has started this one.

    Raises:
        ConfigError: nobody gives orders: it was started by hand.
    """
    try:
        orders: dict[str, Any] = json.loads(from_parent.readline())
        return Orders(
            settings=Settings.load(**orders["settings"]),
            listener=socket.socket(fileno=orders["listener"]),
            number=orders["number"],
            size=orders["size"],
            folder=Path(orders["folder"]),
            first=orders["first"],
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError("this is a worker of `memstore serve --workers N`: start that instead") from error


def stop_with(from_parent: IO[str]) -> None:
    """Stops this process as SIGTERM does, once the one that has started it is gone."""

    def wait() -> None:
        while from_parent.readline():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="memstore-parent", daemon=True).start()


def say(what: str) -> None:
    """Tells the process that has started this one."""
    with suppress(OSError):  # it is gone: this one will stop
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()


def given(settings: Settings) -> dict[str, Any]:
    """The settings of each worker, as JSON has them: the processor's threads are divided among them."""
    values = settings.model_dump(mode="json", exclude={"write_key", "threads"})
    key = settings.write_key
    threads = settings.threads or len(os.sched_getaffinity(0))
    share = max(1, threads // settings.workers)
    return {**values, "threads": share, "write_key": None if key is None else key.get_secret_value()}
