"""The server's process: listens at once, loads meanwhile, serves until asked to stop.

Imports nothing that takes long: what does is imported while the server listens already.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import uvicorn

from memstore.errors import ConfigError
from memstore.storage.place import as_url
from memstore_server import logs, workers
from memstore_server.addresses import bound_socket, url_of
from memstore_server.connections import allow_files, bounded
from memstore_server.crew import Crew
from memstore_server.loading import Front, Load, Progress, steps_of
from memstore_server.settings import Settings, unknown_variables

if TYPE_CHECKING:
    from fastapi import FastAPI

    from memstore_server.service import Service

log = logging.getLogger(__name__)


def run(settings: Settings) -> bool:
    """Listens, opens the stores, and serves them until asked to stop (SIGTERM or SIGINT); then drains and returns.

    Prints `memstore: serving on http://HOST:PORT` to standard output when questions can be answered. Until then
    `/health` is 200, and whatever else is asked gets a 503 that says how far loading is.

    Returns:
        Whether all that it began has ended. If not, `drain_seconds` were not enough, or it was stopped while it loaded,
        and a thread still computes: a program should then end by `os._exit`, as the interpreter would end the thread
        inside of torch, which aborts.

    Raises:
        ConfigError: the address cannot be listened on; the write key is none; a store is to be changed, and cannot be
            written; two stores are one, or of two models.
        FingerprintMismatch: the store was not made by the model.
        MemstoreError: anything else that opening stores and models, or the warm-up, find wrong.
    """
    logs.configure(style=settings.log_format, level=settings.log_level)
    for name, meant in unknown_variables(os.environ).items():
        log.warning("%s is not a setting; did you mean %s?", name, meant)
    for folder in settings.stores.values() if settings.has_write_key else ():
        if as_url(folder) is None and not os.access(folder, os.W_OK):
            raise ConfigError(
                f"{folder} cannot be written, which changing it over HTTP needs: let this user write there, or start "
                "without a write key"
            )
    with bound_socket(settings.host, settings.port) as listener:
        if settings.workers > 1:
            return workers.supervise(settings, listener)
        return serve(lambda progress: _load(settings, progress), settings, listener)


def run_worker(from_parent: IO[str]) -> bool:
    """Serves as one of several workers, as the process that has started this one orders. Returns and raises what `run`
    does.
    """
    orders = workers.read_orders(from_parent)
    settings = orders.settings
    logs.configure(style=settings.log_format, level=settings.log_level)
    workers.stop_with(from_parent)
    crew = Crew(orders.number, orders.size, orders.folder, tell=lambda: workers.say(workers.CHANGED))
    with orders.listener as shared, crew.listen() as own:
        return serve(
            lambda progress: _load(settings, progress, crew),
            settings,
            shared,
            also=[own],
            ready_line=workers.READY,
            at_once=orders.first,
        )


def _load(settings: Settings, progress: Progress, crew: Crew | None = None) -> FastAPI:
    progress.begin(1, "importing the libraries")
    from memstore_server import app  # heavy: opens with the model's libraries

    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    return app.load(settings, progress, crew)


def serve(
    load: Load,
    settings: Settings,
    listener: socket.socket,
    *,
    also: Sequence[socket.socket] = (),
    ready_line: str | None = None,
    at_once: bool = True,
) -> bool:
    """Serves what `load` makes on a bound socket, and on others, until asked to stop.

    Args:
        load: makes the application.
        settings: of the server.
        listener: the socket whose address is named.
        also: other sockets.
        ready_line: printed when questions can be answered; by default one that names the address.
        at_once: listen from now on, and say meanwhile how far loading is; otherwise from when it is done.

    Returns:
        Whether all that it began has ended; see `run`.

    Raises:
        BaseException: what `load` or the warm-up raised.
    """

    def ready(app: FastAPI) -> None:
        if waiting:
            reload(app.state.service)
        loaded.append(app.state.service)
        sys.stdout.write(f"{ready_line or f'memstore: serving on {url_of(listener)}'}\n")
        sys.stdout.flush()

    def stop() -> None:
        server.should_exit = True

    def hung_up() -> None:
        if loaded:
            reload(loaded[0])
        else:
            waiting.append(True)  # a store that was opened already may have been changed since

    loaded: list[Service] = []
    waiting: list[bool] = []
    front = Front(load, settings, steps=steps_of(settings), ready=ready, failed=stop, at_once=at_once)
    config = uvicorn.Config(
        front,
        # h11, whatever else is installed: httptools drops the body of a request that offers an upgrade to h2c
        http=bounded(most=settings.max_connections, seconds=settings.receive_seconds),
        ws="none",
        lifespan="on",
        root_path=settings.root_path or "",
        log_config=None,  # `logs.configure` has done it
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = uvicorn.Server(config)
    allow_files(settings.max_connections)
    listener.listen(config.backlog)
    log.info("listening on %s, and loading", url_of(listener))
    with _signals_handled(stop=stop, hung_up=hung_up):
        server.run(sockets=[listener, *also])
    if front.failure is not None:
        raise front.failure
    return front.ended


def reload(service: Service) -> None:
    """Has new generations of all collections taken up, without waiting."""
    for collection in service.collections:
        service.reload_soon(collection)


@contextmanager
def _signals_handled(*, stop: Callable[[], None], hung_up: Callable[[], None]) -> Iterator[None]:
    """SIGHUP has new generations taken up. Uvicorn handles the signals that stop while it runs, and raises them again
    when done; that must not kill.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: hung_up())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
