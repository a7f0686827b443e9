"""What requests may cost, over HTTP: passages by mass, operations, deadlines, and a server that has much to do."""

from __future__ import annotations

import pytest

from memstore.answer import KEEP_MASS, Lowered, Question
from memstore.passage import Passage
from memstore_server.budgets import DEGRADE_FROM, DEGRADE_LEAST, Lowering, degraded, highest_that
from memstore_server.costs import CostModel, total, work_of
from tests.server.fakes import FakeEngine

pytestmark = pytest.mark.anyio
OWN = [{"text": "Otters hold hands."}, {"text": "Ducks do not."}]


@pytest.mark.parametrize(
    ("settings", "options", "kept"),
    [
        ({}, {}, (10, None)),
        ({}, {"keep_k": "auto"}, (10, KEEP_MASS)),
        ({}, {"keep_k": "auto", "keep_mass": 0.5}, (10, 0.5)),
        ({}, {"keep_mass": 0.5}, (10, 0.5)),
        ({}, {"keep_k": 3, "keep_mass": 0.5}, (3, 0.5)),
        ({}, {"keep_k": "auto", "retrieve_k": 4}, (4, KEEP_MASS)),
        ({}, {"keep_k": "auto", "passages": OWN}, (2, KEEP_MASS)),
        ({"keep_k": "auto", "auto_keep_k": 7, "keep_mass": 0.8}, {}, (7, 0.8)),
        ({"keep_k": "auto"}, {"keep_k": 3}, (3, None)),
        ({"keep_k": 3, "max_keep_k": 5}, {"keep_k": "auto"}, (5, KEEP_MASS)),
    ],
)
async def test_passages_kept_by_mass(serving, engine: FakeEngine, settings, options, kept) -> None:
    async with serving(**settings) as http:
        one = await http.post("/answer", json={"question": "a", **options})
        many = await http.post("/answer/batch", json={"questions": [{"question": "a", **options}, {"question": "b"}]})
        defaults = (await http.get("/info")).json()["defaults"]
    assert (one.status_code, many.status_code) == (200, 200)
    for question in (engine.questions[1], next(q for q in engine.questions[2:] if q.text == "a")):
        assert (question.keep_k, question.keep_mass) == kept
    assert one.json()["usage"]["keep_k"] == kept[0]
    if not options:
        assert (defaults["keep_k"], defaults["keep_mass"]) == kept


@pytest.mark.parametrize("wrong", ["few", 0, -1, 1.5, True, ["auto"]])
async def test_a_number_or_auto_and_nothing_else(serving, wrong) -> None:
    async with serving() as http:
        reply = (await http.post("/answer", json={"question": "a", "keep_k": wrong})).json()
    assert reply["errors"] == [{"pointer": "#/keep_k", "detail": 'must be a whole number from 1, or "auto"'}]


@pytest.mark.parametrize("wrong", [{"keep_mass": 0}, {"keep_mass": 1.5}, {"max_gflop": 0}, {"degrade": 1}])
async def test_other_limits_are_checked(serving, wrong) -> None:
    async with serving() as http:
        reply = await http.post("/answer", json={"question": "a", **wrong})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"] == f"#/{next(iter(wrong))}"


async def test_a_model_without_scores_keeps_by_number(serving, engine: FakeEngine) -> None:
    info = engine.info()
    engine.info = lambda: {**info, "model": {**info["model"], "system": "lumen"}}
    async with serving() as http:
        reply = await http.post("/answer", json={"question": "a", "keep_k": "auto"})
        by_number = await http.post("/answer", json={"question": "a", "keep_k": 3})
    assert (reply.status_code, by_number.status_code) == (422, 200)
    assert reply.json()["detail"] == "the model is lumen: without a scorer, keep_k must be a number"
    assert engine.batches == [["a"]]  # the first one never waited


async def test_operations_that_it_may_cost(serving, engine: FakeEngine) -> None:
    asked = [{"question": "a", "max_gflop": 8.5}, {"question": "b"}, {"question": "c", "max_gflop": 0.5}]
    async with serving() as http:
        one = (await http.post("/answer", json=asked[0])).json()
        batch = (await http.post("/answer/batch", json={"questions": asked})).json()["items"]
        refused = await http.post("/answer", json=asked[2])
        counted = (await http.get("/metrics")).text
    for reply in (one, batch[0]["answer"]):
        assert reply["lowered"] == {"retrieve_k": 40, "keep_k": 10, "reasons": ["max_gflop"]}
        assert (reply["usage"]["retrieve_k"], reply["usage"]["keep_k"]) == (8, 8)
    assert batch[1]["answer"]["lowered"] is None
    assert batch[2]["problem"]["type"] == refused.json()["type"] == "urn:memstore:problem:impossible-request"
    assert (refused.status_code, refused.json()["detail"]) == (422, "max_gflop must be at least 1 here")
    assert not any("c" in texts for texts in engine.batches)
    assert 'memstore_degraded_replies_total{collection="default",reason="max_gflop"} 2.0' in counted


