"""Starting, being ready, being too busy, giving up, stopping."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future

import httpx
import pytest

from memstore.answer import Question
from memstore_server.app import create_app
from memstore_server.batching import DeadlineExceeded, EngineStopped
from memstore_server.costs import work_of
from memstore_server.queued import Wanted
from memstore_server.service import WARM_UP_QUESTION, NotReady
from memstore_server.settings import Settings
from tests.server.fakes import PATIENCE, FakeEngine

pytestmark = pytest.mark.anyio


async def until_begun(engine: FakeEngine) -> None:
    assert await asyncio.to_thread(engine.begun.acquire, timeout=PATIENCE)


async def until(condition: Callable[[], object]) -> None:
    """Lets the other tasks run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - gives way, does not wait
            await asyncio.sleep(0)


def start(http: httpx.AsyncClient, path: str, body: object) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(http.post(path, json=body))


async def start_and_queue(http, path: str, body: object, *, waiting: int) -> asyncio.Task[httpx.Response]:
    """Sends a request and returns when it waits in the queue as one of `waiting`."""
    task = start(http, path, body)
    thread = http._transport.app.state.service._thread
    await until(lambda: thread.waiting >= waiting)
    return task


async def keep_busy(http: httpx.AsyncClient, engine: FakeEngine) -> asyncio.Task[httpx.Response]:
    engine.gate.clear()
    task = start(http, "/answer", {"question": "busy"})
    await until_begun(engine)
    return task


def ask_without_http(app, body: object) -> tuple[asyncio.Task[None], asyncio.Queue, list[dict]]:
    """A question as the app gets it of a server: the task, what it may receive, and what it has sent."""
    messages, sent = asyncio.Queue(), []
    messages.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/answer", "raw_path": b"/answer", "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"content-type", b"application/json"), (b"x-request-id", b"me-5")],
        "server": ("m", 80), "client": ("c", 1),
    }  # fmt: skip
    return asyncio.create_task(app(scope, messages.get, send)), messages, sent


async def waiting_behind_another(http, engine: FakeEngine, question: str):
    """A question that waits while the engine answers another: that other's task, then as `ask_without_http`."""
    busy = await keep_busy(http, engine)
    app = http._transport.app
    asked = ask_without_http(app, {"question": question})
    await until(lambda: app.state.service._thread.waiting)
    return busy, *asked


def told(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:memstore:problem:")


async def test_not_ready_until_the_warm_up_is_answered(serving, engine: FakeEngine) -> None:
    engine.gate.clear()
    async with serving(wait=False) as http:
        await until_begun(engine)
        assert engine.batches == [[WARM_UP_QUESTION]]
        for response in (
            await http.get("/ready"),
            await http.post("/answer", json={"question": "why?"}),
            await http.get("/passages/7:0"),
        ):
            assert told(response) == (503, "not-ready")
            assert "is starting" in response.json()["detail"]
            assert response.headers["retry-after"] == "1"
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/info")).status_code == 200
        engine.gate.set()
        await asyncio.wrap_future(http._transport.app.state.service.warm_up)
        assert (await http.get("/ready")).status_code == 200
    assert engine.batches == [[WARM_UP_QUESTION]]


async def test_never_ready_when_the_warm_up_fails(engine: FakeEngine, caplog) -> None:
    def fail(*_):
        raise RuntimeError("no memory")

    engine.answer = fail
    app = create_app(engine, Settings.load(store="store"))
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="no memory"):
            await asyncio.wrap_future(app.state.service.warm_up)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://m") as http:
            responses = [await http.get("/ready"), await http.get("/health")]
    for response in responses:
        assert told(response) == (503, "not-ready")
        assert "the warm-up failed" in response.json()["detail"]
        assert "no memory" not in response.text
    assert "no memory" in caplog.text


