"""The OpenAPI document: whole, and honest about problems."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memstore_client import Client, changes, events, filters, served, wire
from memstore_client.wire import AnswerReply, Problem
from memstore_server import problems
from memstore_server.app import create_app
from memstore_server.doors import shapes
from memstore_server.settings import Settings
from tests.server.fakes import FakeEngine

CHANGING = {
    ("put", "/documents"), ("delete", "/documents"), ("get", "/documents/{document_id}"), ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"), ("get", "/generations"), ("post", "/admin/rollback"),
}  # fmt: skip
DOORS = {
    ("post", "/v1/chat/completions"), ("get", "/v1/models"), ("get", "/v1/models/{model}"), ("post", "/v1/embeddings"),
    ("post", "/v1/rerank"),
}  # fmt: skip
OPERATIONS = CHANGING | DOORS | {
    ("post", "/answer"), ("post", "/answer/batch"), ("post", "/retrieve"), ("post", "/rerank"),
    ("get", "/passages/{passage_id}"), ("get", "/health"), ("get", "/ready"), ("get", "/info"),
    ("post", "/admin/reload"),
}  # fmt: skip


@pytest.fixture
def document(engine: FakeEngine) -> dict:
    return create_app(engine, Settings.load(store="store", write_key="a key of sixteen!".replace(" ", "-"))).openapi()


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def operations(document: dict) -> dict[tuple[str, str], dict]:
    return {(verb, path): op for path, verbs in document["paths"].items() for verb, op in verbs.items()}


def test_it_lists_every_route_and_each_says_what_it_does(document: dict) -> None:
    assert document["openapi"].startswith("3.1")
    assert set(operations(document)) == OPERATIONS
    for operation in operations(document).values():
        assert operation["description"]
    assert len({operation["operationId"] for operation in operations(document).values()}) == len(OPERATIONS)


def test_every_reference_leads_somewhere(document: dict) -> None:
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert "HTTPValidationError" not in schemas


def test_every_operation_lists_its_problems(document: dict) -> None:
    for (verb, path), operation in operations(document).items():
        if (verb, path) in DOORS:
            shape = operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"]
            assert shape.endswith("CohereError" if path == "/v1/rerank" else "OpenAIError")
            continue
        failures = {status: reply for status, reply in operation["responses"].items() if status[0] != "2"}
        expected = {"default"}
        if path == "/admin/reload":
            expected |= {"401", "404", "500", "503"}
        elif (verb, path) in CHANGING:
            expected |= {"401", "500"}
            if "requestBody" in operation:
                expected |= {"400", "413", "415", "422", "503"}
                expected |= {"404", "409", "507"} if path == "/admin/rollback" else {"404", "429", "507"}
            else:
                expected |= {"404", "409"} if verb == "delete" else {"404"}
                expected |= set() if path.startswith("/jobs") else {"503"}
        elif verb == "post":
            expected |= {"400", "404", "413", "415", "422", "500", "503", "504"}
        if path == "/passages/{passage_id}":
            expected |= {"404", "500", "503"}
        if path == "/info":
            expected |= {"404"}
        if path in ("/health", "/ready"):
            expected |= {"503"}
        assert set(failures) == expected, path
        for reply in failures.values():
            assert reply["description"]
            assert list(reply["content"]) == ["application/problem+json"]


def test_every_kind_of_problem_is_named_where_it_may_occur(document: dict) -> None:
    def told(*places: tuple[str, str]) -> str:
        replies = [operations(document)[place]["responses"] for place in places]
        return " ".join(reply["description"] for each in replies for reply in each.values())

    nowhere = {problems.NO_SUCH_ROUTE, problems.METHOD_NOT_ALLOWED, problems.TOO_MANY_REQUESTS}  # of no operation
    assert {kind for kind in problems.KINDS if kind.type not in told(*OPERATIONS)} == nowhere
    for place in (("post", "/answer"), ("post", "/retrieve"), ("get", "/passages/{passage_id}")):
        assert problems.STORE_DAMAGED.type in told(place)
        assert problems.STORE_UNREACHABLE.type in told(place)


def test_headers_are_reported_where_they_are_sent(document: dict) -> None:
    for place, operation in operations(document).items():
        for status, reply in operation["responses"].items():
            if place in DOORS:
                continue
            waits = {"Retry-After"} if status in ("429", "503") or "store-busy" in reply["description"] else set()
            waits |= {"Location"} if status == "202" else set()
            assert set(reply["headers"]) == {"X-Request-ID"} | waits, status


@pytest.mark.anyio
async def test_the_example_of_every_body_is_answered(serving, document: dict) -> None:
    schemas, posted = document["components"]["schemas"], 0
    async with serving() as http:
        for (verb, path), operation in operations(document).items():
            if "requestBody" not in operation or (verb, path) in CHANGING:
                continue
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            for example in schemas[reference.rpartition("/")[2]]["examples"]:
                assert (await http.post(path, json=example)).status_code == 200, path
                posted += 1
    assert posted == 7


def test_every_key_of_a_reply_is_promised(document: dict) -> None:
    """Whoever generates a client from the document need not ask whether a key is there: only whether it is null."""
    for name, schema in document["components"]["schemas"].items():
        made_of = next(
            vars(module)[name] for module in (wire, served, changes, filters, events, shapes) if name in vars(module)
        )
        if issubclass(made_of, wire.Reply):
            assert set(schema["required"]) == set(schema["properties"]), name


def test_operations_are_called_as_the_clients_methods(document: dict) -> None:
    methods = {one["operationId"] for place, one in operations(document).items() if place not in DOORS}
    assert methods == {name for name in dir(Client) if not name.startswith("_")} - {
        "close", "wait", "wait_until_ready", "stream",
    }  # fmt: skip


def test_the_events_of_a_stream_have_schemas(document: dict) -> None:
    replies = operations(document)["post", "/answer"]["responses"]["200"]["content"]
    assert set(replies) == {"application/json", "text/event-stream"}
    assert replies["application/json"]["schema"] == {"$ref": "#/components/schemas/AnswerReply"}
    schemas = {name: one["$ref"].rpartition("/")[2] for name, one in replies["text/event-stream"]["x-events"].items()}
    assert schemas == {
        "retrieved": "RetrievedEvent", "ranked": "RankedEvent", "token": "TokenEvent", "done": "AnswerReply",
        "error": "Problem",
    }  # fmt: skip


def test_schemas_are_those_of_the_wire(document: dict) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["Problem"]["properties"]) == set(Problem.model_fields)
    assert set(schemas["AnswerReply"]["properties"]) == set(AnswerReply.model_fields)
    assert schemas["AnswerRequest"]["additionalProperties"] is False


def test_it_speaks_of_this_version_and_of_answers_from_nothing(document: dict) -> None:
    schemas = document["components"]["schemas"]
    stream = schemas["AnswerRequest"]["properties"]["stream"]["description"]
    assert stream.startswith("`true` sends the answer as it is made, as server-sent events.")
    assert "`passages` empty it is a guess" in schemas["AnswerReply"]["properties"]["answer"]["description"]


def test_it_is_the_same_when_asked_twice(engine: FakeEngine) -> None:
    app = create_app(engine, Settings.load(store="store"))
    assert app.openapi() == app.openapi()
