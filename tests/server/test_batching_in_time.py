"""The engine thread and time: what comes too late is lowered or refused, and batches and queues have their limits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait

import pytest

from memstore.answer import Lowered, Question
from memstore.passage import Passage
from memstore_server.admission import TRY_SECONDS, Overloaded, TooLate
from memstore_server.costs import CostModel, total, work_of
from tests.server.batching_cases import Threads, keep_busy, questions
from tests.server.fakes import PATIENCE, FakeEngine


def least(*texts: str) -> list[Question]:
    """Questions of which nothing can be left out."""
    return [Question(text=text, retrieve_k=1, keep_k=1) for text in texts]


def taught(seconds: float, asked: Callable[..., list[Question]] = questions) -> CostModel:
    """Knows that a question takes so long, and four together take as long as four."""
    costs = CostModel()
    for many in (1, 4) * 40:
        costs.observe(total(map(work_of, asked(*["a"] * many))), many * seconds)
    return costs


def test_what_cannot_be_answered_in_time_is_refused_before_it_waits(threads: Threads, engine: FakeEngine) -> None:
    now = [100.0]
    thread = threads(clock=lambda: now[0], costs=taught(1.0, least))
    keep_busy(thread, engine, least)
    now[0] += 0.5  # the one that runs has about half a second left
    in_time = thread.ask(least("in time"), deadline=102.5)
    for late in (least("late"), least("all", "of", "these")):
        with pytest.raises(TooLate, match=r"it would take about \d+ ms, and has 2000") as caught:
            thread.ask(late, deadline=102.5)
        assert caught.value.retry_after == 2
    thread.ask(least("no hurry"))
    engine.gate.set()
    in_time[0].result(PATIENCE)
    assert ["late"] not in engine.batches


def test_a_batch_does_not_grow_until_its_first_question_is_late(threads: Threads, engine: FakeEngine) -> None:
    now, answer = [100.0], engine.answer

    def in_a_second_each(asked: list[Question], _: object):
        now[0] += len(asked)
        return answer(asked)

    thread = threads(clock=lambda: now[0], costs=taught(1.0))
    keep_busy(thread, engine)
    asked = [*thread.ask(questions("a"), deadline=104.5), *thread.ask(questions("b", "c", "d"))]
    now[0] += 2.0
    engine.answer = in_a_second_each
    engine.gate.set()
    wait(asked, PATIENCE)
    assert engine.batches == [["busy"], ["a", "b"], ["c", "d"]]


def test_what_has_waited_too_long_is_not_computed(threads: Threads, engine: FakeEngine) -> None:
    now = [100.0]
    thread = threads(clock=lambda: now[0], costs=taught(1.0, least))
    keep_busy(thread, engine, least)
    (late,) = thread.ask(least("late"), deadline=104.0)
    now[0] = 103.5
    engine.gate.set()
    with pytest.raises(TooLate, match=r"it would take about 10.. ms, and has 500 left"):
        late.result(PATIENCE)
    assert engine.batches == [["busy"]]


def test_what_would_be_late_is_answered_from_as_many_passages_as_there_is_time_for(
    threads: Threads, engine: FakeEngine
) -> None:
    now = [100.0]
    thread = threads(clock=lambda: now[0], costs=taught(1.0))
    asked = [thread.ask(questions("one"), deadline=100.0 + seconds)[0].result(PATIENCE).value for seconds in (0.5, 2)]
    assert [one.lowered for one in asked] == [Lowered(retrieve_k=40, keep_k=10, reasons=("deadline_ms",)), None]
    (cut, whole) = engine.questions
    assert 1 < cut.retrieve_k < 40
    assert cut.keep_k == pytest.approx(cut.retrieve_k / 4, abs=1)
    assert (whole.retrieve_k, whole.keep_k) == (40, 10)


def test_questions_asked_together_are_lowered_alike(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(clock=lambda: 100.0, costs=taught(1.0))
    own = tuple(Passage(str(n), str(n), "", "x" * 520, "", 0, 520) for n in range(8))
    asked = [*questions("a", "b"), Question("own", passages=own, retrieve_k=8, keep_k=8)]
    wait(thread.ask(asked, deadline=101.9), PATIENCE)
    first, second, brought = engine.questions
    assert (first.retrieve_k, first.keep_k) == (second.retrieve_k, second.keep_k)
    assert 1 < first.retrieve_k < 40
    assert brought.passages == own
    assert brought.keep_k < 8


def test_what_has_waited_is_lowered_before_it_is_refused(threads: Threads, engine: FakeEngine) -> None:
    now = [100.0]
    thread = threads(clock=lambda: now[0], costs=taught(1.0))
    keep_busy(thread, engine)
    (held_up,) = thread.ask(questions("held up"), deadline=104.0)
    now[0] = 103.4
    engine.gate.set()
    lowered = held_up.result(PATIENCE).value.lowered
    assert lowered is not None
    assert lowered.reasons == ("deadline_ms",)
    assert engine.questions[-1].retrieve_k < 40


def test_a_question_that_keeps_less_is_learned_from_by_what_it_kept(threads: Threads) -> None:
    """The fake engine reads one passage. Else predictions would sink, as what was read for little time."""
    costs = CostModel()
    thread = threads(costs=costs)
    asked = Question("a", keep_mass=0.5)
    costs.observe, seen = lambda work, seconds: seen.append(work), []
    wait([*thread.ask([asked]), *thread.ask([Question("b", keep_k=3)])], PATIENCE)
    read = sum(work.read for work in seen)
    assert read in (work_of(asked, kept=1).read + work_of(Question("b", keep_k=3)).read,)


def test_a_batch_has_at_most_so_many_tokens(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(max_batch_tokens=int(2.5 * work_of(Question("b")).tokens))
    keep_busy(thread, engine)
    large = [Question("large", retrieve_k=200)]
    waiting = [*thread.ask(questions("b", "c", "d")), *thread.ask(large), *thread.ask(questions("e"))]
    engine.gate.set()
    wait(waiting, PATIENCE)
    assert engine.batches == [["busy"], ["b", "c"], ["d"], ["large"], ["e"]]


def test_what_waits_may_take_so_long_and_no_longer(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(clock=lambda: 100.0, costs=taught(1.0), queue_seconds=3.5)
    keep_busy(thread, engine)
    thread.ask(questions("a", "b", "c"))  # four seconds with the one that runs
    for ask in (lambda: thread.ask(questions("d")), lambda: thread.call(lambda engine: None), thread.require_room):
        with pytest.raises(Overloaded, match="what waits already takes about 4 s"):
            ask()
    assert thread.pressure() > 1


def test_a_server_that_learned_wrong_tries_again(threads: Threads, engine: FakeEngine) -> None:
    """Else a machine that was slow for a minute would refuse all deadlines for ever."""
    now = [100.0]
    thread = threads(clock=lambda: now[0], costs=taught(60.0))
    for _ in range(2):
        (tried,) = thread.ask(questions("tried"), deadline=now[0] + 1.0)
        assert tried.result(PATIENCE).value.text == "tried!"
        with pytest.raises(TooLate, match="also when nothing else waits: give it more time"):
            thread.ask(questions("refused"), deadline=now[0] + 1.0)
        now[0] += TRY_SECONDS
    assert engine.batches == [["tried"], ["tried"]]
