"""Streamed answers in both clients: typed events, the errors that a stream stands for, when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from memstore_client import (
    AnswerReply,
    AsyncClient,
    BadRequest,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    MemstoreClientError,
    NotReady,
    Overloaded,
    RankedEvent,
    RetrievedEvent,
    ServerFailed,
    Timeout,
    TokenEvent,
    UnexpectedReply,
)
from tests.client.test_client_calls import ANSWER, RANKED

STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "X-Request-ID": "r-1"}
LINE = "\u2028"  # a line's end for Python, not for a stream of events


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


FOUND = event("retrieved", passages=[{**RANKED, "kept": False}])
WHOLE = [
    FOUND, event("ranked", passages=[RANKED]), event("token", text="y" + LINE), b": ping\n\n",
    event("token", text="es"), event("done", **{**ANSWER, "answer": f"y{LINE}es"}),
]  # fmt: skip


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Chunks, an exception among them raised in its turn; knows whether it was closed."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks, self.closed, self.read = chunks, False, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.read += 1
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


Face = Callable[..., list[Any]]


@pytest.fixture(params=["blocking", "awaited"])
def listen(request: pytest.FixtureRequest) -> Face:
    """`listen(replies, most=2, **options)`: the first events of a stream; `replies` are functions of a request."""

    def blocking(replies: list[Any], *, most: int, retries: int, **options: Any) -> list[Any]:
        transport = httpx.MockTransport(lambda sent: replies.pop(0)(sent))
        client = Client("http://m", transport=transport, retries=retries)
        with client, contextlib.closing(client.stream("why?", **options)) as events:
            return [one for _, one in zip(range(most), events, strict=False)]

    def awaited(replies: list[Any], *, most: int, retries: int, **options: Any) -> list[Any]:
        async def run() -> list[Any]:
            got: list[Any] = []
            transport = httpx.MockTransport(lambda sent: replies.pop(0)(sent))
            client = AsyncClient("http://m", transport=transport, retries=retries)
            async with client, contextlib.aclosing(client.stream("why?", **options)) as events:
                async for one in events:
                    got.append(one)
                    if len(got) == most:
                        break
            return got

        return asyncio.run(run())

    face = blocking if request.param == "blocking" else awaited

    def listen(*replies: Any, most: int = 99, retries: int = 0, **options: Any) -> list[Any]:
        return face(list(replies), most=most, retries=retries, **options)

    return listen


def streaming(*chunks: Any, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(200, headers={**STREAM, **headers}, stream=Body(list(chunks)))


def problem(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    body = {"type": "urn:x", "title": "No", "status": status, "detail": "why not", "request_id": "r-2"}
    sent = {"Content-Type": "application/problem+json", **headers}
    return lambda _: httpx.Response(status, headers=sent, content=json.dumps(body))


@pytest.mark.parametrize("cut", [10_000, 1, 7])
def test_typed_events_end_with_the_reply(listen: Face, cut: int) -> None:
    """However the bytes come."""
    body = b"".join(WHOLE)
    found, ranked, first, second, reply = listen(streaming(*(body[i : i + cut] for i in range(0, len(body), cut))))
    assert isinstance(found, RetrievedEvent)
    assert isinstance(ranked, RankedEvent)
    assert [passage.kept for passage in (*found.passages, *ranked.passages)] == [False, True]
    assert (first, second) == (TokenEvent(text="y" + LINE), TokenEvent(text="es"))
    assert isinstance(reply, AnswerReply)
    assert reply.answer == first.text + second.text


def test_what_is_asked(listen: Face) -> None:
    sent: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return streaming(*WHOLE)(request)

    listen(reply, retrieve_k=3, filter={"lang": "en"}, deadline_ms=50)
    assert json.loads(sent[0].content) == {
        "question": "why?", "retrieve_k": 3, "filter": {"lang": "en"}, "deadline_ms": 50, "stream": True,
    }  # fmt: skip
    assert sent[0].headers["Accept"] == "text/event-stream, application/problem+json"


def test_what_is_wrong_is_said_before_anything_is_sent() -> None:
    client = Client("http://m", transport=httpx.MockTransport(problem(500)))
    with client, pytest.raises(BadRequest, match="keep_k"):
        client.stream("why?", retrieve_k=1, keep_k=2)


def test_events_of_a_later_release_are_left_out(listen: Face) -> None:
    more = [event("thought", text="hm"), event("token", text="a", certain=True), WHOLE[-1]]
    assert listen(streaming(*more))[0] == TokenEvent(text="a")


BROKEN = httpx.ReadError("reset")
FAILURES = [
    ([problem(429, **{"Retry-After": "9"})], Overloaded, "429 No: why not"),
    ([problem(503)], NotReady, "503 No"),
    ([problem(422)], BadRequest, "422 No"),
    ([streaming(FOUND, event("error", title="Late", status=504, request_id="r-2"))], DeadlineExceeded, "504 Late"),
    ([streaming(event("error", title="Damaged", status=500, request_id="r-2"))], ServerFailed, "500 Damaged"),
    ([streaming(FOUND)], ConnectionFailed, "the stream ended before the answer was complete"),
    ([streaming(FOUND, WHOLE[-1][:-9])], ConnectionFailed, "the stream ended before"),
    ([streaming(FOUND, BROKEN)], ConnectionFailed, "POST http://m/answer: reset"),
    ([streaming(FOUND, httpx.ReadTimeout("slow"))], Timeout, "no reply in time"),
    ([streaming(event("done", answer="yes"))], UnexpectedReply, "score"),
    ([streaming(event("error", no="problem"))], UnexpectedReply, "title"),
    (
        [streaming(b"{}", **{"Content-Type": "application/json"})],
        UnexpectedReply,
        "not the stream of a memstore server",
    ),
]


@pytest.mark.parametrize(("replies", "kind", "message"), FAILURES)
def test_failures(listen: Face, replies: list[Any], kind: type[MemstoreClientError], message: str) -> None:
    bodies: list[httpx.Response] = []

    def kept(request: httpx.Request) -> httpx.Response:
        bodies.append(replies[0](request))
        return bodies[-1]

    with pytest.raises(kind, match=message) as failed:
        listen(kept)
    assert type(failed.value) is kind
    assert bodies[0].is_closed
    if failed.value.problem is not None:
        assert failed.value.request_id == "r-2"


def test_what_did_not_begin_is_asked_again_as_a_plain_question_is(listen: Face) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    replies = [refuse, problem(503, **{"Retry-After": "0"}), streaming(*WHOLE)]
    assert len(listen(*replies, retries=2)) == 5
    with pytest.raises(ConnectionFailed):
        listen(streaming(FOUND, BROKEN), streaming(*WHOLE), retries=2)


def test_closing_it_early_closes_the_connection(listen: Face) -> None:
    body = Body(list(WHOLE))
    got = listen(lambda _: httpx.Response(200, headers=STREAM, stream=body), most=1)
    assert isinstance(got[0], RetrievedEvent)
    assert body.closed
    assert body.read < len(WHOLE)
