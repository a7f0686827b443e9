"""New generations are taken up between two batches, while questions are asked; a fake engine has the generations."""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import wait

import httpx
import pytest

from memstore.answer import Question
from memstore.errors import FingerprintMismatch
from memstore_client import Client
from memstore_server.batching import EngineStopped, EngineThread
from memstore_server.reloading import Reloader
from tests.server.fakes import PATIENCE, FakeEngine, admission
from tests.server.test_serve_process import SERVE, served
from tests.server.test_serving_life import keep_busy, start_and_queue, told, until

pytestmark = pytest.mark.anyio


def questions(*texts: str) -> list[Question]:
    return [Question(text) for text in texts]


def busy_thread(engine: FakeEngine, **options: float) -> EngineThread:
    """A thread that answers "busy" until the gate opens."""
    thread = EngineThread(engine, admission=admission(**{"queue_size": 3, "max_batch": 2, **options}))
    thread.start()
    engine.gate.clear()
    thread.ask(questions("busy"))
    assert engine.begun.acquire(timeout=PATIENCE)
    return thread


def generation(by: dict) -> int:
    return by["store"]["generation"]


def test_what_was_asked_before_is_answered_by_the_former_engine(engine: FakeEngine) -> None:
    """Also where more was asked at once than a batch holds, and where a later question could still join it."""
    thread = busy_thread(engine)
    engine.newest = 5
    before = thread.ask(questions("a", "b", "c"))
    replaced = thread.replace(engine.reopened(try_with="x"))  # the queue is full: it is admitted all the same
    engine.gate.set()
    assert replaced.result(PATIENCE).value is engine
    after = thread.ask(questions("d"))
    wait([*before, *after], PATIENCE)
    assert [generation(f.result().by) for f in before + after] == [4, 4, 4, 5]
    assert engine.batches == [["busy"], ["a", "b"], ["c"], ["d"]]
    assert thread.close(timeout=PATIENCE)


def test_questions_after_the_change_do_not_join_those_before_it(engine: FakeEngine) -> None:
    thread = busy_thread(engine, queue_size=9, max_batch=9)
    engine.newest = 5
    before = thread.ask(questions("a"))
    thread.replace(engine.reopened(try_with="x"))
    after = thread.ask(questions("b", "c"))
    engine.gate.set()
    wait([*before, *after], PATIENCE)
    assert [generation(f.result().by) for f in before + after] == [4, 5, 5]
    assert engine.batches == [["busy"], ["a"], ["b", "c"]]
    assert thread.close(timeout=PATIENCE)


def test_a_question_held_back_does_not_hold_up_the_change(engine: FakeEngine) -> None:
    thread = EngineThread(engine, admission=admission(queue_size=9, max_batch=9), max_wait=2 * PATIENCE)
    thread.start()
    (held,) = thread.ask(questions("a"))
    engine.newest = 5
    thread.replace(engine.reopened(try_with="x")).result(PATIENCE)
    assert generation(held.result(0).by) == 4
    assert thread.close(timeout=PATIENCE)


