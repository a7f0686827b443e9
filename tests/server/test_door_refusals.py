"""Errors of the doors, whoever finds them: in the shape and with the status that OpenAI's and Cohere's clients
expect, and in the words of the request that was sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import openai
import pytest

from memstore_client import Client
from memstore_server.keyring import add_key
from tests.server.fakes import FakeEngine
from tests.server.page.conftest import served

Keys = dict[str, str]
ASKED: dict[str, Any] = {"model": "memstore", "messages": [{"role": "user", "content": "why?"}]}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    rare = {name: add_key(file, name, per_minute=1) for name in ("rare", "seldom")}
    return {"file": str(file), "reader": add_key(file, "reader"), **rare}


@pytest.fixture(scope="module")
def url(keys: Keys) -> Iterator[str]:
    """Of a server that asks for keys."""
    with served(FakeEngine(), keys_file=Path(keys["file"])) as address:
        yield address


def asking(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}v1", api_key=key, max_retries=0)


def reranking(url: str, key: str, http: httpx.Client) -> Any:
    return cohere.ClientV2(api_key=key, base_url=url.rstrip("/"), httpx_client=http)


# --- keys ---


@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_key_is_openais_authentication_error(url: str, keys: Keys, stream: bool) -> None:
    with (
        asking(url, "sk-wrong") as ai,
        pytest.raises(openai.AuthenticationError, match="no key of the server") as wrong,
    ):
        ai.chat.completions.create(**ASKED, stream=stream)
    assert (wrong.value.type, wrong.value.code, wrong.value.param) == ("authentication_error", "invalid_api_key", None)
    with asking(url, "sk-wrong") as ai, pytest.raises(openai.AuthenticationError):
        ai.models.list()
    with asking(url, keys["reader"]) as ai:
        assert [one.id for one in ai.models.list()] == ["memstore"]
        assert ai.chat.completions.create(**ASKED).choices[0].message.content == "why?!"


def test_a_key_that_asks_too_often_is_openais_rate_limit_error(url: str, keys: Keys) -> None:
    with asking(url, keys["rare"]) as ai:
        ai.models.list()
        with pytest.raises(openai.RateLimitError) as often:
            ai.chat.completions.create(**ASKED)
    assert (often.value.type, often.value.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(often.value.response.headers["retry-after"]) >= 1  # which openai's client waits for, if it may retry


def test_a_wrong_key_is_coheres_unauthorized_error(url: str, keys: Keys) -> None:
    with httpx.Client() as http:
        with pytest.raises(cohere.UnauthorizedError) as wrong:
            reranking(url, "wrong", http).rerank(model="memstore", query="why?", documents=["a"])
        assert set(wrong.value.body) == {"id", "message"}
        assert "this is no key of the server's" in wrong.value.body["message"]
        done = reranking(url, keys["reader"], http).rerank(model="memstore", query="why?", documents=["a"])
    assert [one.index for one in done.results] == [0]


def test_a_key_that_asks_too_often_is_coheres_too_many_requests_error(url: str, keys: Keys) -> None:
    with httpx.Client() as http:
        asked = reranking(url, keys["seldom"], http)
        asked.rerank(model="memstore", query="why?", documents=["a"])
        with pytest.raises(cohere.TooManyRequestsError, match="asked too often"):
            asked.rerank(model="memstore", query="why?", documents=["a"], request_options={"max_retries": 0})


def test_elsewhere_a_wrong_key_is_our_own_problem(url: str) -> None:
    for path in ("answer", "rerank", "v10/models"):
        assert httpx.post(f"{url}{path}").headers["content-type"] == "application/problem+json"


# --- whoever else refuses ---


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def free(engine: FakeEngine) -> Iterator[str]:
    """Of a server that asks for none, and takes small bodies."""
    with served(engine, max_body_bytes=10_000) as address:
        yield address


def test_addresses_and_methods_that_there_are_not(free: str) -> None:
    with asking(free, "any") as ai, pytest.raises(openai.NotFoundError, match="nothing at this address") as missing:
        ai.completions.create(model="memstore", prompt="why?")
    assert (missing.value.type, missing.value.code) == ("invalid_request_error", "no_such_route")
    assert httpx.get(f"{free}v1/chat/completions").json()["error"]["code"] == "method_not_allowed"
    assert httpx.get(f"{free}v1").json()["error"]["code"] == "no_such_route"
    assert set(httpx.get(f"{free}v2/rerank").json()) == {"id", "message"}


def test_a_body_that_is_too_large(free: str) -> None:
    with asking(free, "any") as ai, pytest.raises(openai.APIStatusError, match="at most 10000 bytes") as large:
        ai.embeddings.create(model="memstore", input=["x" * 10_000])
    assert (large.value.status_code, large.value.code) == (413, "body_too_large")


def test_below_a_path_of_a_proxy_the_shapes_are_the_same() -> None:
    with served(FakeEngine(), root_path="/memstore") as address:
        reply = httpx.get(f"{address}v1/nowhere")
    assert reply.json()["error"]["code"] == "no_such_route"


def test_they_are_counted(free: str) -> None:
    def count() -> float:
        lines = httpx.get(f"{free}metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("memstore_problems_total{"))

    before = count()
    httpx.post(f"{free}v1/chat/completions", json={**ASKED, "n": 2})
    httpx.post(f"{free}v1/rerank", json={"query": "", "documents": ["a"]})
    httpx.get(f"{free}v1/models/gpt-9")
    assert count() == before + 3


# --- in the words of what was sent ---


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"query": "", "documents": ["a"]}, "query: String should have at least 1 character"),
        ({"query": "x" * 2001, "documents": ["a"]}, "query: String should have at most 2000 characters"),
        ({"query": "why?", "documents": []}, "documents: List should have at least 1 item"),
        ({"query": "why?", "documents": ["a", " "]}, "documents/1: String should have at least 1 character"),
        ({"query": "why?", "documents": [{"text": ""}]}, "documents/0/text: String should have at least 1 character"),
        ({"query": "why?", "documents": [{"text": "a", "title": 5}]}, "documents/0/title: Input should be a valid"),
        ({"query": "why?", "documents": ["a"] * 201}, "documents: 201 is more than 200, the most allowed here"),
        ({"query": "why?", "documents": ["a"], "top_n": 0}, "top_n: Input should be greater than or equal to 1"),
        ({"query": "why?", "documents": ["a"], "deadline_ms": 0}, "deadline_ms: Input should be greater"),
        ({"query": "why?"}, "documents: Field required"),
        ({"documents": ["a"]}, "query: Field required"),
    ],
)
def test_rerank_names_its_own_fields(free: str, sent: dict[str, Any], message: str) -> None:
    reply = httpx.post(f"{free}v1/rerank", json=sent)
    assert reply.status_code == 400
    assert message in reply.json()["message"]
    assert "question" not in reply.json()["message"]
    assert "passages" not in reply.json()["message"]


@pytest.mark.parametrize(
    ("content", "message"), [("", "at least 1 character"), ("x" * 2001, "at most 2000 characters"), (None, "at least")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_names_the_message_that_is_the_question(free: str, content: Any, message: str, stream: bool) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    with asking(free, "any") as ai, pytest.raises(openai.BadRequestError, match=message) as refused:
        ai.chat.completions.create(model="memstore", messages=messages, stream=stream)
    assert refused.value.param == "messages/1/content"
    assert "question" not in refused.value.message


# --- not knowing ---


def test_an_answer_that_is_not_given_is_a_refusal(free: str, engine: FakeEngine) -> None:
    with asking(free, "any") as ai, Client(free) as client:
        done = ai.chat.completions.create(**ASKED, extra_body={"min_confidence": 0.75}).choices[0].message
        assert (done.content, done.refusal) == ("", client.answer("why?", min_confidence=0.75).reason)
        known = ai.chat.completions.create(**ASKED).choices[0].message
        assert (known.content, known.refusal) == ("why?!", None)
        chunks = list(ai.chat.completions.create(**ASKED, extra_body={"min_confidence": 0.75}, stream=True))
    assert [chunk.choices[0].delta.refusal for chunk in chunks if chunk.choices[0].delta.refusal] == [done.refusal]
