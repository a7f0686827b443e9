"""Each route's reply, to the last key."""

from __future__ import annotations

import re
import threading
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from memstore.answer import Question
from memstore.passage import Passage
from memstore_server.app import create_app
from memstore_server.batching import Timed
from memstore_server.queued import Wanted
from memstore_server.service import WARM_UP_QUESTION
from memstore_server.settings import Settings
from tests.server.fakes import OTTERS, FakeEngine

pytestmark = pytest.mark.anyio

OTTER = {
    "id": "7:0",
    "title": "Otter",
    "text": "Otters hold hands.",
    "url": "https://example.org/otter",
    "metadata": {},
}
SLASH = {
    "id": "a/b:1", "title": "Slash", "text": "An id with a slash.", "url": "",
    "metadata": {"tags": ["a"], "year": 1, "new": True},
}  # fmt: skip
MODEL = {"name": "fake", "trained": True, "system": "glimmer"}
STORE = {"collection": "default", "generation": 4, "passages": 2}


def without_times(reply: dict) -> dict:
    """The reply with the server's own times checked and removed."""
    milliseconds = reply.get("usage", reply)["milliseconds"]
    assert 0 <= milliseconds.pop("queue") <= milliseconds.pop("total")
    return reply


async def test_answer(serving) -> None:
    async with serving() as http:
        response = await http.post("/answer", json={"question": " why? "}, headers={"X-Request-ID": "me-1"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert without_times(response.json()) == {
        "answer": "why?!",
        "reason": None,
        "confidence": 0.5,
        "calibrated": True,
        "citations": [{"passage_id": OTTER["id"], "start": 0, "end": 6, "attention": None}],
        "score": -1.25,
        "passages": [
            {
                **OTTER,
                "retrieval_rank": 1,
                "retrieval_score": 2.5,
                "rerank_score": -0.5,
                "kept": True,
                "attention": None,
            },
            {
                **SLASH,
                "retrieval_rank": 2,
                "retrieval_score": 1.5,
                "rerank_score": -1.5,
                "kept": False,
                "attention": None,
            },
        ],
        "usage": {
            "milliseconds": {"live_a": 1.5},
            "bytes_read": 64,
            "flops": {"live_a": 10.0},
            "fid_flops": 100.0,
            "questions_in_batch": 1,
            "retrieve_k": 40,
            "keep_k": 10,
        },
        "lowered": None,
        "cut": False,
        "model": MODEL,
        "store": STORE,
        "request_id": "me-1",
    }


async def test_an_untrained_model_is_reported_with_every_answer(serving, engine: FakeEngine) -> None:
    engine.trained = False
    async with serving() as http:
        reply = (await http.post("/answer", json={"question": "why?"})).json()
    assert reply["model"]["trained"] is False


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {"retrieve_k": 40, "keep_k": 10, "max_new_tokens": 32}),
        ({"retrieve_k": 5}, {"retrieve_k": 5, "keep_k": 5}),
        ({"retrieve_k": 200, "keep_k": 100}, {"retrieve_k": 200, "keep_k": 100}),
        ({"keep_k": 40}, {"retrieve_k": 40, "keep_k": 40}),
        ({"max_new_tokens": 256, "num_beams": 8}, {"max_new_tokens": 256, "num_beams": 8}),
        ({"task": "nq", "deadline_ms": 60_000, "stream": False}, {"task": "nq"}),
    ],
)
async def test_options_reach_the_engine(serving, engine: FakeEngine, options: dict, asked: dict) -> None:
    async with serving() as http:
        response = await http.post("/answer", json={"question": "why?", **options})
    assert response.status_code == 200
    assert engine.questions[-1] == Question(text="why?", **{"num_beams": 1, **asked})


async def test_passages_of_the_callers_own(serving, engine: FakeEngine) -> None:
    own = [{"text": " Grass is green. "}, {"text": "Sky.", "title": "Sky", "id": "x", "url": "u"}]
    async with serving() as http:
        reply = (await http.post("/answer", json={"question": "why?", "passages": own})).json()
    grass = Passage("own:0", "own:0", "", "Grass is green.", "", 0, 15)
    sky = Passage("x", "x", "Sky", "Sky.", "u", 0, 4)
    assert engine.questions[-1] == Question(text="why?", retrieve_k=2, keep_k=2, num_beams=1, passages=(grass, sky))
    assert [passage["id"] for passage in reply["passages"]] == ["own:0", "x"]


async def test_the_longest_question_and_odd_ones_are_answered(serving) -> None:
    async with serving() as http:
        for text in ("x" * 2_000, "?!", "чому небо синє", "为什么", "\u202e\x00why", "🦦"):
            response = await http.post("/answer", json={"question": text})
            assert (response.status_code, response.json()["answer"]) == (200, text + "!")


