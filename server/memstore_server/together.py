"""What workers that serve one address ask of each other: what each counts, and changes of stores of the one that makes
them.

Knows ASGI, and Prometheus' form of metrics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from memstore_server.crew import Crew
from memstore_server.doors import refusals
from memstore_server.service import NotReady

log = logging.getLogger(__name__)
WRITER = 0
"""The worker that changes stores, for all."""
_OWN = "own"  # a query of /metrics: this worker's alone
_CHANGES = ("/documents", "/generations", "/admin/rollback")
_CHANGES_BELOW = ("/documents/", "/jobs/")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "date", "server"}
_PATIENCE = 2.0  # seconds that a worker has to say what it counts


def asks_for_own(request: Request) -> bool:
    """Whether another worker asks: it gets this one's metrics alone."""
    return _OWN in request.query_params


async def metrics_of_all(crew: Crew, own: bytes) -> bytes:
    """What all workers count, each sample with the `worker` it is of, and which of them there are."""
    others = [number for number in range(crew.size) if number != crew.number]
    told = await asyncio.gather(*(_metrics_of(crew, number) for number in others))
    texts = {crew.number: own, **dict(zip(others, told, strict=True))}
    return merged({number: texts[number] for number in range(crew.size)})


async def _metrics_of(crew: Crew, number: int) -> bytes | None:
    try:
        async with _client(crew, number) as http:
            reply = await http.get("/metrics", params={_OWN: "1"}, timeout=_PATIENCE)
    except httpx.HTTPError as error:
        log.warning("worker %d does not say what it counts: %s", number, type(error).__name__)
        return None
    return reply.content if reply.is_success else None


def _client(crew: Crew, number: int) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(crew.place(number)))
    return httpx.AsyncClient(transport=transport, base_url="http://worker")


def merged(texts: Mapping[int, bytes | None]) -> bytes:
    """One text of the workers' metrics, a `worker` label on each sample. None is of one that is not there."""
    up = Metric("memstore_worker_up", "Whether a worker can be asked.", "gauge")
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        worker = {"worker": str(number)}
        up.add_sample(up.name, worker, float(text is not None))
        for family in text_string_to_metric_families((text or b"").decode()):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, **worker}, sample.value, sample.timestamp)
    registry = CollectorRegistry()
    registry.register(_Collected([up, *families.values()]))
    return generate_latest(registry)


class _Collected(Collector):
    """Metrics that were collected before."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._metrics


class ToWriter:
    """Has the one worker that changes stores reply to whatever is about changes: its jobs are in its memory."""

    def __init__(self, app: ASGIApp, *, crew: Crew) -> None:
        self.app, self._client = app, _client(crew, WRITER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not (path in _CHANGES or path.startswith(_CHANGES_BELOW)):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            reply = await self._client.send(self._same(request), stream=True)
        except httpx.TransportError:
            away = NotReady("the worker that changes stores is starting again: try again in a moment")
            await refusals.reply(away, scope)(scope, receive, send)
            return
        headers = {name: value for name, value in reply.headers.items() if name not in _HOP_BY_HOP}
        response = StreamingResponse(_read(reply), reply.status_code, headers)
        await response(scope, receive, send)

    def _same(self, request: Request) -> httpx.Request:
        """The request as it came. Its body is read as it is sent on."""
        raw = request.scope["raw_path"].split(b"?")[0].removeprefix(request.scope.get("root_path", "").encode())
        query = request.scope.get("query_string", b"")
        headers = [(name, value) for name, value in request.headers.raw if name.decode("latin-1") not in _HOP_BY_HOP]
        url = httpx.URL("http://worker").copy_with(raw_path=raw + (b"?" + query if query else b""))
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        content = request.stream() if has_body else None
        return self._client.build_request(
            request.method, url, headers=headers, content=content, timeout=httpx.Timeout(None, connect=_PATIENCE)
        )


async def _read(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in reply.aiter_raw():
            yield piece
    finally:
        await reply.aclose()
