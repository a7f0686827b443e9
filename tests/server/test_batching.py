"""The engine thread alone: no HTTP, no sleeps; gates decide what happens when."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

import pytest

from memstore.answer import Listener, NobodyListens, Question
from memstore.errors import RequestError
from memstore_server.admission import Overloaded
from memstore_server.batching import DeadlineExceeded, EngineStopped, EngineThread
from memstore_server.logs import request_id
from tests.server.batching_cases import Threads, keep_busy, questions
from tests.server.fakes import PATIENCE, FakeEngine, admission


def test_questions_that_wait_are_joined(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    busy = keep_busy(thread, engine)
    waiting = [thread.ask(questions(text))[0] for text in "bcd"]
    engine.gate.set()
    assert [f.result(PATIENCE).value.text for f in [busy, *waiting]] == ["busy!", "b!", "c!", "d!"]
    assert engine.batches == [["busy"], ["b", "c", "d"]]
    assert [f.result().value.usage.questions_in_batch for f in waiting] == [3, 3, 3]


def test_a_batch_has_at_most_max_batch_questions(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(max_batch=2)
    keep_busy(thread, engine)
    waiting = thread.ask(questions("b", "c", "d"))
    engine.gate.set()
    wait(waiting, PATIENCE)
    assert engine.batches == [["busy"], ["b", "c"], ["d"]]


def test_a_question_is_held_back_until_the_batch_is_full(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(max_batch=2, max_wait=PATIENCE)
    first, second = *thread.ask(questions("a")), *thread.ask(questions("b"))
    assert (first.result(PATIENCE / 2).value.text, second.result(PATIENCE / 2).value.text) == ("a!", "b!")
    assert engine.batches == [["a", "b"]]


def until_taken(thread: EngineThread) -> None:
    """Returns when nothing waits in the queue: what was asked is held back, or runs."""
    late = time.monotonic() + PATIENCE
    while thread.waiting:
        assert time.monotonic() < late


def test_what_joins_a_question_held_back_does_not_overfill_the_batch(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(max_batch=2, max_wait=PATIENCE)
    (first,) = thread.ask(questions("a"))
    until_taken(thread)
    second, _third = thread.ask(questions("b", "c"))
    wait([first, second], PATIENCE / 2)
    assert engine.batches == [["a", "b"]]


def test_closing_answers_a_question_held_back_at_once(threads: Threads) -> None:
    thread = threads(max_batch=2, max_wait=2 * PATIENCE)
    (held,) = thread.ask(questions("a"))
    until_taken(thread)
    assert thread.close(timeout=PATIENCE)
    assert held.result(0).value.text == "a!"


def test_a_question_held_back_alone_is_answered_after_max_wait(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(max_batch=2, max_wait=0.001)
    (alone,) = thread.ask(questions("a"))
    assert alone.result(PATIENCE).value.text == "a!"


def test_no_question_is_held_back_past_its_deadline(threads: Threads, engine: FakeEngine) -> None:
    """At most half of what is left is spent on waiting for company, also for one that has joined."""
    thread = threads(max_batch=3, max_wait=PATIENCE)
    (patient,) = thread.ask(questions("patient"))
    (hurried,) = thread.ask(questions("hurried"), deadline=time.monotonic() + 1.0)
    assert hurried.result(PATIENCE).value.text == "hurried!"
    assert patient.result(PATIENCE).value.text == "patient!"
    assert engine.batches == [["patient", "hurried"]]


def test_calls_run_in_the_same_thread_and_keep_their_place(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    keep_busy(thread, engine)
    before = thread.ask(questions("b"))
    call = thread.call(lambda e: (threading.current_thread().name, [list(b) for b in e.batches]))
    after = thread.ask(questions("c"))
    engine.gate.set()
    name, batches_so_far = call.result(PATIENCE).value
    wait([*before, *after], PATIENCE)
    assert name == "memstore-engine"
    assert batches_so_far == [["busy"], ["b", "c"]]


def test_an_error_of_a_call_is_its_callers(threads: Threads) -> None:
    thread = threads()
    failed = thread.call(lambda engine: engine.passage("nowhere"))
    assert type(failed.exception(PATIENCE)).__name__ == "PassageNotFound"
    assert thread.call(lambda engine: 5).result(PATIENCE).value == 5


def test_a_full_queue_refuses_at_once_and_all_or_nothing(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(queue_size=2)
    keep_busy(thread, engine)
    thread.ask(questions("b"))
    with pytest.raises(Overloaded, match=r"1 of 2 places are taken, 2 needed: try again in 1 s"):
        thread.ask(questions("c", "d"))
    (admitted,) = thread.ask(questions("e"))
    with pytest.raises(Overloaded):
        thread.call(lambda engine: None)
    engine.gate.set()
    admitted.result(PATIENCE)
    assert engine.batches == [["busy"], ["b", "e"]]


def test_the_advice_to_come_back_is_the_time_that_the_queue_takes(threads: Threads, engine: FakeEngine) -> None:
    now, answer = [100.0], engine.answer

    def take(seconds: float) -> None:
        now[0] += seconds

    def slowly(asked: list[Question], _: object):
        take(1.5 * len(asked))
        return answer(asked)

    thread = threads(queue_size=4, clock=lambda: now[0])
    keep_busy(thread, engine)
    pair = thread.ask(questions("a", "b"))
    engine.answer = slowly
    engine.gate.set()
    wait(pair, PATIENCE)
    assert [(one.result().queued, one.result().ran) for one in pair] == [(0.0, 3.0)] * 2
    assert engine.begun.acquire(timeout=PATIENCE)
    thread.call(lambda _: take(4.5)).result(PATIENCE)
    keep_busy(thread, engine)  # as long as one takes
    thread.ask(questions("c", "d"))
    thread.call(lambda _: None)
    with pytest.raises(Overloaded) as caught:
        thread.ask(questions("f", "g"))
    assert 9 <= caught.value.retry_after <= 10  # one runs, two wait, each 1.5 s or a little more alone; a call of 4.5


def test_a_cancelled_question_is_not_computed_and_gives_up_its_place(threads: Threads, engine: FakeEngine) -> None:
    thread = threads(queue_size=2)
    keep_busy(thread, engine)
    gone, kept = thread.ask(questions("gone", "kept"))
    assert gone.cancel()
    (late,) = thread.ask(questions("late"))
    engine.gate.set()
    wait([kept, late], PATIENCE)
    assert engine.batches == [["busy"], ["kept", "late"]]


def test_cancelled_while_in_the_queue_with_room_is_not_computed(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    keep_busy(thread, engine)
    gone, kept = thread.ask(questions("gone", "kept"))
    gone.cancel()
    engine.gate.set()
    kept.result(PATIENCE)
    assert engine.batches == [["busy"], ["kept"]]


def test_a_batch_that_all_have_given_up_ends_as_soon_as_it_can(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    running = keep_busy(thread, engine)
    (after,) = thread.ask(questions("after"))
    running.give_up()
    engine.gate.set()
    assert type(running.exception(PATIENCE)) is NobodyListens
    assert after.result(PATIENCE).value.text == "after!"
    assert engine.left == [["busy"]]


def test_who_gives_up_in_a_batch_leaves_it_to_the_others(threads: Threads, engine: FakeEngine) -> None:
    thread, answer = threads(), engine.answer
    keep_busy(thread, engine)
    gone, kept = thread.ask(questions("gone", "kept"))

    def while_one_leaves(asked: list[Question], heard_by: list[Listener]):
        gone.give_up()
        return answer(asked, heard_by)

    engine.answer = while_one_leaves
    engine.gate.set()
    assert kept.result(PATIENCE).value.text == "kept!"
    assert engine.cut_short.acquire(timeout=PATIENCE)
    assert engine.left == []


@pytest.mark.parametrize(("text", "error"), [("impossible", RequestError), ("broken", RuntimeError)])
def test_a_bad_question_fails_alone(threads: Threads, engine: FakeEngine, text: str, error: type) -> None:
    thread = threads()
    keep_busy(thread, engine)
    good, bad, other = thread.ask(questions("good", text, "other"))
    engine.gate.set()
    assert (good.result(PATIENCE).value.text, other.result(PATIENCE).value.text) == ("good!", "other!")
    assert type(bad.exception(PATIENCE)) is error
    assert engine.batches == [["busy"], ["good", text, "other"], ["good"], [text], ["other"]]


def test_a_deadline_that_passes_in_a_batch_that_fails_is_not_run_again(threads: Threads, engine: FakeEngine) -> None:
    now, answer = [100.0], engine.answer

    def slowly(asked: list[Question], _: object):
        now[0] += 2.0
        return answer(asked)

    thread = threads(clock=lambda: now[0])
    keep_busy(thread, engine)
    (late,) = thread.ask(questions("late"), deadline=101.0)
    bad, good = thread.ask(questions("broken", "good"))
    engine.answer = slowly
    engine.gate.set()
    assert isinstance(late.exception(PATIENCE), DeadlineExceeded)
    assert isinstance(bad.exception(PATIENCE), RuntimeError)
    assert good.result(PATIENCE).value.text == "good!"
    assert engine.batches == [["busy"], ["late", "broken", "good"], ["broken"], ["good"]]


class Panic(BaseException):
    """What a panic of a Rust library is raised as: no `Exception`."""


def test_a_panic_is_its_callers_and_the_thread_lives_on(threads: Threads, engine: FakeEngine) -> None:
    def panic(*_: object) -> None:
        raise Panic("range end index 9 out of range")

    thread, answer = threads(), engine.answer
    engine.answer = lambda asked, _: panic() if any(q.text == "panic" for q in asked) else answer(asked)
    keep_busy(thread, engine)
    good, bad = thread.ask(questions("good", "panic"))
    call = thread.call(panic)
    engine.gate.set()
    assert good.result(PATIENCE).value.text == "good!"
    for failed in (bad.exception(PATIENCE), call.exception(PATIENCE)):
        assert isinstance(failed, RuntimeError)
        assert str(failed) == "the engine was ended by Panic: range end index 9 out of range"
        assert isinstance(failed.__cause__, Panic)
    assert thread.alive
    assert not thread.lost


def test_a_thread_that_dies_leaves_nobody_waiting(
    threads: Threads, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise Panic("a mistake of ours")

    thread = threads(max_batch=1)
    busy = keep_busy(thread, engine)
    (waiting,) = thread.ask(questions("waiting"))
    monkeypatch.setattr(thread, "_deliver", fail)
    engine.gate.set()
    with pytest.raises(RuntimeError, match="the engine's thread ended while it ran this"):
        busy.result(PATIENCE)
    assert isinstance(waiting.exception(PATIENCE), EngineStopped)
    with pytest.raises(EngineStopped):
        thread.ask(questions("new"))
    assert thread.lost
    assert thread.close(timeout=PATIENCE)
    assert "a mistake of ours" in caplog.text


def test_too_few_answers_are_an_error_not_a_shift(threads: Threads, engine: FakeEngine) -> None:
    engine.answer = lambda questions, _: []
    (failed,) = threads().ask(questions("a"))
    with pytest.raises(RuntimeError, match="the engine gave 0 answers to 1 questions"):
        failed.result(PATIENCE)


def test_a_question_whose_deadline_passed_while_waiting_is_not_run(threads: Threads, engine: FakeEngine) -> None:
    now = [100.0]
    thread = threads(clock=lambda: now[0])
    keep_busy(thread, engine)
    late, in_time, no_hurry = (
        *thread.ask(questions("late"), deadline=101.0),
        *thread.ask(questions("in time"), deadline=110.0),
        *thread.ask(questions("no hurry")),
    )
    late_call = thread.call(lambda engine: None, deadline=101.0)
    now[0] = 102.0
    engine.gate.set()
    assert isinstance(late.exception(PATIENCE), DeadlineExceeded)
    assert isinstance(late_call.exception(PATIENCE), DeadlineExceeded)
    assert in_time.result(PATIENCE).queued == 2.0
    no_hurry.result(PATIENCE)
    assert engine.batches == [["busy"], ["in time", "no hurry"]]


def test_closing_finishes_what_runs_and_fails_what_waits(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    busy = keep_busy(thread, engine)
    (waiting,) = thread.ask(questions("waiting"))
    closer = threading.Thread(target=thread.close, kwargs={"timeout": PATIENCE})
    closer.start()
    assert isinstance(waiting.exception(PATIENCE), EngineStopped)
    with pytest.raises(EngineStopped):
        thread.ask(questions("new"))
    assert not busy.done()
    engine.gate.set()
    closer.join(PATIENCE)
    assert busy.result(PATIENCE).value.text == "busy!"
    assert not thread.alive
    assert engine.batches == [["busy"]]


def test_closing_does_not_wait_for_ever(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    keep_busy(thread, engine)
    assert thread.close(timeout=0.001) is False
    assert not thread.ended
    engine.gate.set()
    assert thread.close(timeout=PATIENCE) is True
    assert thread.ended
    assert not thread.lost


def test_a_thread_that_was_not_started_takes_nothing(engine: FakeEngine) -> None:
    thread = EngineThread(engine, admission=admission())
    with pytest.raises(EngineStopped):
        thread.ask(questions("a"))
    assert thread.close(timeout=0)


def test_the_engine_runs_under_the_ids_of_the_requests_it_serves(threads: Threads, engine: FakeEngine) -> None:
    thread = threads()
    keep_busy(thread, engine)
    asked = []
    for name in ("one", "two", "two"):
        token = request_id.set(name)
        asked += thread.ask(questions(name))
        request_id.reset(token)
    engine.gate.set()
    wait(asked, PATIENCE)
    assert engine.ids == ["-", "one,two"]