async def test_the_warm_up_question_asks_with_the_defaults(serving, engine: FakeEngine) -> None:
    async with serving(retrieve_k=30, keep_k=3, max_new_tokens=9, num_beams=2):
        assert engine.questions == [
            Question(text=WARM_UP_QUESTION, retrieve_k=30, keep_k=3, max_new_tokens=9, num_beams=2)
        ]


async def test_a_batch_is_answered_in_order_and_a_bad_question_alone_has_a_problem(serving) -> None:
    asked = [{"question": "a"}, {"question": "impossible"}, {"question": "c", "keep_k": 1}]
    async with serving() as http:
        response = await http.post("/answer/batch", json={"questions": asked}, headers={"X-Request-ID": "me-2"})
    reply = response.json()
    assert response.status_code == 200
    assert reply["request_id"] == "me-2"
    assert [item["answer"] and item["answer"]["answer"] for item in reply["items"]] == ["a!", None, "c!"]
    assert reply["items"][0]["problem"] is None
    assert reply["items"][1]["problem"] == {
        "type": "urn:memstore:problem:impossible-request",
        "title": "The request cannot be served as asked",
        "status": 422,
        "detail": "the model knows no task 'juggling'",
        "instance": "/answer/batch",
        "request_id": "me-2",
        "errors": [],
        "loading": None,
    }


async def test_retrieve(serving) -> None:
    async with serving() as http:
        reply = (await http.post("/retrieve", json={"question": "why?", "retrieve_k": 1})).json()
        nothing = (await http.post("/retrieve", json={"question": "?!"})).json()
    assert reply["milliseconds"].pop("retrieve") >= 0
    del reply["request_id"]
    assert without_times(reply) == {
        "passages": [
            {
                **OTTER,
                "retrieval_rank": 1,
                "retrieval_score": 2.5,
                "rerank_score": None,
                "kept": False,
                "attention": None,
            }
        ],
        "milliseconds": {},
        "store": STORE,
    }
    assert nothing["passages"] == []


async def test_times_are_reported_in_milliseconds(serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as http:
        thread = http._transport.app.state.service._thread

        def call(function, *, deadline, collection):
            done = Wanted()
            by, engine = thread.info_of(collection), thread.engine_of(collection)
            done.set_result(Timed(function(engine), queued=0.5, ran=0.25, by=by))
            return done

        monkeypatch.setattr(thread, "call", call)
        found = (await http.post("/retrieve", json={"question": "why?"})).json()["milliseconds"]
        scored = (await http.post("/rerank", json={"question": "why?", "passages": [{"text": "a"}]})).json()
    assert (found["retrieve"], found["queue"]) == (250.0, 500.0)
    assert (scored["milliseconds"]["rerank"], scored["milliseconds"]["queue"]) == (250.0, 500.0)


async def test_rerank(serving) -> None:
    asked = {"question": "why?", "passages": [{"text": "a"}, {"text": "b", "id": "b"}]}
    async with serving() as http:
        reply = (await http.post("/rerank", json=asked)).json()
    assert [(one["id"], one["rerank_score"]) for one in reply["passages"]] == [("b", 0.0), ("own:0", -1.0)]
    assert reply["model"] == MODEL


@pytest.mark.parametrize("address", ["/passages/a/b:1", "/passages/a%2Fb%3A1"])
async def test_passage_whose_id_has_a_slash(serving, address: str) -> None:
    async with serving() as http:
        reply = (await http.get(address)).json()
    assert reply == {**SLASH, "document_id": "a/b", "start": 20, "end": 39}


async def test_health_and_ready(serving) -> None:
    async with serving() as http:
        assert (await http.get("/health")).json() == {"status": "alive"}
        assert (await http.get("/ready")).json() == {"status": "ready"}


async def test_nothing_runs_in_threads_but_the_engine(serving) -> None:
    """FastAPI would run a plain function among a route's dependencies in a thread of its own, for each request."""
    async with serving() as http:
        for _ in range(3):
            await http.get("/ready")
            await http.post("/answer", json={"question": "why?"})
        names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if "AnyIO" in name]


@pytest.mark.parametrize("path", ["/health", "/ready", "/info", "/passages/7:0", "/passages/nope", "/answer", "/no"])
async def test_head_is_replied_to_as_get_without_the_body(serving, path: str) -> None:
    async with serving() as http:
        head, get = await http.head(path), await http.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    kept = ("content-type", "content-length", "allow")
    told = {name: value for name, value in get.headers.items() if name in kept}
    assert {name: value for name, value in head.headers.items() if name in kept} == told


