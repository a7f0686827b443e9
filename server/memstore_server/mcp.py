"""A memstore server for the Model Context Protocol: the tools `answer` and `search`, and passages as resources.

Knows MCP and our client. What answers is at the client's other end: a server elsewhere, or `in_process` an engine of
this process behind the same routes. Refuses to know which of the two.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import httpx
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import ResourceSecurity
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from memstore_client import AsyncClient, MemstoreClientError, NotFound, RankedPassageReply
from memstore_client.wire import KeptCount, MetadataValue
from memstore_server.keyring import KeyRing, TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from memstore_server.batching import Engine
    from memstore_server.settings import Settings

PATH = "/mcp"  # where the streamable HTTP is
PASSAGE = "memstore://passages/{passage_id}{?collection}"
INFO = "memstore://info"
INSTRUCTIONS = (
    "Answers questions from collections of texts, and finds passages in them. Use `answer` for a question with a short "
    "factual answer, and cite its passages; use `search` to read passages yourself. What is in no passage is not known "
    "here: an answer without passages is a guess."
)
_LOOKS_UP = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_NO_FILE = ResourceSecurity(exempt_params={"passage_id"})  # `..` and `/etc` are ids as good as others

Asked = Annotated[str, Field(description="A question in plain words, at most 2,000 characters.")]
Retrieved = Annotated[int | None, Field(ge=1, description="Passages retrieved and scored; by default the server's.")]
Kept = Annotated[
    KeptCount | None,
    Field(
        description="Passages read after reranking; by default the server's. `auto` reads the best until their scores "
        "leave little to the others."
    ),
]
Affordable = Annotated[
    float | None, Field(gt=0, description="Billions of operations that it may cost: fewer passages are read for that.")
]
Task = Annotated[str | None, Field(description="Task the question belongs to; `memstore://info` lists the model's.")]
Sure = Annotated[
    float | None,
    Field(ge=0, le=1, description="Below this confidence the answer is null, and says why; by default the server's."),
]
Wanted = Annotated[int, Field(ge=1, description="Passages wanted; fewer may match.")]
Where = Annotated[
    dict[str, Any] | None,
    Field(
        description="Only passages whose documents' metadata are so, such as "
        '{"lang": "en", "year": {"gte": 2000}, "tags": {"in": ["a", "b"]}}. `memstore://info` lists the fields.'
    ),
]
Of = Annotated[str | None, Field(description="Which collection; `memstore://info` lists them, the default first.")]


class FoundPassage(BaseModel):
    """A passage that was found, and where it can be read again."""

    id: str
    uri: str = Field(description="The passage as a resource of this server.")
    title: str
    text: str
    url: str
    score: float | None = Field(description="The reranker's where it was reranked, else the retriever's.")
    metadata: dict[str, MetadataValue]


class ToolAnswer(BaseModel):
    """What the tool `answer` returns."""

    answer: str | None = Field(description="Null where the server is not sure enough to say.")
    reason: str | None = Field(description="Why there is no answer; null where there is one.")
    confidence: float = Field(description="Probability that the answer is right, if `calibrated`; else no such one.")
    calibrated: bool
    score: float = Field(description="Sum of the answer tokens' log-probabilities.")
    passages: list[FoundPassage] = Field(description="Those that were read, best first; with none it is a guess.")
    retrieved: int = Field(description="Passages that were found and scored.")
    trained: bool = Field(description="False: the model's weights are random, and the answer means nothing.")
    lowered: list[str] | None = Field(
        description="Why fewer passages were found and read than asked for; null if they were not."
    )
    cut: bool = Field(description="Whether the length limit ended the answer, and not the model.")
    generation: int = Field(description="The store's generation that answered.")


class ToolPassages(BaseModel):
    """What the tool `search` returns."""

    passages: list[FoundPassage] = Field(description="Best first.")
    generation: int = Field(description="The store's generation that was searched.")


def mcp_server(client: AsyncClient) -> MCPServer[Any]:
    """The MCP server over a client, which stays open as long as the server runs.

    A tool that cannot do what was asked says so in its result (`isError`), for the model to read; a resource that does
    not exist is the protocol's error -32602, one that cannot be read -32603.
    """
    from memstore import __version__

    server: MCPServer[Any] = MCPServer("memstore", instructions=INSTRUCTIONS, version=__version__)

    @server.tool(title="Answer a question", annotations=_LOOKS_UP)
    async def answer(
        question: Asked,
        retrieve_k: Retrieved = None,
        keep_k: Kept = None,
        task: Task = None,
        filter: Where = None,
        collection: Of = None,
        min_confidence: Sure = None,
        max_gflop: Affordable = None,
    ) -> ToolAnswer:
        """Answers a question from a collection, with the passages that the answer was read from."""
        with _said_to_the_model():
            reply = await client.answer(
                question, retrieve_k=retrieve_k, keep_k=keep_k, task=task, filter=filter, collection=collection,
                min_confidence=min_confidence,
                max_gflop=max_gflop,
            )  # fmt: skip
        return ToolAnswer(
            answer=reply.answer,
            reason=reply.reason,
            confidence=reply.confidence,
            calibrated=reply.calibrated,
            score=reply.score,
            passages=[_found(one, collection) for one in reply.passages if one.kept],
            retrieved=len(reply.passages),
            trained=reply.model.trained,
            lowered=None if reply.lowered is None else reply.lowered.reasons,
            cut=reply.cut,
            generation=reply.store.generation,
        )

    @server.tool(title="Search for passages", annotations=_LOOKS_UP)
    async def search(question: Asked, k: Wanted = 10, filter: Where = None, collection: Of = None) -> ToolPassages:
        """Finds passages of a collection for a question or some words, best first, without answering."""
        with _said_to_the_model():
            reply = await client.retrieve(question, retrieve_k=k, filter=filter, collection=collection)
        found = [_found(one, collection) for one in reply.passages]
        return ToolPassages(passages=found, generation=reply.store.generation)

    @server.resource(PASSAGE, title="A passage", mime_type="application/json", security=_NO_FILE)
    async def passage(passage_id: str, collection: str | None = None) -> str:
        """A passage of a collection by its id: title, text, url, document, and metadata."""
        with _said_by_the_protocol():
            return (await client.passage(passage_id, collection=collection)).model_dump_json()

    @server.resource(INFO, title="The collections and the model", mime_type="application/json")
    async def info() -> str:
        """What answers: the model, the collections with the fields that a filter can name, limits and defaults."""
        with _said_by_the_protocol():
            return (await client.info()).model_dump_json()

    return server


@asynccontextmanager
async def in_process(answerers: Engine | Mapping[str, Engine], settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of engines in this process, warmed up. No port is opened, and nothing can change their stores.

    Raises:
        Exception: what the warm-up answer raised.
    """
    from memstore_server.app import create_app  # heavy, and of no use beside a server elsewhere

    app = create_app(
        answerers, settings.model_copy(update={"write_key": None, "write_key_file": None, "keys_file": None})
    )
    async with app.router.lifespan_context(app):
        await asyncio.wrap_future(app.state.service.warm_up)
        async with AsyncClient("http://memstore", timeout=None, transport=httpx.ASGITransport(app)) as client:
            yield client


