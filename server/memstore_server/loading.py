"""What listens before there is anything to answer with: says how far loading is, and hands over when that is done.

Knows ASGI, and the thread that loads. Refuses to import the engine, torch, or whatever else takes seconds to import:
that is the first step of what it reports on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memstore_client.served import HealthReply
from memstore_client.wire import PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER, Loading, Problem
from memstore_server import page_files
from memstore_server.doors.wording import shape_of
from memstore_server.kinds import NOT_READY
from memstore_server.logs import request_id, sane_id
from memstore_server.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("memstore_server.access")
FIRST_STORE = 2
"""The step of loading that opens the first store, after the libraries are imported; others follow."""
_PAGE = "/page/"
_PLAIN_IN_PATHS = "/:@!$&'()*+,;=~"  # RFC 3986, 3.3


def steps_of(settings: Settings) -> int:
    """Of loading: the libraries, each store, measuring, the warm-up."""
    return FIRST_STORE + len(settings.stores) + 1


class Progress:
    """How far loading is: written by the thread that loads, read by all."""

    def __init__(self, steps: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._clock, self._began = steps, clock, clock()
        self._now = (1, "starting")

    def begin(self, step: int, doing: str) -> None:
        """A step begins, counted from 1."""
        self._now = (step, doing)

    @property
    def now(self) -> Loading:
        """As replies have it."""
        step, doing = self._now
        return Loading(step=step, steps=self._steps, doing=doing, seconds=round(self._clock() - self._began, 1))


Load = Callable[[Progress], "FastAPI"]
"""Makes the application over opened stores; blocks. Its `state.service` has yet to be started."""


class Front:
    """The application that is served: its own short replies while `load` runs, and the loaded application's from the
    end of its warm-up on.

    Args:
        load: run once, in a thread that has ended when the application starts.
        settings: origins that may ask.
        steps: of loading; the last one, the warm-up, begins when `load` has returned.
        ready: called with the loaded application when it can answer.
        failed: called when it never will; `failure` then says why.
        at_once: whether the server may listen before there is anything to answer with.
    """

    def __init__(
        self,
        load: Load,
        settings: Settings,
        *,
        steps: int,
        ready: Callable[[FastAPI], None],
        failed: Callable[[], None],
        at_once: bool = True,
    ) -> None:
        self.progress = Progress(steps)
        self.failure: BaseException | None = None
        self._steps, self._ready, self._failed = steps, ready, failed
        self._thread = _Loader(load, self.progress)
        self._loaded: FastAPI | None = None
        self._app: ASGIApp = allowing_origins(_WhileLoading(self.progress), settings)
        self._stopping, self._at_once = False, at_once

    @property
    def ended(self) -> bool:
        """Whether nothing runs any more that the end of the process would end in its middle."""
        if self._loaded is None:
            return not self._thread.is_alive()
        return bool(self._loaded.state.service.ended)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, or the life of the server (ASGI)."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        self._changed, self._settled = asyncio.Event(), asyncio.Event()
        await receive()
        loading = asyncio.create_task(self._load())
        if not self._at_once:
            await self._settled.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._stopping = True
        self._changed.set()
        if self._loaded is None:
            loading.cancel()  # what is loaded now, nobody will need
        with suppress(asyncio.CancelledError):
            await loading
        await send({"type": "lifespan.shutdown.complete"})

    async def _load(self) -> None:
        try:
            app = await self._thread.result()
            async with app.router.lifespan_context(app):
                self._loaded = app
                await self._serve(app)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - also a library's panic; `serve` raises it in the end
            self.failure = error
            self._failed()
            self._settled.set()

    async def _serve(self, app: FastAPI) -> None:
        """From the start of the application to its end. Raises what its warm-up raised."""
        self.progress.begin(self._steps, "answering a first question")
        app.state.service.warm_up.add_done_callback(_waking(self._changed))
        await self._changed.wait()
        if self._stopping:
            return
        if (error := app.state.service.warm_up.exception()) is not None:
            raise error
        self._app = app
        self._changed.clear()
        self._ready(app)
        self._settled.set()
        await self._changed.wait()


class _Loader(threading.Thread):
    """The thread that loads. A daemon: a server that is stopped meanwhile does not wait for it."""

    def __init__(self, load: Load, progress: Progress) -> None:
        super().__init__(name="memstore-load", daemon=True)
        self._load, self._progress = load, progress
        self._app: FastAPI | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Loads. Whatever it raises is for who waits."""
        try:
            self._app = self._load(self._progress)
        except BaseException as error:  # noqa: BLE001 - also a library's panic has to reach the event loop
            self._error = error
        finally:
            self._done()

    async def result(self) -> FastAPI:
        """Starts, waits until the thread has ended, and returns what it has loaded, or raises what it raised."""
        done = asyncio.Event()
        self._done = _waking(done)
        self.start()
        await done.wait()
        await asyncio.to_thread(self.join)  # with it ends its pool of OpenMP threads, before the engine makes one
        if self._error is not None:
            raise self._error
        assert self._app is not None
        return self._app


def _waking(event: asyncio.Event) -> Callable[..., None]:
    """Sets an event of this loop from another thread."""
    loop = asyncio.get_running_loop()

    def wake(*_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(event.set)

    return wake


class _WhileLoading:
    """`/health` is 200, the page is there, and whatever else is asked gets how far loading is, as a 503."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        request = Request(scope)
        name = sane_id(request.headers.get(REQUEST_ID_HEADER, ""))
        token = request_id.set(name)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = name
            await send(message)

        try:
            response = self._reply(request)
            await response(scope, receive, send_with_id)
            milliseconds = (time.monotonic() - began) * 1000
            log.info("%s %s %d %.1f ms", request.method, quote(scope["path"]), response.status_code, milliseconds)
        finally:
            request_id.reset(token)

    def _reply(self, request: Request) -> Response:
        path = _path_of(request)
        if request.method in ("GET", "HEAD"):
            if path == "/health":
                return JSONResponse(HealthReply().model_dump())
            if path == "/":
                return page_files.index_reply(request)
            if path.startswith(_PAGE) and (file := page_files.file_reply(path.removeprefix(_PAGE), request)):
                return file
        return self._not_yet(request)

    def _not_yet(self, request: Request) -> Response:
        now = self._progress.now
        problem = Problem(
            type=NOT_READY.type,
            title=NOT_READY.title,
            status=NOT_READY.status,
            detail=f"the server is loading: step {now.step} of {now.steps}, {now.doing}; {now.seconds:.0f} s so far",
            instance=quote(request.scope["path"], safe=_PLAIN_IN_PATHS),
            request_id=request_id.get(),
            loading=now,
        )
        headers, shape = {"Retry-After": "1"}, shape_of(_path_of(request))
        if shape is not None:
            return JSONResponse(shape(problem), NOT_READY.status, headers)
        return JSONResponse(problem.model_dump(), NOT_READY.status, headers, media_type=PROBLEM_MEDIA_TYPE)


def _path_of(request: Request) -> str:
    return str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))


def allowing_origins(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The application as pages of the origins that the settings name may ask it."""
    if not settings.cors_origin:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(settings.cors_origin),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", REQUEST_ID_HEADER],
        expose_headers=[REQUEST_ID_HEADER, "Retry-After"],
    )
