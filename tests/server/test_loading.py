"""A server that still loads: it listens, says how far it is, and answers as soon as it can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from memstore_client import Client, NotReady
from memstore_server.app import create_app, opened
from memstore_server.loading import Front, Progress, steps_of
from memstore_server.settings import Settings
from tests.server import live
from tests.server.fakes import PATIENCE, FakeEngine


class Slow:
    """Loads an app over an engine, when told to."""

    def __init__(self, engine: FakeEngine, **settings: Any) -> None:
        self.engine, self.settings = engine, Settings.load(**{"store": "store", **settings})
        self.go_on, self.ready, self.failed = threading.Event(), threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def load(self, progress: Progress) -> Any:
        self.thread = threading.current_thread()
        progress.begin(2, "opening wiki")
        assert self.go_on.wait(PATIENCE)
        return create_app(self.engine, self.settings)

    @contextmanager
    def serving(self) -> Iterator[tuple[Front, httpx.Client]]:
        steps = steps_of(self.settings)
        front = Front(
            self.load, self.settings, steps=steps, ready=lambda _: self.ready.set(), failed=self.failed.set
        )  # fmt: skip
        try:
            with live.listening(front) as url, httpx.Client(base_url=url) as http:
                yield front, http
        finally:
            self.go_on.set()
            self.engine.gate.set()


def test_until_it_is_ready_it_says_how_far_it_is(engine: FakeEngine) -> None:
    slow = Slow(engine)
    with slow.serving() as (_, http):
        assert http.get("/health").json() == {"status": "alive"}
        assert http.head("/health").status_code == 200
        for reply in (
            http.get("/ready", headers={"X-Request-ID": "me-1"}),
            http.get("/info", headers={"X-Request-ID": "me-1"}),
            http.post("/answer", json={"question": "why?" * 100_000}, headers={"X-Request-ID": "me-1"}),
            http.get("/nowhere", headers={"X-Request-ID": "me-1"}),
        ):
            assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
            assert (reply.headers["retry-after"], reply.headers["x-request-id"]) == ("1", "me-1")
            problem = reply.json()
            assert problem["type"] == "urn:memstore:problem:not-ready"
            assert problem["loading"].pop("seconds") >= 0
            assert problem["loading"] == {"step": 2, "steps": 4, "doing": "opening wiki"}
            assert problem["detail"].startswith("the server is loading: step 2 of 4, opening wiki; ")
        engine.gate.clear()
        slow.go_on.set()
        assert engine.begun.acquire(timeout=PATIENCE)
        last = http.get("/ready").json()["loading"]  # the application is there, but has not answered yet
        assert (last["step"], last["doing"]) == (4, "answering a first question")
        assert slow.thread is not None
        assert not slow.thread.is_alive()
        engine.gate.set()
        assert slow.ready.wait(PATIENCE)
        assert http.get("/ready").json() == {"status": "ready"}
        assert http.post("/answer", json={"question": "why?"}).json()["answer"] == "why?!"


def test_the_page_is_there_from_the_beginning(engine: FakeEngine) -> None:
    with Slow(engine).serving() as (_, http):
        page = http.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert http.get("/page/page.js").status_code == 200
        assert [http.get(f"/page/{name}").status_code for name in ("examples", "index.html", "no")] == [503] * 3


def test_other_programs_are_told_in_their_words(engine: FakeEngine) -> None:
    with Slow(engine).serving() as (_, http):
        theirs = http.post("/v1/chat/completions", json={})
        assert (theirs.status_code, theirs.json()["error"]["code"]) == (503, "not_ready")
        assert "opening wiki" in theirs.json()["error"]["message"]
        assert "opening wiki" in http.post("/v2/rerank", json={}).json()["message"]


def test_from_another_origin(engine: FakeEngine) -> None:
    slow = Slow(engine, cors_origin=["https://example.org"])
    with slow.serving() as (_, http):
        reply = http.get("/info", headers={"Origin": "https://example.org"})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (503, "https://example.org")


def test_what_cannot_be_loaded_is_the_failure(engine: FakeEngine) -> None:
    class Panic(BaseException):
        """As Rust's libraries raise it."""

    for error in (OSError("no such store"), Panic("out of range"), SystemExit(3)):
        slow = Slow(engine)
        slow.load = lambda _, error=error: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
        with slow.serving() as (front, http):
            assert slow.failed.wait(PATIENCE)
            assert http.get("/ready").status_code == 503
        assert front.failure is error
        assert front.ended


def test_a_warm_up_that_fails_is_the_failure(engine: FakeEngine) -> None:
    engine.answer = lambda *_: (_ for _ in ()).throw(OSError("broken"))  # type: ignore[method-assign]
    slow = Slow(engine)
    with slow.serving() as (front, _):
        slow.go_on.set()
        assert slow.failed.wait(PATIENCE)
    assert isinstance(front.failure, OSError)
    assert not slow.ready.is_set()


def test_stopped_before_it_is_ready_is_no_failure(engine: FakeEngine) -> None:
    loading, warming = Slow(engine), Slow(engine, drain_seconds=0)
    with loading.serving() as (front, _):
        pass
    assert front.failure is None
    engine.gate.clear()
    with warming.serving() as (front, _):
        warming.go_on.set()
        assert engine.begun.acquire(timeout=PATIENCE)
    assert front.failure is None
    assert not warming.ready.is_set()


def test_a_client_is_told_how_far_it_is(engine: FakeEngine) -> None:
    slow = Slow(engine)
    with slow.serving() as (_, http), Client(str(http.base_url)) as client:
        with pytest.raises(NotReady, match="opening wiki") as caught:
            client._send(client._ready())
        assert caught.value.problem is not None
        assert caught.value.problem.loading is not None
        assert caught.value.problem.loading.doing == "opening wiki"
        slow.go_on.set()
        client.wait_until_ready(timeout=PATIENCE)
        assert client.answer("why?").answer == "why?!"


def test_each_store_is_a_step(monkeypatch, engine: FakeEngine) -> None:
    begun: list[tuple[int, str]] = []

    class Noted(Progress):
        def begin(self, step: int, doing: str) -> None:
            begun.append((step, doing))

    monkeypatch.setattr("memstore.answer.Answerer.open", lambda *_, **__: engine)
    monkeypatch.setattr("memstore_server.collection._beside", lambda *_: engine)
    monkeypatch.setattr("memstore_server.app._try", lambda *_: None)
    settings = Settings.load(store=["wiki=a", "news=b"])
    opened(settings, object(), Noted(steps_of(settings)))  # type: ignore[arg-type]
    assert begun == [(2, "opening wiki"), (3, "opening news"), (4, "measuring how long answers take")]
    assert steps_of(settings) == 5
