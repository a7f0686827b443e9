"""A filter of fields that the store does not have, and a task that the model does not know, are refused before they
wait, and part no batch.
"""

from __future__ import annotations

import pytest

from tests.server.fakes import FakeEngine

pytestmark = pytest.mark.anyio
WRONG = {"question": "wrong", "filter": {"yaer": 2000}}
RIGHT = {"question": "right", "filter": {"year": 2000}}
JUGGLING = {"question": "wrong", "task": "juggling"}
KNOWN = "this model knows no task 'juggling'; it knows: nq. Leave the task out, or name one."
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
@pytest.mark.parametrize(("wrong", "said"), [(WRONG, SAID), (JUGGLING, KNOWN)], ids=["filter", "task"])
async def test_it_is_refused_before_the_engine_is_asked(
    serving, engine: FakeEngine, wrong: dict, said: str, stream: bool
) -> None:
    async with serving() as http:
        refused = await http.post("/answer", json={**wrong, "stream": stream})
        assert (refused.status_code, refused.json()["detail"]) == (422, said)
        assert engine.batches == []
        assert (await http.post("/answer", json=RIGHT)).status_code == 200


async def test_in_a_request_of_several_it_alone_is_refused(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        asked = [{"question": "a", "task": "nq"}, WRONG, RIGHT, JUGGLING]
        items = (await http.post("/answer/batch", json={"questions": asked})).json()["items"]
        assert [item["problem"] and item["problem"]["detail"] for item in items] == [None, SAID, None, KNOWN]
        assert [item["answer"] and item["answer"]["answer"] for item in items] == ["a!", None, "right!", None]
        assert engine.batches == [["a", "right"]]
        alone = (await http.post("/answer/batch", json={"questions": [WRONG]})).json()["items"]
        assert alone[0]["problem"]["status"] == 422


async def test_a_kind_that_the_field_never_has_is_refused_too(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        refused = await http.post("/answer", json={"question": "why?", "filter": {"year": "MM"}})
        assert "compares 'year' with a string" in refused.json()["detail"]
        assert engine.batches == []


async def test_passages_of_ones_own_are_not_scored_for_a_task_that_is_none(serving) -> None:
    async with serving() as http:
        body = {"question": "why?", "passages": [{"text": "a"}], "task": "juggling"}
        assert (await http.post("/rerank", json=body)).json()["detail"] == KNOWN
