"""Every error a client can meet: what it sends, the status, the type, and a piece of the detail."""

from __future__ import annotations

from typing import Any

import pytest

from memstore_server.middleware import RequestContext
from memstore_server.problems import KINDS

pytestmark = pytest.mark.anyio

LONG = "x" * 2_001
OWN = [{"text": "a"}, {"text": "b"}]


def post(path: str, body: Any = None, **more: Any) -> dict[str, Any]:
    sent = {"json": body} if body is not None else {}
    return {"method": "POST", "url": path, **sent, **more}


def raw(content: bytes, media_type: str = "application/json") -> dict[str, Any]:
    return post("/answer", content=content, headers={"Content-Type": media_type})


def ask(**options: Any) -> dict[str, Any]:
    return post("/answer", {"question": "why?", **options})


TABLE = [
    # addresses and methods
    ({"method": "GET", "url": "/nowhere"}, 404, "no-such-route", "See /docs"),
    ({"method": "GET", "url": "/answer"}, 405, "method-not-allowed", "Allowed: POST."),
    ({"method": "DELETE", "url": "/passages/7:0"}, 405, "method-not-allowed", "Allowed: GET."),
    (post("/answer/", {"question": "why?"}), 404, "no-such-route", ""),
    (
        {"method": "GET", "url": "/info?collection=nope"},
        404, "collection-not-found", "there is no collection 'nope' here; there are: default",
    ),
    ({"method": "GET", "url": "/passages/nope"}, 404, "passage-not-found", "no passage with id 'nope'"),
    ({"method": "GET", "url": "/passages/7:0", "content": b"x" * 5_000}, 413, "body-too-large", "at most 4000 bytes"),
    ({"method": "GET", "url": "/passages/"}, 404, "passage-not-found", "no passage with id ''"),
    # bodies
    (raw(b'{"question": '), 400, "unreadable-body", "Not JSON, at character 13"),
    (raw(b'{"question": "\xff"}'), 400, "unreadable-body", "not JSON text in UTF-8"),
    (raw(b"[" * 100_000), 400, "unreadable-body", "not JSON text"),
    (raw(b'{"question": "why?"}', "text/plain"), 415, "not-json", "Content-Type: application/json"),
    (raw(b"question=why", "application/x-www-form-urlencoded"), 415, "not-json", ""),
    (raw(b""), 422, "invalid-request", "the body must be a JSON object"),
    (raw(b"null"), 422, "invalid-request", "the body must be a JSON object"),
    (raw(b"[1]"), 422, "invalid-request", "the body must be a JSON object"),
    (raw(b'{"question": "why?", "retrieve_k": 1e999}'), 422, "invalid-request", "retrieve_k"),
    (raw(b'{"question": "why?", "retrieve_k": ' + b"9" * 5_000 + b"}"), 400, "unreadable-body", ""),
    (raw(b'{"question": "\\ud800"}'), 422, "invalid-request", "question"),
    (raw(b'{"\\ud800": 1, "question": "why?"}'), 422, "invalid-request", ""),
    (ask(task="x" * 5_000), 413, "body-too-large", "at most 4000 bytes"),
    # questions and options
    (post("/answer", {}), 422, "invalid-request", "question: Field required"),
    (post("/answer", {"question": " \n"}), 422, "invalid-request", "question: String should have at least 1"),
    (post("/answer", {"question": LONG}), 422, "invalid-request", "question: String should have at most"),
    (post("/answer", {"question": 5}), 422, "invalid-request", "question: "),
    (ask(retreive_k=5), 422, "invalid-request", "retreive_k: this key is not known"),
    (ask(retrieve_k="5"), 422, "invalid-request", "retrieve_k: "),
    (ask(retrieve_k=True), 422, "invalid-request", "retrieve_k: "),
    (ask(retrieve_k=0), 422, "invalid-request", "retrieve_k: Input should be greater than or equal to 1"),
    (ask(retrieve_k=201), 422, "invalid-request", "retrieve_k: 201 is more than 200, the most allowed here"),
    (ask(retrieve_k=200, keep_k=101), 422, "invalid-request", "keep_k: 101 is more than 100"),
    (ask(keep_k=101), 422, "invalid-request", "keep_k: 101 is more than 100, the most allowed here"),
    (ask(retrieve_k=5, keep_k=6), 422, "invalid-request", "keep_k (6) must not exceed retrieve_k (5)"),
    (ask(max_new_tokens=257), 422, "invalid-request", "max_new_tokens: 257 is more than 256"),
    (ask(num_beams=9), 422, "invalid-request", "num_beams: 9 is more than 8"),
    (ask(deadline_ms=0), 422, "invalid-request", "deadline_ms: "),
    (ask(deadline_ms=-5), 422, "invalid-request", "deadline_ms: "),
    (ask(deadline_ms=86_400_001), 422, "invalid-request", "deadline_ms: Input should be less than or equal to"),
    (raw(b'{"question": "why?", "deadline_ms": ' + b"9" * 400 + b"}"), 422, "invalid-request", "deadline_ms: "),
    (post("/answer/batch", {"questions": [{"question": "a"}], "deadline_ms": 10**400}), 422, "invalid-request", ""),
    (post("/retrieve", {"question": "a", "deadline_ms": 10**400}), 422, "invalid-request", "deadline_ms: "),
    (post("/rerank", {"question": "a", "passages": OWN, "deadline_ms": 10**400}), 422, "invalid-request", ""),
    (ask(stream="yes"), 422, "invalid-request", "stream: "),
    (ask(passages=[]), 422, "invalid-request", "passages: "),
    (ask(passages=[{"text": " "}]), 422, "invalid-request", "passages/0/text: "),
    (ask(passages=["a"]), 422, "invalid-request", "passages/0: must be a JSON object"),
    (ask(passages=[{"text": "a", "score": 1}]), 422, "invalid-request", "passages/0/score: this key is not"),
    (ask(passages=OWN, retrieve_k=2), 422, "invalid-request", "retrieve_k has no meaning with passages"),
    (ask(passages=OWN, keep_k=3), 422, "invalid-request", "keep_k (3) must not exceed the number"),
    (ask(passages=[{"text": "a"}, {"text": "b", "id": "own:0"}]), 422, "invalid-request", "the id 'own:0'"),
    (ask(passages=[{"text": "a"}] * 201), 422, "invalid-request", "passages: 201 is more than 200"),
    (post("/answer/batch", {"questions": []}), 422, "invalid-request", "questions: "),
    (post("/answer/batch", {"questions": [{"question": "a"}] * 65}), 422, "invalid-request", "65 is more than 64"),
    (
        post("/answer/batch", {"questions": [{"question": "a"}, {"question": "b", "num_beams": 9}]}),
        422, "invalid-request", "questions/1/num_beams: 9 is more than 8",
    ),
    (
        post("/answer/batch", {"questions": [{"question": "a", "stream": False}]}),
        422, "invalid-request", "questions/0/stream: this key is not known",
    ),
    (post("/retrieve", {"question": "a", "retrieve_k": 999}), 422, "invalid-request", "999 is more than 200"),
    (post("/rerank", {"question": "a", "passages": [{"text": "a"}] * 201}), 422, "invalid-request", "201 is"),
    (post("/rerank", {"question": "a"}), 422, "invalid-request", "passages: Field required"),
    # the engine
    (post("/answer", {"question": "impossible"}), 422, "impossible-request", "no task 'juggling'"),
    (post("/answer", {"question": "broken"}), 500, "internal", "The server's log names the cause"),
    (post("/answer", {"question": "damaged"}), 500, "store-damaged", "The server's log names the damage"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "name", "detail"), TABLE)
