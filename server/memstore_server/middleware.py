"""What surrounds every request, as plain ASGI: its id, its log line, the limit on its body, HEAD, the last net.

Knows ASGI messages. Refuses to know routes and the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memstore.errors import MemstoreError
from memstore_client.wire import REQUEST_ID_HEADER
from memstore_server.doors import refusals
from memstore_server.keys import BODY_LIMIT, Gate
from memstore_server.logs import request_id, sane_id
from memstore_server.service import NotReady, Service

log = logging.getLogger("memstore_server.access")
_OPEN = ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json")  # what says nothing of a store's contents
_OPEN_FOLDERS = ("/docs-static/", "/page/")
_EXAMPLES = "/page/examples"  # titles of passages


class RequestContext:
    """Gives each request an id (the client's own if it is sane), and logs how it ended.

    The id is in the reply's header and in every log line. An exception nobody foresaw ends here, as a
    problem; so does the cancellation of requests that a server which stops has no more time for. A client that
    has hung up gets no reply: what is sent to it goes nowhere.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = sane_id(Headers(scope=scope).get(REQUEST_ID_HEADER, ""))
        began, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = name
            await send(message)

        token = request_id.set(name)
        try:
            await self.app(scope, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:
            if status:  # too late to reply with anything else; the server closes the connection
                raise
            shown = error if isinstance(error, Exception) else NotReady("the server shut down before there was a reply")
            await refusals.reply(shown, scope)(scope, receive, send_with_id)
        finally:
            milliseconds = (time.monotonic() - began) * 1000
            if status:
                _count(scope, status, milliseconds / 1000)
            log.info("%s %s %d %.1f ms", scope["method"], quote(scope["path"]), status, milliseconds)
            request_id.reset(token)


def _count(scope: Scope, status: int, seconds: float) -> None:
    """Counts a request under the pattern of its route, for which it may not matter what else is in the path."""
    if "app" not in scope:  # no application has seen it
        return
    service: Service = scope["app"].state.service
    route = getattr(scope.get("route"), "path", "none")
    service.metrics.request(route=route, method=scope["method"], status=status, seconds=seconds)


class HeadAsGet:
    """Replies to HEAD as to GET (RFC 9110, 9.3.2): load balancers ask so. The HTTP server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class AskedForKeys:
    """Has every request show a key, where the server has some, but for what says nothing of what is in a store."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path == _EXAMPLES or not (path in _OPEN or path.startswith(_OPEN_FOLDERS)):
                try:
                    self.gate.require_reader(Headers(scope=scope).get("authorization"))
                except MemstoreError as error:
                    await refusals.reply(error, scope)(scope, receive, send)
                    return
        await self.app(scope, receive, send)


class BodyLimit:
    """Stops reading a body that is longer than `most` bytes, announced or not, or than its route's own limit."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        taken = int(announced) if announced.isdecimal() else 0
        received = 0

        async def receive_within() -> Message:
            nonlocal received
            most = int(scope.get(BODY_LIMIT, self.most))  # routes are found after this was called, and before it reads
            if taken > most:
                raise _too_large(most)
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self.app(scope, receive_within, send)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The body may have at most {most} bytes.")