async def test_a_server_that_lost_its_engine_is_not_alive(serving, engine: FakeEngine, monkeypatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise SystemExit("a mistake of ours")

    async with serving() as http:
        monkeypatch.setattr(http._transport.app.state.service._thread, "_deliver", fail)
        lost = await http.post("/answer", json={"question": "why?"})
        assert told(lost) == (500, "internal")
        for response in (
            await http.get("/health"),
            await http.get("/ready"),
            await http.post("/answer", json={"question": "and now?"}),
        ):
            assert told(response) == (503, "not-ready")
            assert "has lost its engine thread: restart it" in response.json()["detail"]
    assert "a mistake of ours" in caplog.text


async def test_requests_that_wait_are_answered_together(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        busy = await keep_busy(http, engine)
        one = await start_and_queue(http, "/answer", {"question": "one"}, waiting=1)
        two = await start_and_queue(
            http, "/answer/batch", {"questions": [{"question": "two"}, {"question": "impossible"}]}, waiting=3
        )
        engine.gate.set()
        replies = [response.json() for response in await asyncio.gather(busy, one, two)]
    assert engine.batches[:2] == [["busy"], ["one", "two", "impossible"]]
    assert [replies[0]["answer"], replies[1]["answer"], replies[2]["items"][0]["answer"]["answer"]] == [
        "busy!", "one!", "two!",
    ]  # fmt: skip
    assert replies[2]["items"][1]["problem"]["status"] == 422
    assert replies[1]["usage"]["milliseconds"]["queue"] > 0


async def test_a_full_queue_is_reported_at_once(serving, engine: FakeEngine) -> None:
    async with serving(queue_size=2) as http:
        busy = await keep_busy(http, engine)
        waiting = await start_and_queue(http, "/answer", {"question": "waits"}, waiting=1)
        batch = await http.post("/answer/batch", json={"questions": [{"question": "a"}, {"question": "b"}]})
        assert told(batch) == (503, "overloaded")
        assert int(batch.headers["retry-after"]) >= 1
        also = await start_and_queue(http, "/answer", {"question": "also"}, waiting=2)
        for response in (
            await http.post("/answer", json={"question": "c"}),
            await http.post("/retrieve", json={"question": "c"}),
        ):
            assert told(response) == (503, "overloaded")
        engine.gate.set()
        assert [(await task).status_code for task in (busy, waiting, also)] == [200, 200, 200]
    assert engine.batches == [["busy"], ["waits", "also"]]


async def test_a_full_queue_refuses_what_nobody_has_read(serving, engine: FakeEngine) -> None:
    """Neither parsed nor checked: a refusal costs nothing."""
    async with serving(queue_size=1) as http:
        busy = await keep_busy(http, engine)
        waiting = await start_and_queue(http, "/answer", {"question": "waits"}, waiting=1)
        refused = await http.post("/answer", content=b"no JSON at all", headers={"content-type": "application/json"})
        assert told(refused) == (503, "overloaded")
        assert refused.headers["retry-after"].isdecimal()
        assert (await http.get("/health")).status_code == (await http.get("/info")).status_code == 200
        engine.gate.set()
        assert [(await task).status_code for task in (busy, waiting)] == [200, 200]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/answer", {"question": "late"}), ("/answer/batch", {"questions": [{"question": "late"}, {"question": "too"}]})],
)
async def test_what_cannot_be_in_time_is_refused_at_once(serving, engine: FakeEngine, path: str, body: dict) -> None:
    """Singles and batches by the same rule."""
    async with serving() as http:
        admission = http._transport.app.state.service._thread._admission
        admission.costs.observe(work_of(Question("why?")), 2.0)
        busy = await keep_busy(http, engine)
        refused = await http.post(path, json={**body, "deadline_ms": 1_500})
        assert told(refused) == (503, "too-late")
        assert refused.json()["detail"].startswith("it would take about ")
        assert int(refused.headers["retry-after"]) >= 1
        engine.gate.set()
        assert (await busy).status_code == 200
    assert engine.batches == [["busy"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/answer", {"question": "late"}),
        ("/answer/batch", {"questions": [{"question": "late"}, {"question": "late too"}]}),
        ("/retrieve", {"question": "late"}),
        ("/rerank", {"question": "late", "passages": [{"text": "a"}]}),
    ],
)
async def test_a_deadline_that_passes_in_the_queue(serving, engine: FakeEngine, path: str, body: dict) -> None:
    async with serving() as http:
        busy = await keep_busy(http, engine)
        response = await http.post(path, json={**body, "deadline_ms": 1})
        assert told(response) == (504, "deadline-exceeded")
        engine.gate.set()
        assert (await busy).status_code == 200
        assert (await http.post("/answer", json={"question": "next"})).status_code == 200
    assert engine.batches == [["busy"], ["next"]]


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [(DeadlineExceeded("too late"), 504, "deadline-exceeded"), (EngineStopped("no more"), 503, "not-ready")],
)
async def test_what_ends_a_whole_batch_is_reported_once(
    serving, monkeypatch, error: Exception, status: int, name: str
) -> None:
    """Also where the engine's thread says so before the waiting ends, and has answered other questions."""
    async with serving() as http:
        thread = http._transport.app.state.service._thread
        ask = thread.ask

        def ask_and_fail(questions, *, deadline, collections):
            failed = Wanted()
            failed.set_exception(error)
            return [*ask(questions[1:], deadline=deadline, collections=collections[1:]), failed]

        monkeypatch.setattr(thread, "ask", ask_and_fail)
        response = await http.post("/answer/batch", json={"questions": [{"question": "a"}, {"question": "b"}]})
    assert told(response) == (status, name)


