"""Connections that cannot starve the server: a request has to arrive in time, and who is idle makes room.

Uvicorn ends connections that are idle after a reply, but waits for ever for a request that does not come, or not all of
it. Knows uvicorn's HTTP/1.1 protocol (h11), of which this is a kind.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)
SPARE_FILES = 1024  # that the store, logs and libraries may have open beside connections
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 46\r\n\r\nall connections that the server takes are busy"
)


class BoundedProtocol(H11Protocol):
    """A connection. Settings are of the class: see `bounded`."""

    most: ClassVar[int] = 1000
    seconds: ClassVar[float] = 60.0
    _arriving: asyncio.TimerHandle | None = None
    since = 0.0  # when it was last found idle, on the loop's clock

    @property
    def idle(self) -> bool:
        """Whether nothing is asked here, or only begun to be."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come. One that is idle for the longest time goes, where there are too many."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._expect()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Something of a request."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._expect()
        else:
            self._has_arrived()

    def on_response_complete(self) -> None:
        """The reply is sent: the next request may come, or be here already."""
        self.since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._has_arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.seconds, self._give_up)

    def _has_arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _give_up(self) -> None:
        """The request is not here in time. Who waits for its body hears that the client has gone."""
        self._arriving = None
        self.transport.close()

    def _make_room(self) -> None:
        """Where there are too many. Those that are being closed are still among the server's for a moment."""
        if len(self.connections) <= self.most:
            return
        there = [one for one in self.connections if not one.transport.is_closing()]
        if len(there) <= self.most:
            return
        others = [one for one in there if isinstance(one, BoundedProtocol) and one is not self and one.idle]
        if others:
            min(others, key=lambda one: one.since).transport.close()
        else:
            log.warning("a connection is refused: %d are busy", self.most)
            self.transport.write(_FULL)
            self.transport.close()


def bounded(*, most: int, seconds: float) -> type[BoundedProtocol]:
    """The protocol of a server that has at most so many connections, and waits so long for a request to arrive."""
    return type("BoundedProtocol", (BoundedProtocol,), {"most": most, "seconds": seconds})


def allow_files(connections: int) -> None:
    """Asks the system for as many open files as these connections need; where it has fewer, says so."""
    wanted = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("the system allows %d open files, and %d connections may need %d", most, connections, wanted)