async def test_every_error_is_a_problem(serving, caplog, request_, status: int, name: str, detail: str) -> None:
    small = {"max_body_bytes": 4_000} if status == 413 else {}
    async with serving(**small) as http:
        request = http.build_request(**request_)
        request.headers["X-Request-ID"] = "me-3"
        response = await http.send(request)
    told = response.json()
    assert (response.status_code, told["type"]) == (status, f"urn:memstore:problem:{name}")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == told["request_id"] == "me-3"
    assert set(told) == {"type", "title", "status", "detail", "instance", "request_id", "errors", "loading"}
    assert told["status"] == status
    assert told["instance"] == request.url.path
    assert detail in told["detail"]
    assert bool(told["errors"]) == (name == "invalid-request")
    assert told["loading"] is None
    for secret in ("secret", "/srv", "Traceback", "File "):
        assert secret not in response.text
    assert [record.levelname for record in caplog.records if record.levelname == "ERROR"] == ["ERROR"] * (status == 500)


async def test_each_wrong_part_is_pointed_at(serving) -> None:
    body = {"questions": [{"question": "a"}, {"question": "", "a/b~": 1, "retrieve_k": 0, "keep_k": 0}]}
    async with serving() as http:
        told = (await http.post("/answer/batch", json=body)).json()
    assert {one["pointer"] for one in told["errors"]} == {
        "#/questions/1/question", "#/questions/1/retrieve_k", "#/questions/1/keep_k", "#/questions/1/a~1b~0",
    }  # fmt: skip
    assert told["detail"].endswith("; and 1 more")