async def test_a_reload_names_the_new_generation_and_so_does_everything_after_it(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        same = (await http.post("/admin/reload")).json()
        assert (same["generation"], same["changed"]) == (4, False)
        engine.newest = 5
        reply = (await http.post("/admin/reload", headers={"X-Request-ID": "me-7"})).json()
        assert reply.pop("milliseconds") >= 0
        assert reply == {"collection": "default", "generation": 5, "passages": 2, "changed": True, "request_id": "me-7"}
        answered = await http.post("/answer", json={"question": "why?"})
        found = await http.post("/retrieve", json={"question": "why?"})
        said = await http.get("/info")
    assert [r.json()["store"]["generation"] for r in (answered, found, said)] == [5, 5, 5]
    assert engine.closed


async def test_what_runs_meanwhile_names_the_former_one(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        busy = await keep_busy(http, engine)
        engine.newest = 5
        reload = asyncio.create_task(http.post("/admin/reload"))
        await until(lambda: http._transport.app.state.service._thread.waiting)
        after = await start_and_queue(http, "/answer", {"question": "after"}, waiting=2)
        assert not reload.done()
        engine.gate.set()
        replies = [(await task).json() for task in (busy, after)]
        assert (await reload).json()["generation"] == 5
    assert [reply["store"]["generation"] for reply in replies] == [4, 5]


async def test_a_damaged_generation_leaves_the_former_in_force(serving, engine: FakeEngine, caplog) -> None:
    async with serving() as http:
        engine.newest = -1
        refused = await http.post("/admin/reload")
        assert told(refused) == (500, "not-reloaded")
        reason = "generation 4 goes on answering: generations/000005.json is damaged"
        assert refused.json()["detail"] == (await http.get("/info")).json()["store"]["reload_error"] == reason
        assert (await http.post("/answer", json={"question": "why?"})).json()["store"]["generation"] == 4
        engine.newest = 6
        assert (await http.post("/admin/reload")).json()["generation"] == 6
        assert (await http.get("/info")).json()["store"]["reload_error"] is None
    assert reason in caplog.text


async def test_a_generation_of_another_model_is_refused_by_its_difference(serving, engine, monkeypatch) -> None:
    def refuse(*, try_with: str) -> None:
        raise FingerprintMismatch({"memory_layers": (8, 6)})

    async with serving() as http:
        monkeypatch.setattr(engine, "reopened", refuse)
        refused = await http.post("/admin/reload")
    assert told(refused) == (500, "not-reloaded")
    assert "memory_layers: store has 8, model has 6" in refused.json()["detail"]


async def test_what_nobody_foresaw_is_in_the_log_alone_and_the_next_try_works(
    serving, engine: FakeEngine, monkeypatch, caplog
) -> None:
    def fail(*, try_with: str) -> None:
        raise RuntimeError("secret path /srv/store")

    async with serving() as http:
        with monkeypatch.context() as patched:
            patched.setattr(engine, "reopened", fail)
            failed = await http.post("/admin/reload")
        engine.newest = 5
        assert (await http.post("/admin/reload")).json()["generation"] == 5
    assert told(failed) == (500, "internal")
    assert "secret" not in failed.text
    assert "secret path" in caplog.text


async def test_a_server_that_watches_finds_the_generation_by_itself(serving, engine: FakeEngine, caplog) -> None:
    async def answering() -> int:
        return (await http.get("/info")).json()["store"]["generation"]

    async with serving(watch=0.1) as http, asyncio.timeout(PATIENCE):
        engine.newest = -1
        await until(lambda: "goes on answering" in caplog.text)
        engine.newest = 5
        while await answering() != 5:
            pass
    assert caplog.text.count("goes on answering") == 1


def test_a_reload_that_a_stop_ends_says_nothing_of_the_store(engine: FakeEngine, caplog) -> None:
    """Threads and files go while a process ends: what fails then is no damage."""
    thread = EngineThread(engine, admission=admission(queue_size=3, max_batch=2))
    reloader = Reloader(thread, watch=None, try_with="x")

    def gone(**_: object) -> None:
        reloader.stop()
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    engine.reopened = gone  # type: ignore[method-assign, assignment]
    reloader.start()
    assert type(reloader.request().exception(PATIENCE)) is EngineStopped
    assert reloader.error is None
    assert caplog.text == ""


def test_one_reload_serves_all_who_wait_for_one_and_a_stopped_server_does_none(engine: FakeEngine) -> None:
    thread = EngineThread(engine, admission=admission(queue_size=1, max_batch=1))
    thread.start()
    reloader = Reloader(thread, watch=None, try_with="x")
    engine.newest = 5
    asked = [reloader.request() for _ in range(3)]
    reloader.start()
    assert {id(one.result(PATIENCE)) for one in asked} == {id(asked[0].result())}
    reloader.stop()
    with pytest.raises(EngineStopped):
        reloader.request().result(PATIENCE)
    assert thread.close(timeout=PATIENCE)


def test_a_hangup_has_a_process_reload() -> None:
    script = SERVE.replace("engine = FakeEngine()", "engine = FakeEngine()\nengine.newest = 5")
    with served(script=script) as process:
        try:
            with Client(process.stdout.readline().split()[-1]) as client:
                assert client.info().store.generation == 4
                process.send_signal(signal.SIGHUP)
                late = time.monotonic() + PATIENCE
                while client.info().store.generation == 4:
                    assert time.monotonic() < late
                assert client.answer("why?").store.generation == 5
        finally:
            process.send_signal(signal.SIGTERM)
            _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "generation 5 answers after 4" in logged


async def test_before_the_warm_up_there_is_nothing_to_replace(serving, engine: FakeEngine) -> None:
    engine.gate.clear()
    async with serving(wait=False) as http:
        refused: httpx.Response = await http.post("/admin/reload")
        assert told(refused) == (503, "not-ready")
        engine.gate.set()