async def test_a_deadline_lowers_before_it_refuses(serving, engine: FakeEngine) -> None:
    costs = CostModel()
    for many in (1, 4) * 40:  # a question takes ten seconds
        costs.observe(total([work_of(Question("a", num_beams=1))] * many), 10.0 * many)
    async with serving() as http:
        admission = http._transport.app.state.service._thread._admission
        admission.costs = costs
        one = await http.post("/answer", json={"question": "a", "deadline_ms": 7_000})
        admission.costs = costs
        both = {"questions": [{"question": "a"}, {"question": "b"}], "deadline_ms": 14_000}
        batch = (await http.post("/answer/batch", json=both)).json()["items"]
    replies = [one.json(), *(item["answer"] for item in batch)]
    for reply in replies:
        assert reply["lowered"] == {"retrieve_k": 40, "keep_k": 10, "reasons": ["deadline_ms"]}
        assert 1 < reply["usage"]["retrieve_k"] < 40
    assert replies[1]["usage"]["retrieve_k"] == replies[2]["usage"]["retrieve_k"]


@pytest.mark.parametrize(
    ("setting", "asked", "lowers"),
    [(False, None, False), (False, True, True), (True, None, True), (True, False, False)],
)
async def test_a_server_with_much_to_do_reads_less_where_it_may(
    serving, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, setting: bool, asked: bool | None, lowers: bool
) -> None:
    options = {} if asked is None else {"degrade": asked}
    async with serving(degrade=setting) as http:
        calm = (await http.post("/answer", json={"question": "a", **options})).json()
        monkeypatch.setattr(http._transport.app.state.service._thread, "pressure", lambda: 0.7)
        reply = (await http.post("/answer", json={"question": "a", **options})).json()
        batch = (await http.post("/answer/batch", json={"questions": [{"question": "a", **options}]})).json()
        counted = (await http.get("/metrics")).text
        told = (await http.get("/info")).json()["defaults"]["degrade"]
    assert calm["lowered"] is None
    assert told is setting
    for one in (reply, batch["items"][0]["answer"]):
        assert one["lowered"] == ({"retrieve_k": 40, "keep_k": 10, "reasons": ["load"]} if lowers else None)
        assert (one["usage"]["retrieve_k"] < 40) is lowers
    assert ('reason="load"} 2.0' in counted) is lowers


def test_the_fuller_the_queue_the_less_is_read() -> None:
    asked, before = Question("?"), (40, 10)
    for pressure in (0.0, DEGRADE_FROM, 0.3, 0.5, 0.9, 1.0, 7.0):
        now = degraded(asked, pressure)
        assert now.retrieve_k <= before[0]
        assert now.keep_k <= before[1]
        before = (now.retrieve_k, now.keep_k)
        assert (now.lowered is None) is (pressure <= DEGRADE_FROM)
    assert before[0] == pytest.approx(40 * DEGRADE_LEAST, abs=2)
    assert before[1] == pytest.approx(10 * DEGRADE_LEAST, abs=1)


def test_several_are_lowered_alike_each_on_its_own_ladder() -> None:
    own = tuple(Passage(str(n), str(n), "", "text", "", 0, 4) for n in range(3))
    asked = [Question("a"), Question("b", retrieve_k=8, keep_k=8), Question("c", passages=own, retrieve_k=3, keep_k=3)]
    lowering = Lowering(asked, reason="load")
    assert lowering.at(lowering.levels - 1) == asked
    assert [(q.retrieve_k, q.keep_k) for q in lowering.at(0)] == [(1, 1), (1, 1), (3, 1)]
    half = highest_that(lambda questions: questions[0].retrieve_k <= 20, lowering)
    assert half is not None
    assert [(q.retrieve_k, q.keep_k) for q in half] == [(20, 5), (4, 4), (3, 1)]
    assert half[0].lowered == Lowered(retrieve_k=40, keep_k=10, reasons=("load",))
    assert highest_that(lambda questions: False, lowering) is None
