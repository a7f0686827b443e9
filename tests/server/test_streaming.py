"""`POST /answer` with `"stream": true`: the events, what they say together, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from memstore.answer import Question
from memstore_server import hearing
from memstore_server.batching import EngineThread
from tests.server.fakes import PATIENCE, FakeEngine, admission
from tests.server.sse import events, text

pytestmark = pytest.mark.anyio


async def streamed(http: httpx.AsyncClient, question: str, **options: Any) -> list[tuple[str, Any]]:
    response = await http.post("/answer", json={"question": question, "stream": True, **options})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(response.text)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)


def waiting_of(http: httpx.AsyncClient) -> int:
    """Questions in the queue of the app that a client asks."""
    app: Any = http._transport.app  # type: ignore[attr-defined]
    return int(app.state.service._thread.waiting)


async def test_passages_then_their_order_then_the_text_then_the_whole_reply(serving) -> None:
    async with serving() as http:
        asked = {"question": "what do they hold", "retrieve_k": 7}
        plain = (await http.post("/answer", json=asked, headers={"X-Request-ID": "r-1"})).json()
        response = await http.post("/answer", json={**asked, "stream": True}, headers={"X-Request-ID": "r-1"})
    assert response.headers["x-request-id"] == "r-1"
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")
    read = events(response.text)
    assert [name for name, _ in read] == ["retrieved", "ranked", "token", "token", "token", "token", "done"]
    retrieved, ranked, *tokens, done = [data for _, data in read]
    assert [(p["id"], p["rerank_score"], p["kept"]) for p in retrieved["passages"]] == [
        ("7:0", None, False), ("a/b:1", None, False),
    ]  # fmt: skip
    assert ranked == {"passages": plain["passages"]}
    assert [one["text"] for one in tokens] == ["what", " do", " they", " hold!"]
    for reply in (plain, done):
        reply["usage"]["milliseconds"] = sorted(reply["usage"]["milliseconds"])
    assert done == plain


async def test_streams_in_one_batch_each_hear_their_own(serving, engine: FakeEngine) -> None:
    async with serving(max_batch=8) as http:
        engine.gate.clear()
        first = asyncio.create_task(streamed(http, "first one"))
        await asyncio.to_thread(engine.begun.acquire)
        asked = ["a b", "c d e", "f"]
        rest = [asyncio.create_task(streamed(http, question)) for question in asked]
        plain = asyncio.create_task(http.post("/answer", json={"question": "plain"}))
        await until(lambda: waiting_of(http) == 4)
        engine.gate.set()
        assert text(await first) == "first one!"
        for question, reading in zip(asked, rest, strict=True):
            read = await reading
            assert text(read) == read[-1][1]["answer"] == f"{question}!"
            assert read[-1][1]["usage"]["questions_in_batch"] == 4
        assert (await plain).json()["answer"] == "plain!"


@pytest.mark.parametrize("bad", ["broken", "damaged", "halfway there"])
async def test_nothing_is_heard_twice_where_a_batch_is_answered_again_one_by_one(
    serving, engine: FakeEngine, bad: str
) -> None:
    async with serving(max_batch=8) as http:
        engine.gate.clear()
        waiting = asyncio.create_task(streamed(http, "first"))
        await asyncio.to_thread(engine.begun.acquire)
        good = asyncio.create_task(streamed(http, "good one"))
        guilty = asyncio.create_task(http.post("/answer", json={"question": bad, "stream": True}))
        await until(lambda: waiting_of(http) == 2)
        engine.gate.set()
        await waiting
        assert [name for name, _ in await good] == ["retrieved", "ranked", "token", "token", "done"]
        assert text(await good) == "good one!"
        assert "internal" in (await guilty).text or "store-damaged" in (await guilty).text
    assert engine.batches == [["first"], ["good one", bad], ["good one"], [bad]]


async def test_text_that_was_sent_is_not_taken_back_and_the_reply_says_what_is_right(serving, engine) -> None:
    """Where a batch failed in the middle and the question alone is answered otherwise."""

    def answer(questions: Any, listeners: Any) -> Any:
        (given,) = FakeEngine.answer(engine, questions)
        for said in (["one ", "two"], ["one ", "other"]):
            listeners[0].retrieved(given.passages)
            for piece in said:
                listeners[0].wrote(piece)
        return [given]

    async with serving() as http:
        engine.answer = answer
        read = await streamed(http, "why?")
    assert [data["text"] for name, data in read if name == "token"] == ["one ", "two"]
    assert read[-1][1]["answer"] == "why?!"


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"question": ""}, 422, "invalid-request"),
        ({"question": "why?", "retrieve_k": 999}, 422, "invalid-request"),
        ({"question": "impossible"}, 422, "impossible-request"),
        ({"question": "broken"}, 500, "internal"),
    ],
)
async def test_what_fails_before_the_stream_begins_has_its_status(serving, body: dict, status: int, kind: str) -> None:
    async with serving() as http:
        plain = await http.post("/answer", json=body, headers={"X-Request-ID": "r"})
        response = await http.post("/answer", json={**body, "stream": True}, headers={"X-Request-ID": "r"})
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert response.json() == plain.json()
    assert response.json()["type"] == f"urn:memstore:problem:{kind}"


@pytest.mark.parametrize(
    ("question", "heard", "kind"),
    [("damaged", ["retrieved"], "store-damaged"), ("halfway there", ["retrieved", "ranked", "token"], "internal")],
)
async def test_what_fails_later_is_an_event_with_the_same_problem(serving, question, heard, kind) -> None:
    async with serving() as http:
        plain = await http.post("/answer", json={"question": question}, headers={"X-Request-ID": "r"})
        body = {"question": question, "stream": True}
        read = events((await http.post("/answer", json=body, headers={"X-Request-ID": "r"})).text)
    assert [name for name, _ in read] == [*heard, "error"]
    assert read[-1][1] == plain.json()
    assert read[-1][1]["type"] == f"urn:memstore:problem:{kind}"
    assert "secret" not in str(read)


async def test_a_full_queue_and_a_server_that_stops_have_their_status(serving, engine: FakeEngine) -> None:
    async with serving(queue_size=1) as http:
        engine.gate.clear()
        running = asyncio.create_task(streamed(http, "one"))
        await asyncio.to_thread(engine.begun.acquire)
        waiting = asyncio.create_task(streamed(http, "two"))
        await until(lambda: waiting_of(http) == 1)
        refused = await http.post("/answer", json={"question": "three", "stream": True})
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        engine.gate.set()
        await running
        await waiting


async def test_a_deadline_that_passes_before_the_first_event_is_a_504(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        engine.gate.clear()
        response = await http.post("/answer", json={"question": "why?", "stream": True, "deadline_ms": 1})
        engine.gate.set()
    assert (response.status_code, response.json()["status"]) == (504, 504)


async def test_a_deadline_that_passes_in_the_middle_ends_stream_and_work(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        engine.pause.clear()
        body = {"question": "one two three", "stream": True, "deadline_ms": 500}
        read = events((await http.post("/answer", json=body)).text)
        assert [name for name, _ in read] == ["retrieved", "ranked", "error"]
        assert read[-1][1]["type"] == "urn:memstore:problem:deadline-exceeded"
        engine.pause.set()
        assert await asyncio.to_thread(engine.cut_short.acquire, timeout=PATIENCE)


async def test_silence_is_broken_by_comments(serving, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "KEEP_ALIVE", 0.01)
    async with serving() as http:
        engine.pause.clear()

        async def body() -> str:
            return (await http.post("/answer", json={"question": "why?", "stream": True})).text

        asked = asyncio.create_task(body())
        await asyncio.to_thread(engine.begun.acquire)
        heard = asyncio.create_task(asyncio.to_thread(engine.pause.wait, 0.2))
        await heard
        engine.pause.set()
        got = await asked
    assert ": ping\n\n" in got
    assert [name for name, _ in events(got)] == ["retrieved", "ranked", "token", "done"]


# --- who hangs up ---


def scope() -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "path": "/answer", "raw_path": b"/answer", "root_path": "", "scheme": "http", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "client": None, "server": ("memstore", 80), "state": {},
    }  # fmt: skip


async def hung_up(app: Any, after: str) -> list[bytes]:
    """Asks for a stream, hangs up when a piece with these words has come (or has been asked for), and returns."""
    gone, sent = asyncio.Event(), list[bytes]()
    asked = [{"type": "http.request", "body": b'{"question": "one two three", "stream": true}', "more_body": False}]

    async def receive() -> Any:
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if after.encode() in sent[-1]:
            gone.set()

    request = asyncio.create_task(app(scope(), receive, send))
    if not after:
        await until(lambda: app.state.service._thread.waiting)
        gone.set()
    await asyncio.wait_for(request, PATIENCE)
    return sent


async def test_a_client_that_hangs_up_stops_the_work(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        engine.pause.clear()
        sent = await hung_up(http._transport.app, "event: ranked")
        assert b"event: token" not in b"".join(sent)
        engine.pause.set()
        assert await asyncio.to_thread(engine.cut_short.acquire, timeout=PATIENCE)
        assert text(await streamed(http, "next")) == "next!"


async def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        engine.gate.clear()
        running = asyncio.create_task(streamed(http, "running"))
        await asyncio.to_thread(engine.begun.acquire)
        await hung_up(http._transport.app, "")
        (job,) = http._transport.app.state.service._thread._waiting
        await until(job.future.cancelled)
        engine.gate.set()
        await running
        await streamed(http, "next")
    assert engine.batches == [["running"], ["next"]]


# --- the engine's thread ---


def test_listeners_are_as_many_as_questions(engine: FakeEngine) -> None:
    thread = EngineThread(engine, admission=admission(queue_size=2, max_batch=2))
    thread.start()
    with pytest.raises(ValueError, match="zip"):
        thread.ask([Question("a"), Question("b")], listeners=[None])
    assert thread.close(timeout=PATIENCE)
