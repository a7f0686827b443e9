"""Ten times as many questions as the engine can answer, by a clock of the test's own: who is let in, and in time."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass

import pytest

from memstore.answer import Question
from memstore_server.admission import Admission, Refused
from memstore_server.costs import CostModel, Work, total, work_of

QUESTION = Question("who discovered radium?")
ONE = work_of(QUESTION)
SECONDS = 15.0


@dataclass(eq=False)
class Asked:
    """A question that waits, as the engine's thread keeps it."""

    work: Work
    deadline: float | None
    admitted: float
    seconds: float = 0.0


def true_seconds(questions: int, chance: random.Random) -> float:
    """80 ms for one alone, and 60 for each one more; now and then half as long again."""
    return (0.02 + 0.06 * questions) * chance.choice([1.0, 1.05, 1.1, 1.5])


CAPACITY = 8 / (0.02 + 0.06 * 8) / 1.16  # questions/s in batches of eight


class Simulated:
    """The engine's thread without threads: batches take what `true_seconds` says, on a clock that jumps."""

    def __init__(self, *, deadline: float | None, rate: float, queue_seconds: float = 10.0) -> None:
        self.chance = random.Random(7)
        self.admission = Admission(
            CostModel(), queue_size=64, queue_seconds=queue_seconds, max_batch=32,
            max_batch_tokens=int(8.5 * ONE.tokens),
        )  # fmt: skip
        for questions in (1, 4):  # as a server tries before it is ready
            self.admission.costs.observe(total([ONE] * questions), true_seconds(questions, self.chance))
        self.deadline, self.rate = deadline, rate
        self.waiting: deque[Asked] = deque()
        self.in_time = self.late = self.refused = self.shed = 0
        self.latencies: list[float] = []
        self.retry_after: list[int] = []

    def run(self) -> None:
        arrivals = itertools.accumulate(iter(lambda: self.chance.expovariate(self.rate), None))
        following, now = next(arrivals), 0.0
        while now < SECONDS:
            if not self.waiting:
                now = max(now, following)
            while following <= now:
                self.arrive(following)
                following = next(arrivals)
            if not self.waiting:
                continue
            batch = self.take(now)
            if not batch:
                continue
            self.admission.begin(batch, now)
            done = now + true_seconds(len(batch), self.chance)
            while following <= done:
                self.arrive(following)
                following = next(arrivals)
            self.admission.end(batch, done)
            for one in batch:
                ok = one.deadline is None or done <= one.deadline
                self.in_time, self.late = self.in_time + ok, self.late + (not ok)
                self.latencies.append(done - one.admitted)
            now = done

    def arrive(self, now: float) -> None:
        asked = Asked(ONE, None if self.deadline is None else now + self.deadline, now, self.admission.seconds(ONE))
        try:
            self.admission.require_room(1, self.waiting, now)
            self.admission.require_time([asked], self.waiting, now)
        except Refused as refused:
            self.retry_after.append(refused.retry_after)
            self.refused += 1
        else:
            self.waiting.append(asked)

    def take(self, now: float) -> list[Asked]:
        batch: list[Asked] = []
        while self.waiting and not batch:
            first = self.waiting.popleft()
            try:
                self.admission.require_still_time(first, now)
            except Refused:
                self.shed += 1
            else:
                batch.append(first)
        while batch and self.waiting and self.admission.joins(batch, self.waiting[0], now):
            batch.append(self.waiting.popleft())
        return batch


@pytest.mark.parametrize(("deadline", "least"), [(0.3, 0.6), (0.5, 0.7), (2.0, 0.85), (10.0, 0.95), (None, 0.95)])
def test_goodput_stays_near_capacity_whatever_the_deadlines(deadline: float | None, least: float) -> None:
    flooded = Simulated(deadline=deadline, rate=10 * CAPACITY)
    flooded.run()
    assert flooded.in_time / SECONDS >= least * CAPACITY
    admitted = flooded.in_time + flooded.late + flooded.shed
    assert flooded.in_time >= 0.98 * admitted
    assert flooded.refused > 8 * admitted
    assert min(flooded.retry_after) >= 1


def test_nobody_is_refused_without_need() -> None:
    calm = Simulated(deadline=1.0, rate=0.3 * CAPACITY)
    calm.run()
    assert (calm.refused, calm.shed) == (0, 0)


def test_what_waits_without_a_deadline_waits_no_longer_than_it_may() -> None:
    flooded = Simulated(deadline=None, rate=10 * CAPACITY, queue_seconds=2.0)
    flooded.run()
    assert max(flooded.latencies) < 2.0 + 2 * true_seconds(8, random.Random(0)) * 1.5
    assert flooded.in_time / SECONDS >= 0.95 * CAPACITY


def test_a_hopeless_deadline_costs_next_to_nothing() -> None:
    hopeless = Simulated(deadline=0.03, rate=10 * CAPACITY)
    hopeless.run()
    assert hopeless.in_time == 0
    assert hopeless.late <= SECONDS / 5 + 2  # one in five seconds is tried, in case it is not


def test_works_of_a_batch_are_what_is_learned() -> None:
    flooded = Simulated(deadline=None, rate=10 * CAPACITY)
    flooded.run()
    learned = flooded.admission.costs.seconds(total([ONE] * 8))
    assert learned == pytest.approx(1.16 * (0.02 + 0.06 * 8), rel=0.15)