async def serve_http(
    server: MCPServer[Any], listener: socket.socket, *, host: str, keys: KeyRing | None = None
) -> None:
    """Serves streamable HTTP at `/mcp` on a socket until SIGINT or SIGTERM asks to stop.

    On an address of this machine only, requests must name it in `Host` and `Origin`: a page in a browser cannot ask.

    Args:
        server: what to serve.
        listener: bound and listening.
        host: the address it was bound to, as named.
        keys: those that requests must show one of; without them everybody may ask who reaches the port.
    """
    app: ASGIApp = server.streamable_http_app(streamable_http_path=PATH, host=host)
    app = app if keys is None else _Keyed(app, keys)
    config = uvicorn.Config(app, http="h11", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=5)
    with _survived_signals():
        await uvicorn.Server(config).serve(sockets=[listener])


class _Keyed:
    """Has every request show a key of the ring."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request, or the life of the server (ASGI)."""
        if scope["type"] == "http":
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            try:
                if scheme.lower() != "bearer":
                    raise Unauthorized("send the header `Authorization: Bearer KEY` with a key of the server's")
                self._keys.spend(key.strip())
            except Unauthorized as error:
                await _refused(error, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
            except TooManyRequests as error:
                await _refused(error, 429, {"Retry-After": str(error.retry_after)})(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refused(error: Exception, status: int, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status, headers)


def passage_uri(passage_id: str, collection: str | None = None) -> str:
    """Where a passage is a resource; without a collection, one of the default's."""
    of = f"?collection={quote(collection, safe='')}" if collection else ""
    return f"memstore://passages/{quote(passage_id, safe='')}{of}"


def _found(one: RankedPassageReply, collection: str | None) -> FoundPassage:
    return FoundPassage(
        id=one.id,
        uri=passage_uri(one.id, collection),
        title=one.title,
        text=one.text,
        url=one.url,
        score=one.retrieval_score if one.rerank_score is None else one.rerank_score,
        metadata=one.metadata,
    )


@contextmanager
def _said_to_the_model() -> Iterator[None]:
    try:
        yield
    except MemstoreClientError as error:
        raise ToolError(str(error)) from error


@contextmanager
def _said_by_the_protocol() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise ResourceNotFoundError(str(error)) from error
    except MemstoreClientError as error:
        raise ResourceError(str(error)) from error


@contextmanager
def _survived_signals() -> Iterator[None]:
    """Uvicorn stops at these signals and raises them again when it is done; that must not end what comes after."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
