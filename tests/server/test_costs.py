"""What batches will take: fitted to those that ran, by numbers made up here."""

from __future__ import annotations

import pytest

from memstore.answer import Question
from memstore.passage import Passage
from memstore_server.costs import FIRST_MARGIN, MOST_MARGIN, WINDOW, CostModel, Work, calibrate, total, work_of


def usual(retrieve_k: int = 40, keep_k: int = 10) -> Work:
    return work_of(Question("who discovered radium in 1898?", retrieve_k=retrieve_k, keep_k=keep_k, num_beams=4))


def true_seconds(work: Work) -> float:
    """A machine that is unlike the fit's first guess: batches cost nothing, scoring nearly everything."""
    return 0.001 * work.questions + 0.02 * work.scored / 1000 + 0.001 * work.read / 1000


def taught(*works: Work, times: int = 8) -> CostModel:
    costs = CostModel()
    for _ in range(times):
        for work in works:
            costs.observe(work, true_seconds(work))
    return costs


def test_nothing_takes_time_before_anything_is_known() -> None:
    costs = CostModel()
    assert (costs.known, costs.seconds(usual())) == (False, 0.0)
    costs.observe(usual(), 0.5)
    assert costs.known


def test_one_batch_is_enough_for_a_guess() -> None:
    costs = CostModel()
    costs.observe(usual(), 0.1)
    assert costs.seconds(usual()) == pytest.approx(0.1)
    assert 0.1 < costs.seconds(total([usual(), usual()])) < 0.2
    assert costs.seconds(usual(10, 3)) < 0.1


def test_what_differed_between_batches_is_learned() -> None:
    costs = taught(usual(), usual(10, 3), usual(80, 10), total([usual()] * 4))
    for work in (usual(), usual(20, 5), total([usual()] * 3), total([usual(80, 10)] * 2)):
        assert costs.seconds(work) == pytest.approx(true_seconds(work), rel=0.2)
    assert costs.per_batch < 0.02 * true_seconds(usual())


def test_a_batch_that_was_held_up_changes_little() -> None:
    costs = taught(usual(), total([usual()] * 4))
    before = costs.seconds(usual())
    costs.observe(usual(), 100 * before)
    assert costs.seconds(usual()) == pytest.approx(before, rel=0.1)


def test_a_machine_that_became_slower_is_noticed() -> None:
    costs = taught(usual(), times=2 * WINDOW)
    assert costs.margin == pytest.approx(1.0, abs=0.01)
    for _ in range(4):
        costs.observe(usual(), 2 * true_seconds(usual()))
    assert costs.margin > 1.5  # what must not be late is counted with it at once
    for _ in range(2 * WINDOW):
        costs.observe(usual(), 2 * true_seconds(usual()))
    assert costs.seconds(usual()) == pytest.approx(2 * true_seconds(usual()), rel=0.1)
    assert costs.margin < 1.1


def test_a_margin_is_bounded_and_begins_careful() -> None:
    costs = CostModel()
    costs.observe(usual(), 0.1)
    costs.observe(usual(), 0.1)
    assert costs.margin == FIRST_MARGIN
    for n in range(WINDOW):
        costs.observe(usual(), 0.1 if n % 2 else 100.0)
    assert costs.margin == MOST_MARGIN


def test_work_counts_passages_of_the_callers_own_by_their_length() -> None:
    own = tuple(Passage(str(n), str(n), "", "x" * 400, "", 0, 400) for n in range(3))
    asked = Question("radium??", passages=own, keep_k=2, num_beams=2)
    assert work_of(asked) == Work(questions=1, scored=3 * 102.0, read=2 * 102.0 * 2, brought=300.0)
    assert work_of(asked).tokens == 606.0


def test_works_add_up() -> None:
    assert total([]) == Work()
    assert total([Work(1, 2, 3, 4), Work(10, 20, 30, 40)]) == Work(11, 22, 33, 44)


def test_calibrating_believes_each_batch_the_second_time() -> None:
    now, asked = [0.0], []

    class Engine:
        def answer(self, questions):
            work = total(work_of(one) for one in questions)
            now[0] += true_seconds(work) * (1 if work in asked else 50)
            asked.append(work)
            return []

    question = Question("who discovered radium?")
    costs = CostModel()
    calibrate(costs, Engine(), question, clock=lambda: now[0])
    assert len(asked) == 6
    for work in asked:
        assert costs.seconds(work) == pytest.approx(true_seconds(work), rel=0.3)
