"""The application put together in one place: engine, service, routes, problems, middleware. `process.py` serves it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import memstore
from memstore.store.shard_list import refuse_shards
from memstore_client.events import RankedEvent, RetrievedEvent, TokenEvent
from memstore_client.wire import Problem
from memstore_server import page, problems, routes, writing
from memstore_server.batching import Engine
from memstore_server.collection import open_all, with_beams
from memstore_server.costs import CostModel, calibrate
from memstore_server.crew import WRITER, Crew
from memstore_server.doors import cohere, openai, refusals
from memstore_server.editing import Editors
from memstore_server.keys import read_gate
from memstore_server.loading import FIRST_STORE, Progress, allowing_origins, steps_of
from memstore_server.middleware import AskedForKeys, BodyLimit, HeadAsGet, RequestContext
from memstore_server.service import Service, usual_question
from memstore_server.settings import Settings
from memstore_server.to_writer import ToWriter
from memstore_server.tracing import Tracing, tracing_of


def create_app(
    answerers: Engine | Mapping[str, Engine],
    settings: Settings,
    *,
    costs: CostModel | None = None,
    crew: Crew | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The HTTP application over opened answerers. `app.state.service` is its `Service`.

    Args:
        answerers: `memstore.answer.Answerer`, or anything that does the same, for each collection, or for the only
            one; used by one thread only.
        settings: limits, defaults, sizes, and the write key. `host` and `port` are not read here.
        costs: how long batches take, as far as it is known already.
        crew: the workers that this one is one of, if there are others.
        tracing: makes spans of requests and their stages, if any are wanted.

    Raises:
        ConfigError: the write key cannot be read, or is none.
    """
    engines = answerers if isinstance(answerers, Mapping) else dict.fromkeys(settings.stores, answerers)
    changed = None if crew is None else crew.tell
    service, gate = Service(engines, settings, costs, changed=changed, tracing=tracing), read_gate(settings)
    writes = settings.has_write_key and (crew is None or crew.number == WRITER)
    editors = Editors(service) if writes else None

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
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

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
    app.state.gate, app.state.editors, app.state.crew = gate, editors, crew
    app.include_router(routes.router)
    app.include_router(routes.about)
    app.include_router(page.router)
    app.include_router(routes.admin)
    app.include_router(openai.router)
    app.include_router(cohere.router)
    if settings.has_write_key:
        app.include_router(writing.router)
    problems.install(app, refusals.reply)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    if crew is not None and settings.has_write_key and not writes:
        app.add_middleware(ToWriter, crew=crew)
    app.add_middleware(AskedForKeys, gate=gate)
    app.add_middleware(allowing_origins, settings=settings)
    app.add_middleware(RequestContext)  # outermost but for spans, so that its log lines are of one
    if tracing is not None:
        made_by, how = tracing.middleware()
        app.add_middleware(made_by, **how)
    _document_problems(app)
    return app


def load(settings: Settings, progress: Progress, crew: Crew | None = None) -> FastAPI:
    """The application over opened stores, of which the first was tried to see how long batches take. Blocks for as long
    as that takes.

    Raises:
        ConfigError: the write key is none; two stores are one, or of two models.
        StoreInShards: there is a write key, and a store is in shards.
        FingerprintMismatch: the store was not made by the model.
        MemstoreError: anything else that opening stores and models find wrong.
    """
    for folder in settings.stores.values() if settings.has_write_key else ():
        refuse_shards(folder)
    costs = CostModel()
    tracing = tracing_of(os.environ)
    return create_app(opened(settings, costs, progress), settings, costs=costs, crew=crew, tracing=tracing)


def opened(settings: Settings, costs: CostModel | None = None, progress: Progress | None = None) -> dict[str, Engine]:
    """The answerer of each collection; opened, and the first tried to see how long batches take, in a thread that then
    ends. Errors as for `run`.

    OpenMP gives every thread that computes a pool of its own, for as long as the thread lives. With the main thread's
    pool beside the engine's there would be more threads than cores, and all would sleep between two products instead of
    waiting awake: answers took 1.7 times as long (DECISIONS.md, 2026-11-27).
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="memstore-open") as opener:
        report = progress or Progress(steps_of(settings))
        steps = itertools.count(FIRST_STORE)
        engines = opener.submit(open_all, settings, lambda name: report.begin(next(steps), f"opening {name}")).result()
        if costs is not None:
            report.begin(next(steps), "measuring how long answers take")
            opener.submit(_try, next(iter(engines.values())), settings, costs).result()
        return engines


def _try(engine: Engine, settings: Settings, costs: CostModel) -> None:
    calibrate(costs, engine, usual_question(with_beams(settings, engine.info())))


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
