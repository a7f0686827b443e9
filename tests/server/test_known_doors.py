"""OpenAI's and Cohere's own clients against a server: what they send is answered, or refused as they understand it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import openai
import pytest

from memstore_client import Client
from tests.server.fakes import PATIENCE, FakeEngine
from tests.server.page.conftest import served


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def url(engine: FakeEngine) -> Iterator[str]:
    with served(engine, max_new_tokens_limit=64) as address:
        yield address


@pytest.fixture(scope="module")
def ai(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}v1", api_key="any", max_retries=0) as client:
        yield client


def chat(ai: openai.OpenAI, question: Any, **options: Any) -> Any:
    return ai.chat.completions.create(model="memstore", messages=[{"role": "user", "content": question}], **options)


# --- chat ---


def test_the_last_message_of_the_user_is_answered(ai: openai.OpenAI, url: str, engine: FakeEngine) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what do otters eat"},
        {"role": "assistant", "content": "Fish."},
        {"role": "user", "content": [{"type": "text", "text": "what do"}, {"type": "text", "text": "they hold"}]},
    ]
    done = ai.chat.completions.create(model="memstore", messages=messages, temperature=0.7, top_p=0.9, seed=1, user="u")
    assert done.choices[0].message.content == "what do\nthey hold!"
    assert (done.choices[0].message.role, done.choices[0].finish_reason) == ("assistant", "stop")
    assert (done.object, done.model, done.usage) == ("chat.completion", "memstore", None)
    with Client(url) as client:
        plain = client.answer("what do\nthey hold")
    assert done.model_extra is not None
    assert done.model_extra["citations"] == [one.model_dump() for one in plain.passages if one.kept]
    beside = done.model_extra["memstore"]
    assert (beside["score"], beside["store"]) == (plain.score, plain.store.model_dump())
    assert done.id == f"chatcmpl-{beside['request_id']}"


def test_a_chat_may_cost_only_so_much(ai: openai.OpenAI, engine) -> None:
    engine.questions.clear()
    done = chat(ai, "why?", extra_body={"keep_k": "auto", "max_gflop": 3})
    assert (engine.questions[0].retrieve_k, engine.questions[0].keep_mass) == (3, 0.9)
    assert (done.model_extra or {})["memstore"]["lowered"]["reasons"] == ["max_gflop"]


def test_options_of_ours_stand_beside_and_lengths_are_held_to_the_servers(ai: openai.OpenAI, engine) -> None:
    engine.questions.clear()
    chat(ai, "why?", max_tokens=4096, extra_body={"retrieve_k": 7, "keep_k": 2, "task": "nq", "unheard_of": {"a": 1}})
    chat(ai, "why?", max_completion_tokens=5)
    chat(ai, "why?", extra_body={"max_new_tokens": 6, "passages": [{"text": "My own."}]})
    first, second, third = engine.questions
    assert (first.retrieve_k, first.keep_k, first.task, first.max_new_tokens) == (7, 2, "nq", 64)
    assert second.max_new_tokens == 5
    assert third.max_new_tokens == 6
    assert third.passages is not None
    assert [one.text for one in third.passages] == ["My own."]


def test_a_stream_says_what_a_reply_says(ai: openai.OpenAI) -> None:
    plain = chat(ai, "what do they hold")
    chunks = list(chat(ai, "what do they hold", stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "what", " do", " they", " hold!", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * 5, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].model_extra["citations"] == plain.model_extra["citations"]
    assert chunks[-1].model_extra["memstore"]["score"] == plain.model_extra["memstore"]["score"]


def test_an_answer_that_its_length_limit_cut_says_so(ai: openai.OpenAI) -> None:
    assert chat(ai, "why?", max_tokens=1).choices[0].finish_reason == "length"
    *_, last = chat(ai, "why?", max_tokens=1, stream=True)
    assert last.choices[0].finish_reason == "length"


def test_a_stream_ends_as_theirs(url: str) -> None:
    body = {"model": "memstore", "messages": [{"role": "user", "content": "why?"}], "stream": True}
    reply = httpx.post(f"{url}v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")


def test_a_client_that_closes_its_stream_stops_the_work(ai: openai.OpenAI, url: str, engine: FakeEngine) -> None:
    engine.pause.clear()
    stream = chat(ai, "one two three", stream=True)
    next(iter(stream))
    stream.close()
    with Client(url) as client:
        for _ in range(50):  # until the server has heard of it
            client.health()
        engine.pause.set()
        assert engine.cut_short.acquire(timeout=PATIENCE)


REFUSED = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "tools are not called here"),
    ({"n": 2}, "n", "one answer"),
    ({"response_format": {"type": "json_object"}}, "response_format", "plain text"),
    ({"logprobs": True}, "logprobs", "log-probabilities"),
    ({"stop": ["."]}, "stop", "end by themselves"),
    ({"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, "modalities", "answers are text"),
    ({"extra_body": {"retrieve_k": 999}}, "retrieve_k", "999 is more than 200"),
    ({"extra_body": {"retrieve_k": "many"}}, "retrieve_k", "valid integer"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"extra_body": {"max_new_tokens": 65}}, "max_new_tokens", "65 is more than 64"),
    ({"extra_body": {"passages": [{"text": ""}]}}, "passages/0/text", "at least 1 character"),
]


@pytest.mark.parametrize(("options", "param", "message"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused(ai: openai.OpenAI, options: Any, param: str, message: str, stream) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        chat(ai, "why?", stream=stream, **options)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize("options", [{"tools": []}, {"n": 1}, {"tool_choice": "none"}, {"modalities": ["text"]},
                                     {"response_format": {"type": "text"}}, {"logprobs": False}])  # fmt: skip
def test_what_asks_for_nothing_is_taken(ai: openai.OpenAI, options: Any) -> None:
    assert chat(ai, "why?", **options).choices[0].message.content == "why?!"


def test_images_and_chats_without_a_question_are_refused(ai: openai.OpenAI) -> None:
    image = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.BadRequestError, match="only text is read here, not 'image_url'") as refused:
        chat(ai, image)
    assert refused.value.param == "messages/0/content/1"
    with pytest.raises(openai.BadRequestError, match="no message of the role user"):
        ai.chat.completions.create(model="memstore", messages=[{"role": "system", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="messages/0/content"):
        chat(ai, "x" * 2001)
    with pytest.raises(openai.BadRequestError, match="messages/0/content"):
        chat(ai, "")


def test_failures_have_their_shape_before_a_stream_and_in_it(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="The server failed") as failed:
        chat(ai, "broken")
    assert (failed.value.type, failed.value.code) == ("server_error", "internal")
    with pytest.raises(openai.BadRequestError, match="juggling"):
        chat(ai, "impossible", stream=True)
    with pytest.raises(openai.APIError, match="The store is damaged"):
        list(chat(ai, "damaged", stream=True))
    with pytest.raises(openai.APIError, match="The server failed"):
        list(chat(ai, "halfway there", stream=True))


# --- models ---


def test_models_are_collections(ai: openai.OpenAI) -> None:
    with served(FakeEngine(), others={"laws": FakeEngine()}) as url:
        several = ai.with_options(base_url=f"{url}v1")
        assert [one.id for one in several.models.list()] == ["memstore", "memstore/laws"]
        assert several.models.retrieve("memstore/laws").owned_by == "fake"
        asked = {"model": "memstore/laws", "messages": [{"role": "user", "content": "why?"}]}
        done = several.chat.completions.create(**asked)
        assert done.model_extra["memstore"]["store"]["collection"] == "laws"


def test_models_that_are_not_there(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9' here: ask for 'memstore'") as missing:
        ai.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "why?"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        ai.models.retrieve("gpt-9")


# --- embeddings ---


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_embeddings(ai: openai.OpenAI, form: Any) -> None:
    """By default the client asks for base64 and gives numbers."""
    made = ai.embeddings.create(model="memstore", input=["why?", "because"], **form)
    assert [one.index for one in made.data] == [0, 1]
    if form.get("encoding_format") == "base64":
        assert isinstance(made.data[0].embedding, str)
    else:
        assert [one.embedding for one in made.data] == [[0.0, 4.0], [0.0, 7.0]]
    asked = ai.embeddings.create(model="memstore", input="why?", extra_body={"input_type": "query"})
    assert asked.data[0].embedding == [1.0, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "none"}, "there are no vectors here"),
        ({"input": [1, 2]}, "token ids are not taken"),
        ({"input": []}, "must be a text"),
        ({"input": ["a"] * 201}, "at most 200 texts"),
        ({"input": "a", "dimensions": 8}, "vectors have 2 dimensions here"),
    ],
)
def test_embeddings_that_cannot_be_made(ai: openai.OpenAI, options: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        ai.embeddings.create(model="memstore", **options)


# --- rerank ---


@pytest.fixture(params=[cohere.Client, cohere.ClientV2], ids=["v1", "v2"])
def reranker(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    with httpx.Client() as http:
        yield request.param(api_key="any", base_url=url.rstrip("/"), httpx_client=http)


def test_rerank(reranker: Any) -> None:
    """The fake turns the order around, with scores 0, -1 and -2."""
    done = reranker.rerank(model="memstore", query="why?", documents=["a", "b", "c"], top_n=2)
    weights = [1.0, math.exp(-1), math.exp(-2)]
    expected = [weight / sum(weights) for weight in weights]
    assert [one.index for one in done.results] == [2, 1]
    assert [one.relevance_score for one in done.results] == pytest.approx(expected[:2])
    assert done.id


def test_rerank_refuses_as_cohere_does(reranker: Any) -> None:
    with pytest.raises(cohere.BadRequestError) as refused:
        reranker.rerank(model="memstore", query="", documents=["a"])
    assert "query: String should have" in refused.value.body["message"]
    with pytest.raises(cohere.NotFoundError) as missing:
        reranker.rerank(model="rerank-v9", query="why?", documents=["a"])
    assert "there is no model 'rerank-v9' here" in missing.value.body["message"]


def test_rerank_as_jina_has_it(url: str) -> None:
    body = {
        "query": "why?",
        "documents": [{"text": "a", "title": "A"}, "b"],
        "return_documents": True,
        "truncate": True,
    }
    reply = httpx.post(f"{url}v1/rerank", json=body).json()
    assert [(one["index"], one["document"]) for one in reply["results"]] == [(1, {"text": "b"}), (0, {"text": "a"})]
    assert [one["rerank_score"] for one in reply["results"]] == [0.0, -1.0]
    wrong = httpx.post(f"{url}v1/rerank", json={"query": "why?", "documents": [{"image": "x"}]})
    assert (wrong.status_code, wrong.json()["message"]) == (
        400, "The request is not valid: documents/0: must be a text, or an object with a `text`",
    )  # fmt: skip
    assert httpx.post(f"{url}v1/rerank", content=b"{").status_code == 400


def test_lone_halves_of_characters_do_not_break_the_reply(url: str) -> None:
    body = json.dumps({"model": "\ud83d", "messages": [{"role": "user", "content": "why?"}]})
    reply = httpx.post(f"{url}v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["type"] == "invalid_request_error"
