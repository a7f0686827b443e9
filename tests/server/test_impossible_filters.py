"""A filter of fields that the store does not have is refused before it waits, and parts no batch."""

from __future__ import annotations

import pytest

from tests.server.fakes import FakeEngine

pytestmark = pytest.mark.anyio
WRONG = {"question": "wrong", "filter": {"yaer": 2000}}
RIGHT = {"question": "right", "filter": {"year": 2000}}
SAID = "the store has no metadata field 'yaer' to filter by: there are year (numbers)"


@pytest.fixture
def engine() -> FakeEngine:
    """Whose store has one field."""
    made = FakeEngine()
    reported = made.info()
    reported["store"]["metadata"] = {"year": ("number",)}  # type: ignore[index]
    made.info = lambda: reported  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_refused_before_the_engine_is_asked(serving, engine: FakeEngine, stream: bool) -> None:
    async with serving() as http:
        refused = await http.post("/answer", json={**WRONG, "stream": stream})
        assert (refused.status_code, refused.json()["detail"]) == (422, SAID)
        assert engine.batches == []
        assert (await http.post("/answer", json=RIGHT)).status_code == 200


async def test_in_a_request_of_several_it_alone_is_refused(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        asked = [{"question": "a"}, WRONG, RIGHT]
        items = (await http.post("/answer/batch", json={"questions": asked})).json()["items"]
        assert [item["problem"] and item["problem"]["detail"] for item in items] == [None, SAID, None]
        assert [item["answer"] and item["answer"]["answer"] for item in items] == ["a!", None, "right!"]
        assert engine.batches == [["a", "right"]]
        alone = (await http.post("/answer/batch", json={"questions": [WRONG]})).json()["items"]
        assert alone[0]["problem"]["status"] == 422


async def test_a_kind_that_the_field_never_has_is_refused_too(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        refused = await http.post("/answer", json={"question": "why?", "filter": {"year": "MM"}})
        assert "compares 'year' with a string" in refused.json()["detail"]
        assert engine.batches == []
