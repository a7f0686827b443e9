"""Over HTTP: how sure an answer is, no answer below a limit, and where it stands."""

from __future__ import annotations

import pytest

from memstore_server.settings import Settings
from tests.server.fakes import OTTERS, FakeEngine

pytestmark = pytest.mark.anyio
ASK = {"question": "why?"}


async def test_below_the_requests_limit_the_answer_is_null(serving) -> None:
    async with serving() as http:
        known = (await http.post("/answer", json={**ASK, "min_confidence": 0.5})).json()
        unknown = (await http.post("/answer", json={**ASK, "min_confidence": 0.75})).json()
    assert (known["answer"], known["reason"], known["confidence"], known["calibrated"]) == ("why?!", None, 0.5, True)
    assert (unknown["answer"], unknown["reason"], unknown["confidence"]) == (None, "not sure enough", 0.5)
    assert unknown["citations"] == []
    assert len(unknown["passages"]) == 2


async def test_the_servers_limit_is_for_requests_that_name_none(serving) -> None:
    async with serving(min_confidence=0.75) as http:
        assert (await http.get("/info")).json()["defaults"]["min_confidence"] == 0.75
        by_default = (await http.post("/answer", json=ASK)).json()
        anything = (await http.post("/answer", json={**ASK, "min_confidence": 0})).json()
        batch = (await http.post("/answer/batch", json={"questions": [ASK, {**ASK, "min_confidence": 0.25}]})).json()
    assert (by_default["answer"], anything["answer"]) == (None, "why?!")
    assert [item["answer"]["answer"] for item in batch["items"]] == [None, "why?!"]


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "high", None])
async def test_a_limit_is_a_probability(serving, wrong: object) -> None:
    async with serving() as http:
        response = await http.post("/answer", json={**ASK, "min_confidence": wrong})
    assert (response.status_code == 422) is (wrong is not None)


async def test_attention_is_asked_for(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        asked = (await http.post("/answer", json={**ASK, "attention": True})).json()
        reply = (await http.post("/answer", json=ASK)).json()
    assert [q.attention for q in engine.questions[-2:]] == [True, False]
    assert asked["citations"] == [{"passage_id": OTTERS.id, "start": 0, "end": 6, "attention": 0.75}]
    assert reply["citations"] == [{"passage_id": OTTERS.id, "start": 0, "end": 6, "attention": None}]


def test_the_setting_is_a_probability() -> None:
    assert Settings.load(store="store", min_confidence=0.25).min_confidence == 0.25
    with pytest.raises(ValueError, match="min_confidence"):
        Settings.load(store="store", min_confidence=1.5)