@pytest.mark.parametrize(
    ("path", "body", "pointer", "detail"),
    [
        ("/answer", [1], "#", "the body must be a JSON object"),
        ("/retrieve", "why?", "#", "the body must be a JSON object"),
        ("/answer", {"question": "a", "retrieve_k": 5, "keep_k": 6}, "#", "keep_k (6) must not exceed retrieve_k (5)"),
        (
            "/answer/batch", {"questions": [{"question": "a"}, {"question": "b", "retrieve_k": 5, "keep_k": 6}]},
            "#/questions/1", "keep_k (6) must not exceed retrieve_k (5)",
        ),
        ("/answer/batch", {"questions": ["a"]}, "#/questions/0", "must be a JSON object"),
        ("/answer", {"question": "a", "": 1}, "#/", "this key is not known"),
    ],
)  # fmt: skip
async def test_the_whole_body_and_its_parts_have_pointers_of_their_own(
    serving, path: str, body: Any, pointer: str, detail: str
) -> None:
    async with serving() as http:
        told = (await http.post(path, json=body)).json()
    assert told["errors"] == [{"pointer": pointer, "detail": detail}]
    place = pointer[2:] or '""'
    assert told["detail"] == (detail if pointer == "#" else f"{place}: {detail}")


async def test_reading_more_than_is_retrieved_by_default_says_so(serving) -> None:
    """It is no limit of the server's: with a larger `retrieve_k` it is served."""
    said = (
        "keep_k (50) must not exceed retrieve_k (40), which is the default: give a larger retrieve_k too, at most 200"
    )
    async with serving() as http:
        one = (await http.post("/answer", json={"question": "a", "keep_k": 50})).json()
        batch = (await http.post("/answer/batch", json={"questions": [{"question": "a", "keep_k": 50}]})).json()
        served = await http.post("/answer", json={"question": "a", "keep_k": 50, "retrieve_k": 50})
    assert (one["detail"], one["errors"]) == (said, [{"pointer": "#/keep_k", "detail": said}])
    assert batch["errors"] == [{"pointer": "#/questions/0/keep_k", "detail": said}]
    assert batch["detail"] == f"questions/0/keep_k: {said}"
    assert served.status_code == 200


async def test_the_most_that_can_be_read_is_what_info_says(serving) -> None:
    async with serving(max_retrieve_k=50) as http:
        most = (await http.get("/info")).json()["limits"]["keep_k"]
        told = (await http.post("/answer", json={"question": "a", "keep_k": 51})).json()
        served = await http.post("/answer", json={"question": "a", "keep_k": most, "retrieve_k": 50})
    assert most == 50
    assert told["detail"] == "keep_k: 51 is more than 50, the most allowed here"
    assert served.status_code == 200


async def test_a_thousand_wrong_parts_are_not_all_reported(serving) -> None:
    async with serving() as http:
        told = (await http.post("/answer", json={"question": "a", **{f"k{i}": 0 for i in range(1_000)}})).json()
    assert len(told["errors"]) == 20
    assert told["detail"].endswith("; and 997 more")