async def test_a_deadline_that_passes_while_the_model_runs(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        engine.gate.clear()
        response = await http.post("/answer", json={"question": "slow", "deadline_ms": 20})
        assert told(response) == (504, "deadline-exceeded")
        engine.gate.set()
        assert (await http.post("/answer", json={"question": "next"})).status_code == 200


async def test_a_client_that_hangs_up_while_waiting_is_not_answered(serving, engine: FakeEngine, caplog) -> None:
    caplog.set_level("INFO")
    async with serving() as http:
        busy, request, messages, sent = await waiting_behind_another(http, engine, "gone")
        messages.put_nowait({"type": "http.disconnect"})
        await request
        assert sent[0]["status"] == 499
        engine.gate.set()
        await busy
        assert (await http.post("/answer", json={"question": "next"})).status_code == 200
    assert engine.batches == [["busy"], ["next"]]
    assert "POST /answer 499" in caplog.text


async def test_a_client_that_hangs_up_while_it_is_answered_frees_the_model(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        engine.gate.clear()
        request, messages, sent = ask_without_http(http._transport.app, {"question": "gone"})
        await asyncio.to_thread(engine.begun.acquire)
        messages.put_nowait({"type": "http.disconnect"})
        await request
        assert sent[0]["status"] == 499
        engine.gate.set()
        assert (await http.post("/answer", json={"question": "next"})).status_code == 200
        assert engine.left == [["gone"]]
        assert 'memstore_left_questions_total{collection="default"} 1.0' in (await http.get("/metrics")).text


async def test_nobody_waits_for_a_client_to_hang_up_once_it_has_its_reply(serving) -> None:
    async with serving() as http:
        before = asyncio.all_tasks()
        request, _, sent = ask_without_http(http._transport.app, {"question": "why?"})
        await request
        assert sent[0]["status"] == 200
        await until(lambda: asyncio.all_tasks() == before)


async def test_a_request_that_the_server_cancels_is_reported_so(serving, engine: FakeEngine, caplog) -> None:
    """As uvicorn does with what is in flight when its time to stop is over."""
    caplog.set_level("INFO")
    async with serving() as http:
        busy, request, _, sent = await waiting_behind_another(http, engine, "too long")
        request.cancel()
        await request
        start, body = sent
        assert (start["status"], dict(start["headers"])[b"x-request-id"]) == (503, b"me-5")
        assert json.loads(body["body"])["type"] == "urn:memstore:problem:not-ready"
        engine.gate.set()
        await busy
    assert engine.batches == [["busy"]]
    assert "POST /answer 503" in caplog.text


async def test_stopping_finishes_what_runs_and_refuses_the_rest(engine: FakeEngine) -> None:
    app = create_app(engine, Settings.load(store="store", drain_seconds=PATIENCE))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://m")
    async with http, asyncio.timeout(2 * PATIENCE), app.router.lifespan_context(app):
        await asyncio.wrap_future(app.state.service.warm_up)
        await until_begun(engine)
        busy = await keep_busy(http, engine)
        waiting = await start_and_queue(http, "/answer", {"question": "waits"}, waiting=1)
        stopping = asyncio.create_task(asyncio.to_thread(app.state.service.close))
        assert told(await waiting) == (503, "not-ready")
        refused = await http.get("/ready")
        assert told(refused) == (503, "not-ready")
        assert "is shutting down" in refused.json()["detail"]
        engine.gate.set()
        await stopping
        assert (await busy).json()["answer"] == "busy!"


async def test_a_warm_up_that_ends_while_stopping_makes_nothing_ready(engine: FakeEngine) -> None:
    engine.gate.clear()
    service = create_app(engine, Settings.load(store="store", drain_seconds=0)).state.service
    service.start()
    await until_begun(engine)
    service.close()
    engine.gate.set()
    await asyncio.wrap_future(service.warm_up)
    with pytest.raises(NotReady, match="the server is shutting down"):
        service.require_ready()


async def test_a_question_is_held_back_for_milliseconds(serving) -> None:
    async with serving(max_wait_ms=2 * PATIENCE, max_batch=2) as http:  # in seconds nobody would wait for it
        assert (await http.post("/answer", json={"question": "alone"})).status_code == 200


async def test_stopping_before_the_warm_up_began_is_no_failure(engine: FakeEngine, caplog) -> None:
    service = create_app(engine, Settings.load(store="store")).state.service
    never_begun = Future()
    never_begun.set_exception(EngineStopped("the server shut down"))
    service._warmed(never_begun, [])
    assert isinstance(service.warm_up.exception(), EngineStopped)
    assert not caplog.records
