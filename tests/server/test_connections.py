"""Silent, slow and too many connections, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn

from memstore_server.addresses import bound_socket
from memstore_server.app import create_app
from memstore_server.connections import bounded
from memstore_server.settings import Settings
from tests.server.fakes import PATIENCE, FakeEngine

ASKED = b'{"question": "why?"}'
HEAD = b"POST /answer HTTP/1.1\r\nHost: memstore\r\nContent-Type: application/json\r\n"


@contextmanager
def serving(
    engine: FakeEngine, *, most: int = 1000, seconds: float = PATIENCE, busy: list[Callable[[], int]] | None = None
) -> Iterator[tuple[str, int]]:
    """The address of a server that is ready. `busy` is given what counts its questions that wait."""
    app = create_app(engine, Settings.load(store="store", max_batch=1))
    config = uvicorn.Config(
        app, http=bounded(most=most, seconds=seconds), ws="none", log_config=None, access_log=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            app.state.service.warm_up.result(PATIENCE)
            if busy is not None:
                busy.append(lambda: app.state.service._thread.waiting)
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE)


def whole_reply(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    read = b""
    while piece := connection.recv(65536):
        read += piece
    return read


def answered(address: tuple[str, int]) -> bool:
    """Whether somebody new gets an answer."""
    url = f"http://{address[0]}:{address[1]}/answer"
    return httpx.post(url, json={"question": "why?"}, timeout=PATIENCE).json()["answer"] == "why?!"


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /ans", HEAD + b"Content-Le", HEAD + b"Content-Length: 20\r\n\r\n" + ASKED[:7]],
    ids=["nothing", "a line", "a head", "a body"],
)
def test_a_request_that_does_not_arrive_in_time_is_not_waited_for(engine: FakeEngine, begun: bytes) -> None:
    with serving(engine, seconds=0.2) as address, connected(address) as slow:
        slow.sendall(begun)
        assert b" 200 " not in whole_reply(slow)  # it ends: the test would time out if it did not
        assert answered(address)
    assert engine.questions[1:] == engine.questions[-1:]  # the warm-up, and who asked in time


def test_a_second_request_has_its_own_time(engine: FakeEngine) -> None:
    with serving(engine, seconds=0.5) as address, connected(address) as client:
        client.sendall(HEAD + f"Content-Length: {len(ASKED)}\r\n\r\n".encode() + ASKED)
        assert b" 200 " in client.recv(65536)
        client.sendall(b"POST /answer HT")
        assert b" 200 " not in whole_reply(client)


def test_an_answer_may_take_longer_than_its_request(engine: FakeEngine) -> None:
    with serving(engine, seconds=0.1) as address, connected(address) as client:
        engine.gate.clear()
        assert engine.begun.acquire(timeout=PATIENCE)  # the warm-up
        client.sendall(HEAD + f"Content-Length: {len(ASKED)}\r\nConnection: close\r\n\r\n".encode() + ASKED)
        assert engine.begun.acquire(timeout=PATIENCE)
        with connected(address) as silent:
            assert whole_reply(silent) == b""  # more than that time has passed
        engine.gate.set()
        _, _, body = whole_reply(client).partition(b"\r\n\r\n")
    assert json.loads(body)["answer"] == "why?!"


def test_idle_connections_make_room_the_longest_idle_first(engine: FakeEngine) -> None:
    with serving(engine, most=5) as address, ExitStack() as stack:
        idle = [stack.enter_context(connected(address)) for _ in range(20)]
        assert answered(address)
        assert [whole_reply(one) for one in idle[:15]] == [b""] * 15
        last = idle[-1]
        last.sendall(HEAD + f"Content-Length: {len(ASKED)}\r\nConnection: close\r\n\r\n".encode() + ASKED)
        assert b" 200 " in whole_reply(last)


def test_where_all_are_busy_one_more_is_refused(engine: FakeEngine) -> None:
    waiting: list[Callable[[], int]] = []
    with serving(engine, most=2, busy=waiting) as address, ExitStack() as stack:
        assert engine.begun.acquire(timeout=PATIENCE)
        engine.gate.clear()
        busy = [stack.enter_context(connected(address)) for _ in range(2)]
        for one in busy:
            one.sendall(HEAD + f"Content-Length: {len(ASKED)}\r\nConnection: close\r\n\r\n".encode() + ASKED)
        assert engine.begun.acquire(timeout=PATIENCE)
        late = time.monotonic() + PATIENCE
        while not waiting[0]():  # one is answered, the other waits
            assert time.monotonic() < late
            time.sleep(0.01)
        with connected(address) as more:
            reply = whole_reply(more)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in reply
        engine.gate.set()
        assert [whole_reply(one)[:12] for one in busy] == [b"HTTP/1.1 200"] * 2
