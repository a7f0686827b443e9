"""The server put together in one place: engine, service, routes, problems, middleware; and its process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline

import memstore
from memstore.errors import ConfigError
from memstore_client.events import RankedEvent, RetrievedEvent, TokenEvent
from memstore_client.wire import REQUEST_ID_HEADER, Problem
from memstore_server import logs, page, problems, routes, writing
from memstore_server.addresses import bound_socket as bound_socket
from memstore_server.addresses import url_of as url_of
from memstore_server.batching import Engine, EngineStopped
from memstore_server.collection import open_all, with_beams
from memstore_server.costs import CostModel, calibrate
from memstore_server.doors import cohere, openai, refusals
from memstore_server.editing import Editors
from memstore_server.keys import read_gate
from memstore_server.middleware import AskedForKeys, BodyLimit, HeadAsGet, RequestContext
from memstore_server.service import Service, usual_question
from memstore_server.settings import Settings, unknown_variables

log = logging.getLogger(__name__)


def create_app(
    answerers: Engine | Mapping[str, Engine], settings: Settings, *, costs: CostModel | None = None
) -> FastAPI:
    """The HTTP application over opened answerers. `app.state.service` is its `Service`.

    Args:
        answerers: `memstore.answer.Answerer`, or anything that does the same, for each collection, or for the only
            one; used by one thread only.
        settings: limits, defaults, sizes, and the write key. `host` and `port` are not read here.
        costs: how long batches take, as far as it is known already.

    Raises:
        ConfigError: the write key cannot be read, or is none.
    """
    engines = answerers if isinstance(answerers, Mapping) else dict.fromkeys(settings.stores, answerers)
    service, gate = Service(engines, settings, costs), read_gate(settings)
    editors = Editors(service) if settings.has_write_key else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if editors is not None:
            service.warm_up.add_done_callback(editors.start_after)
        try:
            yield
        finally:
            if editors is not None:
                await asyncio.to_thread(editors.close)
            await asyncio.to_thread(service.close)

    app = FastAPIOffline(  # the page's files without a CDN: servers often run where nothing outside can be reached
        title="memstore",
        summary="Answers questions over a large text collection from precomputed passage memories.",
        version=memstore.__version__,
        lifespan=lifespan,
        docs_url=None,  # ours is in `routes`
        redoc_url=None,
        static_url=f"/{routes.DOCS_FILES}",
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call their methods
    )
    app.state.service = service
    app.state.gate, app.state.editors = gate, editors
    app.include_router(routes.router)
    app.include_router(routes.about)
    app.include_router(page.router)
    app.include_router(routes.admin)
    app.include_router(openai.router)
    app.include_router(cohere.router)
    if editors is not None:
        app.include_router(writing.router)
    problems.install(app, refusals.reply)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    app.add_middleware(AskedForKeys, gate=gate)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER, "Retry-After"],
        )
    app.add_middleware(RequestContext)  # added last, so it is outermost
    _document_problems(app)
    return app


def run(settings: Settings) -> bool:
    """Opens the stores and serves them until asked to stop (SIGTERM or SIGINT); then drains and returns.

    Prints `memstore: serving on http://HOST:PORT` to standard output when questions can be answered.

    Returns:
        Whether the model has finished. If not, `drain_seconds` were not enough, and its thread still computes: a
        program should then end by `os._exit`, as the interpreter would end the thread inside of torch, which aborts.

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
        if not os.access(folder, os.W_OK):
            raise ConfigError(
                f"{folder} cannot be written, which changing it over HTTP needs: let this user write there, or start "
                "without a write key"
            )
    with bound_socket(settings.host, settings.port) as listener:  # first: a taken port should not cost a start
        if settings.threads is not None:
            import torch

            torch.set_num_threads(settings.threads)
        costs = CostModel()
        return serve(opened(settings, costs), settings, listener, costs=costs)


def opened(settings: Settings, costs: CostModel | None = None) -> dict[str, Engine]:
    """The answerer of each collection; opened, and the first tried to see how long batches take, in a thread that then
    ends. Errors as for `run`.

    OpenMP gives every thread that computes a pool of its own, for as long as the thread lives. With the main thread's
    pool beside the engine's there would be more threads than cores, and all would sleep between two products instead of
    waiting awake: answers took 1.7 times as long (DECISIONS.md, 2026-11-27).
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="memstore-open") as opener:
        engines = opener.submit(open_all, settings).result()
        if costs is not None:
            opener.submit(_try, next(iter(engines.values())), settings, costs).result()
        return engines


def _try(engine: Engine, settings: Settings, costs: CostModel) -> None:
    calibrate(costs, engine, usual_question(with_beams(settings, engine.info())))


def serve(
    answerers: Engine | Mapping[str, Engine],
    settings: Settings,
    listener: socket.socket,
    *,
    costs: CostModel | None = None,
) -> bool:
    """Serves opened answerers on a bound socket until asked to stop. Raises what the warm-up raised.

    Returns:
        Whether the model has finished; see `run`.
    """
    app = create_app(answerers, settings, costs=costs)
    del answerers  # the service has them, until others take their places
    service: Service = app.state.service
    warm_up: Future[None] = service.warm_up
    config = uvicorn.Config(
        app,
        http="h11",  # whatever else is installed: httptools drops the body of a request that offers an upgrade to h2c
        ws="none",
        root_path=settings.root_path or "",
        log_config=None,  # `logs.configure` has done it
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = uvicorn.Server(config)

    def announce(warm_up: Future[None]) -> None:
        if warm_up.exception() is not None:
            server.should_exit = True
            return
        sys.stdout.write(f"memstore: serving on {url_of(listener)}\n")
        sys.stdout.flush()

    warm_up.add_done_callback(announce)
    listener.listen(config.backlog)  # now, so that who reads the line above can connect
    with _signals_handled(server, service):
        server.run(sockets=[listener])
    if warm_up.done() and not isinstance(failure := warm_up.exception(), EngineStopped | None):
        raise failure
    return service.ended


@contextmanager
def _signals_handled(server: uvicorn.Server, service: Service) -> Iterator[None]:
    """SIGHUP has a new generation taken up. Uvicorn handles the signals that stop while it runs, and raises them again
    when done; that must not kill.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        server.should_exit = True

    def reload(_signal: int, _frame: object) -> None:
        for collection in service.collections:
            service.reload_soon(collection)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _document_problems(app: FastAPI) -> None:
    """Adds the schemas of what no route returns: of `Problem`, and of the events of a stream."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for kind in (Problem, RetrievedEvent, RankedEvent, TokenEvent):
            if kind.__name__ not in schemas:
                made = kind.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
                schemas.update(made.pop("$defs", {}))
                schemas[kind.__name__] = made
        return document

    app.openapi = openapi  # type: ignore[method-assign]
