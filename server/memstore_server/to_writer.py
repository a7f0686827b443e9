"""Of several workers, the one that changes stores replies to whatever is about changes. Knows ASGI, and no route."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from memstore_server.crew import WRITER, Crew
from memstore_server.doors import refusals
from memstore_server.service import NotReady
from memstore_server.together import PATIENCE, client

_CHANGES = ("/documents", "/generations", "/admin/rollback")
_CHANGES_BELOW = ("/documents/", "/jobs/")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "date", "server"}


class ToWriter:
    """Has the one worker that changes stores reply to whatever is about changes: its jobs are in its memory."""

    def __init__(self, app: ASGIApp, *, crew: Crew) -> None:
        self.app, self._client = app, client(crew, WRITER)

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
            request.method, url, headers=headers, content=content, timeout=httpx.Timeout(None, connect=PATIENCE)
        )


async def _read(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in reply.aiter_raw():
            yield piece
    finally:
        await reply.aclose()
