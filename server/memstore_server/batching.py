"""The model in a thread of its own, behind a bounded queue that joins waiting questions into one batch.

When the thread is free it takes all questions that wait, as far as they may go together; `max_wait` can make it hold
out a moment for more. `admission.py` has the rules for that, and for who may wait at all. Everything else that touches
the engine runs in the same thread, one job at a time, because an engine is not thread-safe. Another engine can take its
place, between two batches. There may be several engines, each for a collection of its own, which share a model: a batch
is of one collection. Refuses to know HTTP and asyncio: callers get `concurrent.futures.Future`s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from itertools import takewhile
from typing import Any, TypeVar

from memstore.answer import Answer, Listener, NobodyListens, Question
from memstore.errors import MemstoreError
from memstore_client.wire import UNNAMED
from memstore_server.admission import Admission, Refused
from memstore_server.costs import work_of
from memstore_server.engine import Engine as Engine  # also a name of this module
from memstore_server.logs import request_id
from memstore_server.queued import Job, Ran, Wanted, fail_unfinished, lower, told
from memstore_server.queued import Timed as Timed

log = logging.getLogger(__name__)
T = TypeVar("T")


class EngineStopped(MemstoreError):  # noqa: N818 - reads as the fact it states
    """The engine thread is shutting down, has stopped, or was never started."""


class DeadlineExceeded(MemstoreError, TimeoutError):  # noqa: N818
    """The deadline passed before there was a result. If it passed while waiting, nothing was computed."""


class EngineThread:
    """Runs engines in a thread of their own; admission is bounded and never blocks.

    Args:
        engines: by collection, or one that is the only one; used by this thread alone from `start` on. The first
            collection is meant where none is named.
        admission: says who may wait, and which questions are joined into one call of `engine.answer`.
        max_wait: seconds a question may be held back so that others can join it; at most half of what its deadline
            leaves, so that a wait for company is never what makes it late.
        ran: called after each batch of questions, with its jobs and answers, and when it began and what it took.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engines: Engine | Mapping[str, Engine],
        *,
        admission: Admission,
        max_wait: float = 0.0,
        ran: Ran | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = dict(engines) if isinstance(engines, Mapping) else {UNNAMED: engines}
        self._infos = {name: _info(engine, name) for name, engine in self._engines.items()}
        self._first, self._clock = next(iter(self._engines)), clock
        self._admission, self._max_wait, self._ran = admission, max_wait, ran
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._open = self._lost = False
        self._thread = threading.Thread(target=self._run, name="memstore-engine", daemon=True)

    # --- for callers, from any thread ---

    def start(self) -> None:
        """Starts the thread. Once."""
        self._open = True
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are admitted and run."""
        return self._open and self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether the thread runs no more, or was never started."""
        return not self._thread.is_alive()

    @property
    def lost(self) -> bool:
        """Whether the thread has ended without being closed: nothing will ever run again."""
        return self._lost

    def engine_of(self, collection: str | None = None) -> Engine:
        """The engine in use: for what any thread may do with it."""
        return self._engines[self._named(collection)]

    def info_of(self, collection: str | None = None) -> Mapping[str, object]:
        """`info` of the engine in use, and the name of its `collection`."""
        return self._infos[self._named(collection)]

    @property
    def collections(self) -> Iterable[str]:
        """Their names."""
        return self._engines.keys()

    @property
    def waiting(self) -> int:
        """Jobs in the queue, those given up included."""
        return len(self._waiting)

    def ask(
        self,
        questions: Sequence[Question],
        *,
        deadline: float | None = None,
        listeners: Sequence[Listener | None] = (),
        collections: Sequence[str | None] = (),
    ) -> list[Wanted[Timed[Answer]]]:
        """Admits all the questions, or none; each may be joined with others of its collection into one batch.

        Args:
            questions: no more than may wait, or they can never be admitted.
            collections: one for each question; none at all for the first collection.
            deadline: on this thread's clock. A question still waiting then is not run.
            listeners: one for each question, or none. After a batch that failed they hear from the beginning again.

        Returns:
            One future per question. Giving up or cancelling one that still waits takes it out. They fail with
            DeadlineExceeded, EngineStopped, or whatever the engine raises for that question; RuntimeError in
            place of what is no Exception.

        Raises:
            Overloaded: there is no room.
            TooLate: they cannot be answered by the deadline, however few passages they have found and read.
            EngineStopped: the thread does not take work.
        """
        now, asker, none = self._clock(), request_id.get(), [None] * len(questions)
        jobs = [
            Job(self._named(collection), now, deadline, asker, question, listener, work=work_of(question))
            for question, collection, listener in zip(questions, collections or none, listeners or none, strict=True)
        ]
        return self._admit(jobs)

    def require_room(self, asked: int = 1) -> None:
        """Raises Overloaded if so many jobs would be refused whatever they are: for who has not read them yet."""
        with self._changed:
            self._require_room(asked)

    def pressure(self) -> float:
        """How full the queue is: 0 is empty, and from 1 on everything is refused."""
        with self._changed:
            return self._admission.pressure(self._waiting, self._clock())

    def call(
        self, function: Callable[[Engine], T], *, deadline: float | None = None, collection: str | None = None
    ) -> Wanted[Timed[T]]:
        """Admits a function to be run on the engine by itself. Arguments and errors as for `ask`."""
        job = Job(self._named(collection), self._clock(), deadline, request_id.get(), call=function)
        (future,) = self._admit([job])
        return future

    def replace(self, engine: Engine, *, collection: str | None = None) -> Future[Timed[Engine]]:
        """Puts another engine in the place of the one in use, and gives that back. Never refused for want of room.

        What was admitted before is run by the former engine, and what comes after by the other: questions that were
        admitted together are answered by one. Fails with EngineStopped.

        Raises:
            EngineStopped: the thread does not take work.
        """
        job = Job(self._named(collection), self._clock(), None, request_id.get(), successor=engine)
        (future,) = self._admit([job], always=True)
        return future

    def close(self, *, timeout: float) -> bool:
        """Refuses new work, fails what waits with EngineStopped, and lets what runs finish.

        Returns:
            Whether the thread ended within `timeout` seconds.
        """
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._fail_waiting()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _named(self, collection: str | None) -> str:
        return self._first if collection is None else collection

    def _admit(self, jobs: list[Job], *, always: bool = False) -> list[Wanted[Any]]:
        with self._changed:
            if not self.alive:
                raise EngineStopped("the server does not take questions: it is starting or shutting down")
            for job in jobs:
                job.seconds = self._admission.seconds(job.work)
            if not always:
                self._require_room(len(jobs))
                self._require_time(jobs)
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def _require_room(self, asked: int) -> None:
        try:
            self._admission.require_room(asked, self._waiting, self._clock())
        except Refused:  # those who gave up and went are counted too, until somebody needs their places
            self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
            self._admission.require_room(asked, self._waiting, self._clock())

    def _require_time(self, jobs: Sequence[Job]) -> None:
        """Lowers questions that would be late as far as that helps. Raises TooLate where it does not."""
        now = self._clock()
        self._lower(jobs, lambda: self._admission.in_time(jobs, self._waiting, now))
        self._admission.require_time(jobs, self._waiting, now)

    def _lower(self, jobs: Sequence[Job], in_time: Callable[[], bool]) -> None:
        lower(jobs, seconds=self._admission.seconds, in_time=in_time)

    def _fail_waiting(self) -> None:
        with self._changed:
            jobs, self._waiting = self._waiting, deque()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(EngineStopped("the server shut down before the question was begun"))

    # --- the thread itself ---

    def _run(self) -> None:
        jobs: list[Job] = []
        try:
            while jobs := self._take():
                self._serve(jobs)
                jobs = []  # a former engine is the result of one, and is not to be kept until the next question
        except BaseException as error:  # nothing above a thread would catch it
            self._lost = True
            log.critical("the engine's thread has ended: only a restart helps", exc_info=error)
            fail_unfinished(jobs, error)
        finally:  # however the loop ends, nobody is left waiting
            self._open = False
            self._fail_waiting()

    def _take(self) -> list[Job]:
        """Waits for work. One call, or the questions to be joined; empty when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            if not self._open:
                return []
            first = self._waiting.popleft()
            if first.question is None:
                return [first]
            joined = [first]
            full = self._take_questions(joined)
            while not full and self._open and not self._is_held_up(first.collection):
                left = min(map(self._held_until, joined)) - self._clock()
                if left <= 0:
                    break
                self._changed.wait(left)
                full = self._take_questions(joined)
            return joined

    def _held_until(self, job: Job) -> float:
        longest = self._max_wait if job.deadline is None else min(self._max_wait, (job.deadline - job.admitted) / 2)
        return job.admitted + longest

    def _is_held_up(self, collection: str) -> bool:
        """Whether a question of this collection must not wait for company: nobody else can join before the next in the
        queue, a change of engines, or others wait for the thread who cannot join at all.
        """
        next_is_change = bool(self._waiting) and self._waiting[0].successor is not None
        return next_is_change or any(job.collection != collection for job in self._waiting)

    def _take_questions(self, batch: list[Job]) -> bool:
        """Adds waiting questions of a batch's collection to it in order of arrival, up to a change of its engine; all
        others, and calls, keep their places. Returns whether it is full: one more such as its first cannot join.
        """
        now, full, taken = self._clock(), False, set[int]()
        waiting = [job for job in self._waiting if job.collection == batch[0].collection]
        before = takewhile(lambda job: job.successor is None, waiting)
        for job in [job for job in before if job.question is not None and not job.future.cancelled()]:
            if full := not self._admission.joins(batch, job, now):
                break
            batch.append(job)
            taken.add(id(job))
        if taken:
            self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return full or not self._admission.joins(batch, batch[0], now)

    def _serve(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if self._begin(job)]
        if not jobs:
            return
        token = request_id.set(",".join(dict.fromkeys(job.request_id for job in jobs)))
        try:
            if jobs[0].successor is not None:
                self._replace(jobs[0], jobs[0].successor)
                return
            if jobs[0].call is not None:
                self._run_call(jobs[0])
            else:
                self._run_questions(jobs)
        finally:
            request_id.reset(token)

    def _begin(self, job: Job) -> bool:
        """Whether the job is still wanted; from here on it cannot be cancelled."""
        if not job.future.set_running_or_notify_cancel() or self._expired(job):
            return False
        now = self._clock()
        self._lower([job], lambda: self._admission.still_in_time(job, now))
        try:
            self._admission.require_still_time(job, now)
        except Refused as late:
            job.future.set_exception(late)
            return False
        return True

    def _expired(self, job: Job) -> bool:
        if job.deadline is None or self._clock() < job.deadline:
            return False
        job.future.set_exception(DeadlineExceeded("the deadline passed while the request waited for the model"))
        return True

    def _replace(self, job: Job, successor: Engine) -> None:
        former, started = self._engines[job.collection], self._clock()
        self._engines[job.collection], self._infos[job.collection] = successor, _info(successor, job.collection)
        self._deliver(job, former, started)

    def _run_call(self, job: Job) -> None:
        assert job.call is not None
        started = self._begun([job])
        try:
            value = job.call(self._engines[job.collection])
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller, not to this thread
            self._admission.end([job], self._clock(), well=False)
            job.future.set_exception(told(error))
        else:
            self._admission.end([job], self._clock())
            self._deliver(job, value, started)

    def _run_questions(self, jobs: list[Job]) -> None:
        """Answers the questions together; if that fails, each by itself, so that only the guilty fail."""
        started = self._begun(jobs)
        try:
            answers = self._answer(jobs)
        except NobodyListens as left:
            self._admission.end(jobs, self._clock(), well=False)
            for job in jobs:
                job.future.set_exception(left)
            self._tell(jobs, [], started)
        except BaseException as error:  # noqa: BLE001 - as in `_run_call`
            self._admission.end(jobs, self._clock(), well=False)
            if len(jobs) == 1:
                jobs[0].future.set_exception(told(error))
                return
            log.warning("a batch of %d questions failed (%s): answering each by itself", len(jobs), error)
            for job in jobs:
                if not self._expired(job):
                    self._run_questions([job])
        else:
            for job, answer in zip(jobs, answers, strict=True):
                job.count_kept(answer)
            self._admission.end(jobs, self._clock())  # before anybody hears of it, and asks again
            for job, answer in zip(jobs, answers, strict=True):
                self._deliver(job, answer, started)
            self._tell(jobs, answers, started)

    def _tell(self, jobs: Sequence[Job], answers: Sequence[Answer], started: float) -> None:
        try:
            if self._ran is not None:
                self._ran(jobs, answers, started=started, seconds=self._clock() - started)
        except Exception:  # they have their answers: nothing of this may end the thread
            log.exception("a batch could not be counted")

    def _begun(self, jobs: Sequence[Job]) -> float:
        """Notes that these run from now on."""
        now = self._clock()
        self._admission.begin(jobs, now)
        return now

    def _answer(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        asked = [job for job in jobs if job.question is not None]
        questions = [job.question for job in asked if job.question is not None]
        answers = self._engines[jobs[0].collection].answer(questions, [job.heard_by for job in asked])
        if len(answers) != len(questions):
            raise RuntimeError(f"the engine gave {len(answers)} answers to {len(questions)} questions")
        return answers

    def _deliver(self, job: Job, value: object, started: float) -> None:
        ran = self._clock() - started
        by = self._infos[job.collection]
        job.future.set_result(Timed(value, queued=started - job.admitted, ran=ran, by=by))


def _info(engine: Engine, collection: str) -> dict[str, object]:
    return {**engine.info(), "collection": collection}
