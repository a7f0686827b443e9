"""Faults of clients: bodies that are none, wrong keys, and connections that are slow, silent or gone."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from tests.faults.world import KEY, LIMIT, PATIENCE, World, is_problem

JSON = {"Content-Type": "application/json"}
ROUTES = ("/answer", "/answer/batch", "/retrieve", "/rerank")
REFUSED = (400, 413, 415, 422)
NOTHING_SAID = 0.2  # seconds in which a server that waits for more says nothing


def valid(chance: random.Random) -> tuple[str, dict]:
    """A route, and a body that it takes."""
    question = {"question": chance.choice(["why?", "the river", "é" * 50, "\U0001f9a6?"])}
    return chance.choice([
        ("/answer", question), ("/answer/batch", {"questions": [question, question]}), ("/retrieve", question),
        ("/rerank", {**question, "passages": [{"text": "a"}, {"text": "b"}]}),
        ("/answer", {**question, "filter": {"not": "there"}}),
    ])  # fmt: skip


def malformed(world: World, chance: random.Random) -> None:
    """A body whose bytes were changed on their way."""
    route, body = valid(chance)
    sent = bytearray(json.dumps(body, ensure_ascii=chance.random() < 0.5).encode())
    for _ in range(chance.randint(1, 4)):
        match chance.randrange(4):
            case 0:
                del sent[chance.randrange(len(sent)) :]
            case 1 if sent:
                sent[chance.randrange(len(sent))] ^= 1 << chance.randrange(8)
            case 2:
                at = chance.randrange(len(sent) + 1)
                sent[at:at] = chance.choice([b"\0", b"\xff\xfe", b"NaN", b"1e999", b"\\ud800", b'"', b"{", b"9" * 5000])
            case _:
                sent += bytes(sent)
        if not sent:
            break
    reply = world.http.post(route, content=bytes(sent), headers=JSON)
    if reply.status_code != 200:  # what was changed may be within a string
        is_problem(reply, *REFUSED)


def of_another_kind(world: World, chance: random.Random) -> None:
    """JSON of the right keys, and values of other kinds."""
    odd = (None, True, -1, 0, 10**400, 1.5, "", "x" * 3000, "\ud800", [], [[]], {}, {"a": None}, [None] * 50)
    route, body = valid(chance)
    field = chance.choice(["question", "retrieve_k", "keep_k", "filter", "passages", "collection", "deadline_ms",
                           "num_beams", "questions", "min_confidence", "stream"])  # fmt: skip
    body = {**body, field: chance.choice(odd)}
    reply = world.http.post(route, content=json.dumps(body).encode(), headers=JSON)
    if reply.status_code != 200:
        is_problem(reply, 404, *REFUSED)


def nested(world: World, chance: random.Random) -> None:
    """A body nested deeper than any parser goes, within a known field or instead of one."""
    depth = chance.choice([60, 150, 300, 900, 5_000, 40_000])
    opened, closed = chance.choice([("[", "]"), ('{"a":', "}"), ('{"not":', "}"), ('{"filter":', "}")])
    inside = opened * depth + "1" + closed * depth
    field = chance.choice(["filter", "passages", "question", "no_such"])
    body = inside if chance.random() < 0.4 else f'{{"question": "why?", "{field}": {inside}}}'
    is_problem(world.http.post(chance.choice(ROUTES), content=body[: LIMIT * 3].encode(), headers=JSON), *REFUSED)


def huge(world: World, chance: random.Random) -> None:
    """More bytes than are allowed: announced, or not."""
    body = b'{"question": "' + b"a" * LIMIT * chance.randint(1, 20) + b'"}'
    announced = chance.random() < 0.5
    content = body if announced else (body[at : at + 10_000] for at in range(0, len(body), 10_000))
    with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):  # it may miss a no that comes early
        is_problem(world.http.post(chance.choice(ROUTES), content=content, headers=JSON), 413)


def wrong_key(world: World, chance: random.Random) -> None:
    """No key, another one, half of one, one of other characters."""
    shown = chance.choice([None, "", "Bearer", f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x",
                           f"Bearer {KEY} {KEY}", "Bearer " + "é" * 20, "Bearer " + "k" * 20_000, KEY])  # fmt: skip
    headers = {} if shown is None else {"Authorization": shown.encode()}
    method, path = chance.choice([
        ("PUT", "/documents"), ("DELETE", "/documents"), ("POST", "/admin/rollback"), ("GET", "/generations"),
        ("POST", "/admin/reload"), ("GET", "/jobs/1"), ("DELETE", "/jobs/1"), ("GET", "/documents/a"),
    ])  # fmt: skip
    is_problem(world.http.request(method, path, headers=headers, content=b"{", timeout=PATIENCE), 401)


def another_protocol(world: World, chance: random.Random) -> None:
    """Bytes that are no HTTP, or a strange kind of it. Whatever is said, it is no failure of the server's."""
    host = b"Host: m\r\n"
    sent = chance.choice([
        chance.randbytes(chance.randint(1, 2000)) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(100) + b"\r\n\r\n",  # TLS
        b"GET /\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /%00%ff%zz/../.. HTTP/1.1\r\n" + host + b"\r\n",
        b"GET http://elsewhere/health HTTP/1.1\r\n" + host + b"\r\n",
        b"BREW /answer HTTP/1.1\r\n" + host + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n",
        b"POST /answer HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n\r\n",
        b"POST /answer HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /answer HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\n" + host + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + host * 300 + b"\r\n",
        b"GET /health HTTP/9.9\r\n" + host + b"\r\n",
    ])  # fmt: skip
    with connected(world) as client, suppress(ConnectionError):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        reply = client.recv(65_536)
        assert not reply or reply.startswith(b"HTTP/1.1 "), reply
        assert reply[9:10] != b"5", reply


