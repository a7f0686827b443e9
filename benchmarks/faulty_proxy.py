"""A proxy between memstore and an S3 server that delays answers, and does to them what networks and servers do.

It parses as much HTTP as it needs: heads, bodies by their length or in chunks, connections that stay open.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["reset", "500", "503", "cut", "wrong"]
"""The connection is reset; an error without a word; SlowDown; half of the body; a body with another byte in it."""
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass(slots=True)
class Proxy:
    """What the proxy does, changed while it runs, and what it has seen.

    Attributes:
        delay: seconds before each answer.
        fault: what is done to the answer of a request, by method and path; None for nothing.
        requests: methods and paths so far.
        until: none is answered before so many have come.
        bytes: of answers' bodies.
    """

    port: int = 0
    delay: float = 0.0
    fault: Callable[[str, str], Fault | None] = lambda _method, _path: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    until: int = 0
    bytes: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def between(server: str) -> Iterator[Proxy]:
    """A proxy before a server, in a thread of its own."""
    proxy, loop, ready = Proxy(), asyncio.new_event_loop(), threading.Event()
    host, port = server.removeprefix("http://").split(":")
    stop = asyncio.Event()

    async def run() -> None:
        held: set[asyncio.Task[None] | None] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held.add(asyncio.current_task())  # the loop alone would let a task go whose two sides have both left
            with suppress(OSError, EOFError, asyncio.CancelledError):  # the other side left; or the test is over
                await _connection(proxy, (host, int(port)), reader, writer)
            writer.close()
            held.discard(asyncio.current_task())

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listener.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with suppress(asyncio.CancelledError, OSError, EOFError):
                await task
        await asyncio.sleep(0)  # a transport that was closed ends in the loop's next turn

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="proxy", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _connection(
    proxy: Proxy, server: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    upstream, forward = await asyncio.open_connection(*server)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.decode("latin-1").split(" ", 2)
            forward.write(head + await _body(head, reader))
            await forward.drain()
            answer = await upstream.readuntil(b"\r\n\r\n")
            bare = method == "HEAD" or answer.split(b" ", 2)[1] in (b"204", b"304")
            body = b"" if bare else await _body(answer, upstream)
            proxy.requests.append((method, path))
            proxy.bytes += len(body)
            await asyncio.sleep(proxy.delay)
            while len(proxy.requests) < proxy.until:  # noqa: ASYNC110 - set in another thread
                await asyncio.sleep(0.005)
            if not await _answer(proxy.fault(method, path), answer, body, writer):
                return
    finally:
        forward.close()


async def _answer(fault: Fault | None, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
    """Send the answer, or what a fault makes of it. Whether the connection stays open."""
    match fault:
        case "reset":
            raw = writer.get_extra_info("socket")
            raw.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of no time: close() resets
            return False
        case "500":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
        case "503":
            length = str(len(_SLOW_DOWN)).encode()
            writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: " + length + b"\r\n\r\n" + _SLOW_DOWN)
        case "cut" if body:
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            return False
        case "wrong" if body:
            writer.write(head + body[:-1] + bytes([body[-1] ^ 1]))
        case _:
            writer.write(head + body)
    await writer.drain()
    return True


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body that follows a head, as it came."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        parts = []
        while True:
            line = await reader.readuntil(b"\r\n")
            parts += [line, await reader.readexactly(int(line, 16) + 2)]
            if int(line, 16) == 0:
                return b"".join(parts)
    return await reader.readexactly(int(fields.get(b"content-length", b"0")))