async def test_the_docs_page_needs_nothing_from_elsewhere(serving) -> None:
    async with serving() as http:
        docs = await http.get("/docs")
        assert docs.status_code == 200
        assert docs.headers["content-type"].startswith("text/html")
        wanted = re.findall(r"""(?:src|href)=["']([^"']+)""", docs.text)
        kinds = {a: (await http.get(urljoin("/docs", a))).headers["content-type"].split(";")[0] for a in wanted}
    assert kinds == {
        "docs-static/swagger-ui.css": "text/css",
        "docs-static/swagger-ui-bundle.js": "text/javascript",
        "docs-static/favicon.png": "image/png",
    }
    assert "url: 'openapi.json'" in docs.text


PROXIES = {"none": ("", ""), "told": ("/behind/a/proxy", "/behind/a/proxy"), "not told": ("/behind/a/proxy", "")}


@pytest.mark.parametrize(("below", "root_path"), PROXIES.values(), ids=PROXIES)
async def test_below_a_path_of_a_proxy(engine: FakeEngine, below: str, root_path: str) -> None:
    """A proxy strips the path; the pages still lead to their files."""
    app = create_app(engine, Settings.load(store="store"))

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith(below), f"{scope['path']} is none of the proxy's addresses for us"
        path = root_path + scope["path"].removeprefix(below)  # as uvicorn hands it on
        await app({**scope, "path": path, "root_path": root_path}, receive, send)

    transport = httpx.ASGITransport(proxied)
    async with httpx.AsyncClient(transport=transport, base_url="http://memstore", follow_redirects=True) as http:
        page = await http.get(f"{below}/")
        of_page = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
        docs = await http.get(page.url.join(next(address for address in of_page if address.endswith("docs"))))
        wanted = [*re.findall(r"""(?:src|href)=["']([^"']+)""", docs.text), "openapi.json"]
        replies = [await http.get(page.url.join(address)) for address in {*of_page, *wanted}]
        document = await http.get(docs.url.join("openapi.json"))
    assert len(of_page) >= 4
    assert [reply.status_code for reply in replies] == [200] * len(replies)
    assert document.json().get("servers", []) == ([{"url": root_path}] if root_path else [])


async def test_info_says_limits_and_not_where_the_store_is(serving) -> None:
    async with serving(max_retrieve_k=50, queue_size=7) as http:
        response = await http.get("/info")
    told = response.json()
    assert told["model"] == {
        **MODEL, "alpha": 0.5, "beta": 0.25, "dtype": "float32", "parameters": 3, "tasks": ["nq"],
        "fingerprint": "f00d", "num_beams": 1, "streams": "answers", "calibration": None,
    }  # fmt: skip
    assert told["store"] == {**STORE, "codec": "int8", "retriever": "bm25", "metadata": {}, "reload_error": None}
    assert told["limits"] == {
        "question_characters": 2_000, "retrieve_k": 50, "keep_k": 50, "max_new_tokens": 256, "num_beams": 8,
        "batch_questions": 7, "body_bytes": 4_000_000, "write_bytes": None,
    }  # fmt: skip
    assert told["collections"] == [{**told["store"], "model": told["model"]}]
    assert told["defaults"] == {
        "retrieve_k": 40,
        "keep_k": 10,
        "max_new_tokens": 32,
        "num_beams": 1,
        "min_confidence": 0.0,
        "keep_mass": None,
        "auto_keep_k": 10,
        "auto_keep_mass": 0.9,
        "degrade": False,
    }
    assert "/srv" not in response.text


@pytest.mark.parametrize(
    ("server", "most", "model", "told"), [(None, 8, 3, 3), (2, 8, 3, 2), (None, 2, 4, 2), (None, 4, 4, 4)]
)
async def test_info_says_whose_beams_are_the_default_and_they_are_served(
    serving, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, server: int | None, most: int, model: int, told: int
) -> None:
    info = engine.info()
    monkeypatch.setattr(engine, "info", lambda: {**info, "model": {**info["model"], "num_beams": model}})
    async with serving(num_beams=server, max_num_beams=most) as http:
        assert (await http.get("/info")).json()["defaults"]["num_beams"] == told
        assert (await http.post("/answer", json={"question": "why?"})).status_code == 200
    assert [question.num_beams for question in engine.questions] == [told, told]  # the warm-up's, too


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2:3_4", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a\tb", False),
        ("", False),
    ],
)
async def test_a_sane_request_id_is_kept_and_another_replaced(serving, given: str, kept: bool) -> None:
    async with serving() as http:
        response = await http.get("/health", headers={"X-Request-ID": given})
    name = response.headers["X-Request-ID"]
    assert (name == given) is kept
    assert kept or len(name) == 32


async def test_passage_text_is_that_of_the_engine(serving) -> None:
    async with serving() as http:
        reply = (await http.get("/passages/7:0")).json()
    assert (reply["text"], reply["start"], reply["end"]) == (OTTERS.text, OTTERS.start, OTTERS.end)