def slow(world: World, chance: random.Random) -> None:
    """A request that comes in small pieces is answered like any other."""
    head, body = request()
    with connected(world) as client:
        whole = head + body
        while whole:
            piece = chance.randint(1, 60)
            client.sendall(whole[:piece])
            whole = whole[piece:]
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


def silent(world: World, chance: random.Random) -> None:
    """Clients that connect, say a part or nothing, and wait; the others are served meanwhile."""
    head, body = request()
    whole = head + body
    waiting = [socket.create_connection(("127.0.0.1", world.port)) for _ in range(chance.randint(1, 30))]
    try:
        for client in waiting:
            client.sendall(whole[: chance.choice([0, 5, len(head), len(head) + 3])])
        assert world.http.get("/health").status_code == 200
        waiting[0].settimeout(NOTHING_SAID)
        with suppress(TimeoutError):
            assert waiting[0].recv(1) == b""
    finally:
        for client in waiting:
            client.close()


def vanishing(world: World, chance: random.Random) -> None:
    """A client that is gone: in the middle of its request, of its answer, or of a stream."""
    head, body = request(stream=chance.random() < 0.5)
    whole = head + body
    with connected(world) as client:
        client.sendall(whole[: chance.choice([5, len(head), len(head) + 3, len(whole), len(whole)])])
        if chance.random() < 0.3:
            client.settimeout(NOTHING_SAID)
            with suppress(TimeoutError, ConnectionError):
                client.recv(10)
        if chance.random() < 0.5:  # with a reset instead of a goodbye
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def deadline(world: World, chance: random.Random) -> None:
    """A deadline that cannot be met, among others that can."""
    reply = world.http.post("/answer", json={"question": "why?", "deadline_ms": chance.choice([1, 2, 5, 60_000])})
    if reply.status_code != 200:
        is_problem(reply, 503, 504)


def clock(world: World, chance: random.Random) -> None:
    """The machine's clock jumps, by seconds or years, forth or back."""
    world.clock.write_text(str(chance.choice([0, 1, -1]) * 10 ** chance.uniform(0, 9)))
    reply = world.http.post("/answer", json={"question": "why?", "deadline_ms": 200_000})
    assert reply.status_code == 200, reply.text


def request(*, stream: bool = False) -> tuple[bytes, bytes]:
    """Head and body of a question."""
    body = json.dumps({"question": "the river", "stream": stream}).encode()
    head = f"POST /answer HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


@contextmanager
def connected(world: World) -> Iterator[socket.socket]:
    """A connection to the server."""
    with socket.create_connection(("127.0.0.1", world.port), timeout=PATIENCE) as client:
        yield client


CLIENTS = (
    malformed, malformed, of_another_kind, of_another_kind, nested, nested, huge, wrong_key, another_protocol,
    another_protocol, slow, silent, vanishing, vanishing, deadline, clock,
)  # fmt: skip
