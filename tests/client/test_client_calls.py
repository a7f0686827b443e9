"""What each method sends and returns, for both clients, through httpx's transport seam: no socket."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from memstore_client import (
    AnswerOptions,
    AsyncClient,
    BadRequest,
    ChangeFailed,
    Client,
    DocumentInput,
    JobReply,
    PassageInput,
    QuestionInput,
    Timeout,
)
from memstore_client.wire import AnswerRequest

RANKED = {
    "id": "7:0", "title": "Otter", "text": "Otters.", "url": "", "retrieval_rank": 1, "retrieval_score": 2.0,
    "rerank_score": None, "kept": True, "attention": None,
    "metadata": {"tags": ["a"], "year": 1, "share": 1.0, "new": True},
}  # fmt: skip
MODEL = {"name": "m", "trained": False, "system": "glimmer"}
STORE = {"collection": "default", "generation": 1, "passages": 5}
USAGE = {
    "milliseconds": {"total": 2.0},
    "bytes_read": 1,
    "flops": {},
    "fid_flops": 1.0,
    "questions_in_batch": 1,
    "retrieve_k": 5,
    "keep_k": 2,
}
ANSWER = {
    "lowered": {"retrieve_k": 40, "keep_k": 10, "reasons": ["load"]},
    "cut": False,
    "answer": "yes", "reason": None, "confidence": 0.5, "calibrated": True, "score": -1.0,
    "citations": [{"passage_id": "7:0", "start": 0, "end": 6, "attention": None}],
    "passages": [RANKED], "usage": USAGE, "model": MODEL, "store": STORE,
    "request_id": "r",
}  # fmt: skip
PASSAGE = {"id": "p", "document_id": "d", "title": "", "text": "t", "url": "", "start": 0, "end": 1, "metadata": {}}
JOB = {
    "id": "1f", "collection": "default", "kind": "add", "state": "running", "documents": 2, "stage": "encode",
    "items": 1, "items_of": 2,
    "created": 1.0, "started": 2.0, "ended": None, "result": None, "error": None,
}  # fmt: skip
CHANGE = {
    "generation": 2, "added": 1, "replaced": 1, "unchanged": 0, "skipped": 0, "deleted": 0, "not_found": 0,
    "missing": [],
}  # fmt: skip
GENERATION = {
    "generation": 1, "in_force": True, "passages": 5, "dead_passages": 0, "dead_bytes": 0, "segments": 1,
    "change": {"kind": "build"}, "written": 1.0,
}  # fmt: skip
REPLIES: dict[str, dict[str, Any]] = {
    "/answer": ANSWER,
    "/answer/batch": {"items": [{"answer": ANSWER, "problem": None}], "request_id": "r"},
    "/retrieve": {"passages": [RANKED], "milliseconds": {}, "store": STORE, "request_id": "r"},
    "/rerank": {"passages": [RANKED], "milliseconds": {}, "model": MODEL, "request_id": "r"},
    "/health": {"status": "alive"},
    "/ready": {"status": "ready"},
    "/documents": JOB,
    "/documents/a/b": {
        "id": "a/b", "title": "t", "url": "", "metadata": {}, "passages": [PASSAGE], "store": STORE, "request_id": "r",
    },
    "/jobs/1f": {**JOB, "state": "done", "result": CHANGE, "ended": 3.0},
    "/generations": {"generations": [GENERATION], "answering": 1, "collection": "b", "request_id": "r"},
    "/admin/rollback": {**STORE, "changed": True, "milliseconds": 1.0, "request_id": "r"},
    "/admin/reload": {**STORE, "changed": True, "milliseconds": 1.0, "request_id": "r"},
    "/info": {
        "version": "1",
        "model": {**MODEL, "alpha": 1.0, "beta": 1.0, "dtype": "f", "parameters": 1, "fingerprint": "x"},
        "store": {**STORE, "codec": "int8", "retriever": "bm25"},
        "limits": {
            "question_characters": 1, "retrieve_k": 1, "keep_k": 1, "max_new_tokens": 1, "num_beams": 1,
            "batch_questions": 1, "body_bytes": 1, "write_bytes": 1,
        },
        "defaults": {"retrieve_k": 1, "keep_k": 1, "max_new_tokens": 1, "num_beams": 1},
    },
}  # fmt: skip
Face = Callable[[Callable[[Any], Any]], tuple[httpx.Request, Any]]


def respond(requests: list[httpx.Request]) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=REPLIES.get(request.url.path.removeprefix("/base"), PASSAGE))

    return handle


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest) -> Face:
    """`ask(lambda client: client.info())`: the request that was sent, and what the method returned."""

    def blocking(call: Callable[[Client], Any]) -> tuple[httpx.Request, Any]:
        sent: list[httpx.Request] = []
        with Client("http://m/base/", transport=httpx.MockTransport(respond(sent))) as client:
            result = call(client)
        return sent[0], result

    def awaited(call: Callable[[AsyncClient], Any]) -> tuple[httpx.Request, Any]:
        async def run() -> tuple[httpx.Request, Any]:
            sent: list[httpx.Request] = []
            async with AsyncClient("http://m/base/", transport=httpx.MockTransport(respond(sent))) as client:
                result = await call(client)
            return sent[0], result

        return asyncio.run(run())

    return blocking if request.param == "blocking" else awaited


OPTIONS = {
    "keep_mass": 0.5,
    "max_gflop": 2.5,
    "degrade": True,
    "task": "nq",
    "retrieve_k": 5,
    "keep_k": 2,
    "max_new_tokens": 3,
    "num_beams": 4,
    "deadline_ms": 6,
}
TABLE = [
    (lambda c: c.answer("why?"), "POST", "/answer", {"question": "why?"}),
    (lambda c: c.answer("why?", **OPTIONS), "POST", "/answer", {"question": "why?", **OPTIONS}),
    (
        lambda c: c.answer("why?", passages=(PassageInput(text="a"),)),
        "POST", "/answer", {"question": "why?", "passages": [{"text": "a"}]},
    ),
    (
        lambda c: c.answer_batch(["a", QuestionInput(question="b", keep_k=1)], deadline_ms=9),
        "POST", "/answer/batch",
        {"questions": [{"question": "a"}, {"question": "b", "keep_k": 1}], "deadline_ms": 9},
    ),
    (
        lambda c: c.answer("why?", filter={"lang": "en", "year": {"gte": 1, "not": {"in": [3]}}}),
        "POST", "/answer", {"question": "why?", "filter": {"lang": "en", "year": {"gte": 1, "not": {"in": [3]}}}},
    ),
    (
        lambda c: c.retrieve("why?", filter={"new": True, "tags": {"exists": False}}),
        "POST", "/retrieve", {"question": "why?", "filter": {"new": True, "tags": {"exists": False}}},
    ),
    (lambda c: c.retrieve("why?", retrieve_k=3), "POST", "/retrieve", {"question": "why?", "retrieve_k": 3}),
    (
        lambda c: c.rerank("why?", [PassageInput(text="a", id="x")], task="nq"),
        "POST", "/rerank", {"question": "why?", "passages": [{"text": "a", "id": "x"}], "task": "nq"},
    ),
    (lambda c: c.passage("7:0"), "GET", "/passages/7%3A0", None),
    (lambda c: c.passage("a/b?c#d%é"), "GET", "/passages/a%2Fb%3Fc%23d%25%C3%A9", None),
    (lambda c: c.passage(".."), "GET", "/passages/%2E%2E", None),
    (lambda c: c.health(), "GET", "/health", None),
    (lambda c: c.ready(), "GET", "/ready", None),
    (lambda c: c.info(), "GET", "/info", None),
    (lambda c: c.reload(), "POST", "/admin/reload", None),
    (
        lambda c: c.put_documents([DocumentInput(id="a", text="b"), {"id": "c", "text": "", "title": "t"}]),
        "PUT", "/documents", {"documents": [{"id": "a", "text": "b"}, {"id": "c", "text": "", "title": "t"}]},
    ),
    (
        lambda c: c.put_documents([{"id": "a", "text": "b"}], on_existing="skip"),
        "PUT", "/documents", {"documents": [{"id": "a", "text": "b"}], "on_existing": "skip"},
    ),
    (lambda c: c.delete_documents(iter(["a", "b"])), "DELETE", "/documents", {"ids": ["a", "b"]}),
    (lambda c: c.document("a/b"), "GET", "/documents/a%2Fb", None),
    (lambda c: c.job("1f"), "GET", "/jobs/1f", None),
    (lambda c: c.cancel("1f"), "DELETE", "/jobs/1f", None),
    (lambda c: c.generations(), "GET", "/generations", None),
    (lambda c: c.answer("why?", collection="b"), "POST", "/answer", {"question": "why?", "collection": "b"}),
    (
        lambda c: c.answer_batch(["a", QuestionInput(question="b"), QuestionInput(question="c", collection="d")],
                                 collection="e"),
        "POST", "/answer/batch",
        {"questions": [{"question": "a", "collection": "e"}, {"question": "b", "collection": "e"},
                       {"question": "c", "collection": "d"}]},
    ),
    (lambda c: c.retrieve("why?", collection="b"), "POST", "/retrieve", {"question": "why?", "collection": "b"}),
    (
        lambda c: c.rerank("why?", [PassageInput(text="a")], collection="b"),
        "POST", "/rerank", {"question": "why?", "passages": [{"text": "a"}], "collection": "b"},
    ),
    (lambda c: c.passage("a/b", collection="b"), "GET", "/passages/a%2Fb?collection=b", None),
    (lambda c: c.info(collection="b&c"), "GET", "/info?collection=b%26c", None),
    (lambda c: c.reload(collection="b"), "POST", "/admin/reload?collection=b", None),
    (
        lambda c: c.put_documents([{"id": "a", "text": "b"}], collection="b"),
        "PUT", "/documents", {"documents": [{"id": "a", "text": "b"}], "collection": "b"},
    ),
    (
        lambda c: c.delete_documents(["a"], collection="b"),
        "DELETE", "/documents", {"ids": ["a"], "collection": "b"},
    ),
    (lambda c: c.document("a/b", collection="b"), "GET", "/documents/a%2Fb?collection=b", None),
    (lambda c: c.generations(collection="b"), "GET", "/generations?collection=b", None),
    (lambda c: c.rollback(collection="b"), "POST", "/admin/rollback", {"collection": "b"}),
    (lambda c: c.rollback(to=3), "POST", "/admin/rollback", {"to": 3}),
    (lambda c: c.rollback(), "POST", "/admin/rollback", {}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "method", "path", "body"), TABLE)
def test_what_is_sent(ask: Face, call, method: str, path: str, body: dict | None) -> None:
    sent, _ = ask(call)
    assert (sent.method, sent.url.raw_path.decode()) == (method, "/base" + path)
    assert (json.loads(sent.content) if sent.content else None) == body
    assert sent.headers.get("content-type") == ("application/json" if body is not None else None)


def test_what_is_returned(ask: Face) -> None:
    _, answer = ask(lambda c: c.answer("why?"))
    assert (answer.answer, answer.model.trained, answer.passages[0].retrieval_score) == ("yes", False, 2.0)
    assert answer.model_dump() == ANSWER
    _, batch = ask(lambda c: c.answer_batch(["a"]))
    assert batch.model_dump() == REPLIES["/answer/batch"]
    assert ask(lambda c: c.retrieve("a"))[1].model_dump() == REPLIES["/retrieve"]
    assert ask(lambda c: c.rerank("a", [PassageInput(text="a")]))[1].model_dump() == REPLIES["/rerank"]
    assert ask(lambda c: c.passage("p"))[1].model_dump() == PASSAGE
    assert ask(lambda c: c.health())[1].status == "alive"
    assert ask(lambda c: c.ready())[1] is True
    assert ask(lambda c: c.reload())[1].model_dump() == REPLIES["/admin/reload"]
    assert ask(lambda c: c.put_documents([{"id": "a", "text": "b"}]))[1].model_dump() == JOB
    assert ask(lambda c: c.document("a/b"))[1].model_dump() == REPLIES["/documents/a/b"]
    assert ask(lambda c: c.cancel("1f"))[1].model_dump() == REPLIES["/jobs/1f"]
    assert ask(lambda c: c.generations())[1].model_dump() == REPLIES["/generations"]
    assert ask(lambda c: c.rollback())[1].model_dump() == REPLIES["/admin/rollback"]
    assert ask(lambda c: c.info())[1].store.codec == "int8"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.answer(" "), "question: String should have at least 1 character"),
        (lambda c: c.answer("x" * 2_001), "question: String should have at most 2000 characters"),
        (lambda c: c.answer("a", retrieve_k=1, keep_k=2), "request: keep_k (2) must not exceed retrieve_k (1)"),
        (lambda c: c.answer("a", deadline_ms=10**400), "deadline_ms: Input should be less than or equal to 86400000"),
        (lambda c: c.passage("x" * 70_000), "http://m/base/passages/xxx"),
        (lambda c: c.passage("\ud800"), r"passage_id '\ud800' is no text: surrogates not allowed"),
        (lambda c: c.answer_batch("why?"), "questions must be a list of questions, not one string: `answer` asks one"),
        (lambda c: c.put_documents([]), "documents: List should have at least 1 item"),
        (lambda c: c.put_documents([{"id": "a"}]), "documents.0.text: Field required"),
        (lambda c: c.put_documents([{"id": "a", "text": ""}] * 2), "two documents have the id 'a'"),
        (lambda c: c.delete_documents("abc"), "ids must be a list of ids, not one string"),
        (lambda c: c.delete_documents(["a\nb"]), "ids.0: String should match pattern"),
        (lambda c: c.delete_documents([" "]), "ids.0: String should match pattern"),
        (lambda c: c.answer_batch([]), "questions: List should have at least 1 item"),
        (
            lambda c: c.rerank("a", [PassageInput(text="b"), *[PassageInput(text="a", id="x")] * 2]),
            "two passages have the id 'x'",
        ),
    ],
)
def test_a_wrong_request_is_not_sent(ask: Face, call, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ask(call)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1_000
    assert caught.value.status is None


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("address", ["http://localhost:abc", "http://[::1", "http://é..x", "x" * 70_000])
def test_an_address_that_is_none_is_reported_at_once(client: type, address: str) -> None:
    with pytest.raises(BadRequest) as caught:
        client(address)
    assert str(caught.value).startswith(address[:200])
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("address", ["127.0.0.1:8080", "localhost:8080", "", "ftp://m", "http:/m", "https://"])
def test_an_address_without_its_protocol_is_reported_at_once(client: type, address: str) -> None:
    with pytest.raises(BadRequest) as caught:
        client(address)
    said = "is no address that can be asked: base_url must begin with http:// or https:// and a host"
    assert str(caught.value) == f"{address} {said}"


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("address", ["http://m/docs?a=1", "http://m/docs#/questions"])
def test_an_address_with_more_than_a_path_is_reported_at_once(client: type, address: str) -> None:
    with pytest.raises(BadRequest, match=r"base_url must end before any \? and #"):
        client(address)


def test_a_host_that_can_have_no_such_name_is_reported() -> None:
    refused = pytest.raises(BadRequest, match=r"http://a\.\.b/health is no address that can be asked")
    with Client("http://a..b") as client, refused:
        client.health()


def test_both_clients_have_the_same_methods() -> None:
    def signatures(kind: type) -> dict[str, str]:
        public = {name: value for name, value in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
        return {name: str(inspect.signature(value)).replace("AsyncG", "G") for name, value in public.items()}

    assert signatures(Client) == signatures(AsyncClient)
    assert set(signatures(Client)) == {
        "answer", "stream", "answer_batch", "retrieve", "rerank", "passage", "health", "ready", "wait_until_ready",
        "info", "reload", "close", "put_documents", "delete_documents", "document", "job", "cancel", "wait",
        "generations", "rollback",
    }  # fmt: skip


def test_options_of_a_question_are_those_of_the_request() -> None:
    fields = set(AnswerRequest.model_fields) - {"question", "stream"}
    assert set(AnswerOptions.__annotations__) == fields
    described = inspect.getdoc(AnswerOptions) or ""
    assert [name for name in fields if f"\n    {name}: " not in described] == []


@pytest.mark.parametrize("option", ["retrieve", "stream"])
def test_an_option_that_is_none_is_refused_before_anything_is_sent(option: str) -> None:
    with Client("http://m") as client:
        for ask in (client.answer, client.stream):
            with pytest.raises(TypeError, match=f"there is no option '{option}'"):
                ask("why?", **{option: True})  # type: ignore[operator]


def changing(kind: type, states: list[dict], **options: Any) -> Any:
    """A client of either kind with a key, whose jobs have these states in turn, and what `wait` then says."""
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={**JOB, **states[min(len(sent), len(states) - 1)]})

    class Hasty(kind):  # type: ignore[misc]
        if kind is Client:

            def _pause(self, seconds: float) -> None: ...
        else:

            async def _pause(self, seconds: float) -> None: ...

    job = JobReply(**{**JOB, **states[0]})
    transport = httpx.MockTransport(handle)
    if kind is Client:
        with Hasty("http://m", write_key="a secret", transport=transport) as client:
            return client.wait(job, **options), sent

    async def run() -> Any:
        async with Hasty("http://m", write_key="a secret", transport=transport) as client:
            return await client.wait(job, **options), sent

    return asyncio.run(run())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_waiting_for_a_change(kind: type) -> None:
    running, done = {"state": "running"}, {"state": "done", "result": CHANGE}
    job, sent = changing(kind, [{"state": "waiting"}, running, running, done])
    assert (job.state, job.result.generation, len(sent)) == ("done", 2, 3)
    assert sent[0].headers["authorization"] == "Bearer a secret"
    assert changing(kind, [{"state": "cancelled"}])[0].state == "cancelled"
    with pytest.raises(ChangeFailed, match="job 1f failed: no room") as failed:
        changing(kind, [running, {"state": "failed", "error": "no room"}])
    assert failed.value.job.error == "no room"
    with pytest.raises(Timeout, match=r"is not done after 0\.0 s, and goes on: running encode"):
        changing(kind, [running, running], timeout=0.0)


def test_the_key_goes_only_with_what_needs_it() -> None:
    sent: list[httpx.Request] = []
    with Client("http://m", write_key="k", transport=httpx.MockTransport(respond(sent))) as client:
        client.answer("why?")
        client.reload()
    assert ["authorization" in request.headers for request in sent] == [False, True]
    with pytest.raises(ValueError, match="write_key must be printable ASCII"):
        Client("http://m", write_key="a\nb")
