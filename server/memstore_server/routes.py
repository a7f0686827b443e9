"""The routes: each takes a wire request, awaits the service, returns a wire reply. No work is done here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from fastapi.sse import EventSourceResponse
from starlette.convertors import Convertor, register_url_convertor

from memstore_client import served, wire
from memstore_server import problems, streaming
from memstore_server.gates import QueuedRoute
from memstore_server.keys import KeyedRoute
from memstore_server.logs import request_id
from memstore_server.metrics import MEDIA_TYPE
from memstore_server.service import Service
from memstore_server.together import asks_for_own, metrics_of_all

T = TypeVar("T")
router = APIRouter(route_class=QueuedRoute)  # what the engine does
about = APIRouter()  # what is known without it
admin = APIRouter(route_class=KeyedRoute)  # for who has the key, where there is one
DOCS_FILES = "docs-static"  # the folder of what the page at /docs asks for

_QUEUED = (problems.NOT_READY, problems.OVERLOADED)
_POSTED = (
    *_QUEUED, problems.TOO_LATE, problems.DEADLINE_EXCEEDED, problems.UNREADABLE_BODY, problems.BODY_TOO_LARGE,
    problems.NOT_JSON, problems.INVALID_REQUEST, problems.IMPOSSIBLE_REQUEST, problems.INTERNAL,
    problems.STORE_DAMAGED, problems.COLLECTION_NOT_FOUND, problems.STORE_UNREACHABLE,
)  # fmt: skip


class _AnyText(Convertor[str]):
    """What the rest of a path is, line feeds included: Starlette's own `path` ends before one, or does not match."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())  # Starlette knows kinds of path parameters by name only


async def service_of(request: Request) -> Service:
    """The service of the app that got the request. Not a plain function: FastAPI would run it in another thread."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]
CollectionQuery = Annotated[str | None, Query(description="Which collection; the first where none is named.")]


@router.post(
    "/answer", tags=["questions"], response_model=wire.AnswerReply,
    responses=streaming.documented(problems.documented(*_POSTED)),
)  # fmt: skip
async def answer(
    asked: wire.AnswerRequest, request: Request, service: ServiceOf
) -> wire.AnswerReply | EventSourceResponse:
    """Answer a question from the store, or from passages of your own.

    Retrieves `retrieve_k` passages, reranks them, and reads the best `keep_k`. The reply says what was read,
    how long each stage took, and what FiD, which precomputes nothing, would have computed for the same.

    With `"stream": true` the reply is a stream of server-sent events: `retrieved` and `ranked` with the passages,
    `token` with each piece of the answer, and `done` with the whole reply. What goes wrong before the first event has
    its own status, as without a stream; after it, an `error` event with the same problem object ends the stream.
    """
    if asked.stream:
        return await unless_disconnected(request, streaming.response(service.stream(asked), request))
    return await unless_disconnected(request, service.answer(asked))


@router.post("/answer/batch", tags=["questions"], responses=problems.documented(*_POSTED))
async def answer_batch(asked: wire.AnswerBatchRequest, request: Request, service: ServiceOf) -> wire.AnswerBatchReply:
    """Answer several questions. One that cannot be answered has a problem in its place."""
    outcomes = await unless_disconnected(request, service.answer_batch(asked))
    items = [
        wire.BatchItem(problem=problems.problem(outcome, path=request.url.path)[0])
        if isinstance(outcome, Exception)
        else wire.BatchItem(answer=outcome)
        for outcome in outcomes
    ]
    return wire.AnswerBatchReply(items=items, request_id=request_id.get())


@router.post("/retrieve", tags=["passages"], responses=problems.documented(*_POSTED))
async def retrieve(asked: wire.RetrieveRequest, request: Request, service: ServiceOf) -> wire.RetrieveReply:
    """Find passages for a question, best first, without reading them."""
    return await unless_disconnected(request, service.retrieve(asked))


@router.post("/rerank", tags=["passages"], responses=problems.documented(*_POSTED))
async def rerank(asked: wire.RerankRequest, request: Request, service: ServiceOf) -> wire.RerankReply:
    """Score passages of your own for a question, best first."""
    return await unless_disconnected(request, service.rerank(asked))


@router.get(
    "/passages/{passage_id:any_text}",
    tags=["passages"],
    responses=problems.documented(
        *_QUEUED,
        problems.PASSAGE_NOT_FOUND,
        problems.COLLECTION_NOT_FOUND,
        problems.INTERNAL,
        problems.STORE_DAMAGED,
        problems.STORE_UNREACHABLE,
    ),
)
async def passage(
    passage_id: str, request: Request, service: ServiceOf, collection: CollectionQuery = None
) -> wire.PassageReply:
    """A passage of the store by its id, as replies name it."""
    return await unless_disconnected(request, service.passage(passage_id, collection))


@about.get("/health", tags=["server"], responses=problems.documented(problems.NOT_READY))
async def health(service: ServiceOf) -> served.HealthReply:
    """The process is alive, and can answer or will be able to (see /ready). 503 when only a restart helps."""
    service.require_alive()
    return served.HealthReply()


@about.get("/ready", tags=["server"], responses=problems.documented(problems.NOT_READY))
async def ready(service: ServiceOf) -> served.ReadyReply:
    """Questions can be answered: a warm-up answer has succeeded, and the server is not shutting down."""
    service.require_ready()
    return served.ReadyReply()


@about.get("/info", tags=["server"], responses=problems.documented(problems.COLLECTION_NOT_FOUND))
async def info(service: ServiceOf, collection: CollectionQuery = None) -> served.InfoReply:
    """The model and store that answer, the limits and defaults of requests, and the collections that there are."""
    return service.info(collection)


@admin.post(
    "/admin/reload",
    tags=["store"],
    responses=problems.documented(
        problems.UNAUTHORIZED, problems.COLLECTION_NOT_FOUND, problems.NOT_READY, problems.NOT_RELOADED
    ),
)
async def reload(service: ServiceOf, collection: CollectionQuery = None) -> served.ReloadReply:
    """Take up the generation that is in force in the store, between two batches; no question is refused meanwhile.

    A generation that is damaged, or that another model made, is not taken up: the former one goes on answering.
    """
    return await service.reload(collection)


@about.get("/metrics", include_in_schema=False)
async def metrics(request: Request, service: ServiceOf) -> Response:
    """What the server counts, for Prometheus; of several workers, what each of them does."""
    crew, text = request.app.state.crew, service.metrics.text()
    if crew is not None and not asks_for_own(request):
        text = await metrics_of_all(crew, text)
    return Response(text, media_type=MEDIA_TYPE)


@about.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The API's page. Its addresses are relative, so that a proxy may put the server below any path."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="memstore",
        swagger_js_url=f"{DOCS_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{DOCS_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{DOCS_FILES}/favicon.png",
    )


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`; if the client hangs up first, cancels it: what has not begun leaves the queue.

    Raises:
        ClientDisconnected: the client hung up.
        HTTPException: it sent a body to a GET, and one too large.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            gone.result()
        if not working.done():
            raise problems.ClientDisconnected
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Returns when the client has hung up. To be called when the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
