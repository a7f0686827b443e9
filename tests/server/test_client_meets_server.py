"""The client against the app itself: what one sends the other takes, errors included."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from memstore.retrieve.filters import Filter as Engines
from memstore_client import AsyncClient, BadRequest, NotFound, PassageInput, QuestionInput, ServerFailed
from memstore_client.filters import Filter

pytestmark = pytest.mark.anyio


@pytest.fixture
def client_of(serving):
    def make(http: httpx.AsyncClient) -> AsyncClient:
        return AsyncClient("http://memstore", transport=http._transport, retries=0)

    return make


async def test_every_method(serving, client_of) -> None:
    async with serving() as http, client_of(http) as client:
        assert (await client.answer("why?", keep_k=1)).answer == "why?!"
        assert (await client.answer("why?", passages=[PassageInput(text="a")])).passages[0].id == "own:0"
        batch = await client.answer_batch(["a", QuestionInput(question="impossible")])
        assert batch.items[0].answer.answer == "a!"
        assert batch.items[1].problem.status == 422
        assert [one.id for one in (await client.retrieve("why?")).passages] == ["7:0", "a/b:1"]
        assert (await client.rerank("why?", [PassageInput(text="a")])).passages[0].rerank_score == 0.0
        assert (await client.passage("a/b:1")).text == "An id with a slash."
        assert (await client.health()).status == "alive"
        assert await client.ready() is True
        assert (await client.info()).model.fingerprint == "f00d"


FILTER: Filter = {"lang": "en", "year": {"gte": 2000, "lt": 2010.5}, "tags": {"in": ["a", "b"], "not": {"in": ["c"]}},
                  "new": {"exists": True, "not": False}}  # fmt: skip


async def test_filters_arrive_as_they_are_said(serving, engine, client_of) -> None:
    async with serving() as http, client_of(http) as client:
        engine.questions.clear()
        await client.answer("why?", filter=FILTER)
        await client.answer_batch([QuestionInput(question="a", filter={"lang": "en"}), "b"])
        await client.retrieve("why?", filter=FILTER)
        await client.retrieve("why?")
    expected = [Engines.of(FILTER), Engines.of({"lang": "en"}), None]
    assert [question.filter for question in engine.questions] == expected
    assert engine.filters == [expected[0], None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lang": {"equals": "en"}}, "filter/lang/tests/equals: this key is not known"),
        ({"lang": None}, "filter/lang"),
        ({"lang": {}}, "this says nothing"),
        ({"lang": ["en"]}, "filter/lang"),
        ({"year": {"gte": float("inf")}}, "filter/year"),
        ({"year": {"gt": 1, "gte": 1}}, "'year' has both `gt` and `gte`: leave one out"),
        ("lang=en", "filter"),
    ],
)
@pytest.mark.parametrize("path", ["/answer", "/retrieve"])
async def test_wrong_filters_are_refused_with_their_place(serving, wrong: Any, message: str, path: str) -> None:
    async with serving() as http:
        body = json.dumps({"question": "why?", "filter": wrong})
        response = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert message in response.json()["detail"]


async def test_wrong_filters_do_not_leave_the_client(serving, client_of) -> None:
    async with serving() as http, client_of(http) as client:
        with pytest.raises(BadRequest, match="equals"):
            await client.answer("why?", filter={"lang": {"equals": "en"}})
        with pytest.raises(BadRequest, match="filter has no meaning with passages of your own"):
            await client.answer("why?", filter={"lang": "en"}, passages=[PassageInput(text="a")])


async def test_the_servers_problems_become_the_clients_errors(serving, client_of) -> None:
    async with serving() as http, client_of(http) as client:
        with pytest.raises(NotFound, match="no passage with id 'nope'") as missing:
            await client.passage("nope")
        assert missing.value.problem.type == "urn:memstore:problem:passage-not-found"
        with pytest.raises(BadRequest, match="retrieve_k: 999 is more than 200") as wrong:
            await client.answer("why?", retrieve_k=999)
        assert wrong.value.problem.errors[0].pointer == "#/retrieve_k"
        with pytest.raises(ServerFailed) as failed:
            await client.answer("broken")
        assert len(failed.value.request_id) == 32


@pytest.mark.parametrize(
    "passage_id", ["..", ".", "%2F", "a b", "é", "a//b", "/a", "?x=1#y", "a\n", "\n", "a\nb", "\r\n", "a\n/\nb"]
)
async def test_odd_ids_arrive_as_they_are(serving, engine, client_of, passage_id: str) -> None:
    async with serving() as http, client_of(http) as client:
        with pytest.raises(NotFound) as missing:
            await client.passage(passage_id)
    assert f"no passage with id {passage_id!r}" in missing.value.problem.detail