async def test_three_wrong_parts_are_all_reported(serving) -> None:
    async with serving() as http:
        told = (await http.post("/answer", json={"question": "a", "x": 0, "y": 0, "z": 0})).json()
    assert told["detail"] == "; ".join(f"{key}: this key is not known" for key in "xyz")


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(("size", "status"), [(4_000, 200), (4_001, 413)])
async def test_a_body_may_have_as_many_bytes_as_info_says(serving, size: int, status: int, announced: bool) -> None:
    async def in_pieces():
        for at in range(0, size, 1_000):
            yield body[at : at + 1_000]

    body = b'{"question": "why?"}'.ljust(size)
    async with serving(max_body_bytes=4_000) as http:
        headers = {"Content-Type": "application/json"}
        response = await http.post("/answer", content=body if announced else in_pieces(), headers=headers)
        assert (await http.get("/info")).json()["limits"]["body_bytes"] == 4_000
    assert response.status_code == status


async def test_a_body_without_length_is_limited_too(serving) -> None:
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1_000
            yield b" " * 1_000

    async with serving(max_body_bytes=10_000) as http:
        headers = {"Content-Type": "application/json"}
        response = await http.post("/answer", content=endless(), headers=headers)
    assert response.status_code == 413
    assert sent <= 12_000


async def test_a_body_announced_as_too_large_is_not_read(serving) -> None:
    sent = 0

    async def pieces():
        nonlocal sent
        for _ in range(20):
            sent += 1_000
            yield b" " * 1_000

    async with serving(max_body_bytes=10_000) as http:
        headers = {"Content-Type": "application/json", "Content-Length": "20000"}
        response = await http.post("/answer", content=pieces(), headers=headers)
    assert (response.status_code, sent) == (413, 0)


async def test_an_error_after_the_reply_has_begun_is_left_to_the_server() -> None:
    """Which closes the connection: a second reply after half of a first would only confuse."""

    async def half(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half way")

    async def send(message) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError, match="half way"):
        await RequestContext(half)(scope, None, send)
    assert sent == ["http.response.start"]


async def test_405_keeps_its_allow_header(serving) -> None:
    async with serving() as http:
        response = await http.get("/answer")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/passages/a%20b", "/passages/%3C%22%C3%A9%3E", "/passages/100%25"])
async def test_the_instance_is_a_uri_reference(serving, path: str) -> None:
    """RFC 9457, 3.1.5: readers that are strict about it would fail on a space."""
    async with serving() as http:
        assert (await http.get(path)).json()["instance"] == path


async def test_an_unforeseen_error_is_logged_with_its_cause_and_request_id(serving, caplog) -> None:
    from memstore_server.logs import RequestIdFilter

    caplog.handler.addFilter(RequestIdFilter())
    async with serving() as http:
        await http.post("/answer", json={"question": "broken"}, headers={"X-Request-ID": "me-4"})
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.request_id == "me-4"
    assert "secret path /srv/model" in str(record.exc_info[1])


async def test_damage_is_logged_by_its_name_alone(serving, caplog) -> None:
    """It was foreseen: where in the code it was met says nothing to who has to mend the store."""
    async with serving() as http:
        await http.post("/answer", json={"question": "damaged"})
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert (record.getMessage(), record.exc_info) == ("store-damaged: secret path /srv/store", None)


async def test_an_error_outside_all_handlers_is_still_a_problem(serving, engine) -> None:
    engine.passage = lambda passage_id: "not a passage"  # the translation fails, which nobody foresaw
    async with serving() as http:
        response = await http.get("/passages/7:0")
    assert (response.status_code, response.json()["type"]) == (500, "urn:memstore:problem:internal")


def test_kinds_are_distinct() -> None:
    assert len({kind.type for kind in KINDS}) == len(KINDS) == 28
    untested = {kind.name for kind in KINDS} - {name for _, _, name, _ in TABLE}
    assert untested == {
        "overloaded", "too-late", "not-ready", "deadline-exceeded",  # in test_serving_life.py
        "not-reloaded",  # in test_reloading.py
        "unauthorized", "document-not-found", "job-not-found", "generation-not-found", "store-busy", "other-server",
        "other-model", "too-many-changes", "no-room", "store-unreachable", "store-read-only",  # in test_writing.py
        "too-many-requests",  # in test_keys.py
    }  # fmt: skip
