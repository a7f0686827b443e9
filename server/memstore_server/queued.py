"""What waits for the engine, and what becomes of it. Refuses to know threads and the order in which things are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from memstore.answer import Answer, Listener, Question, Waits
from memstore_server.budgets import Lowering, highest_that
from memstore_server.costs import Work, work_of
from memstore_server.engine import Engine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A result, with the seconds its job waited in the queue and then ran; `by` is `info` of the engine that ran it,
    and the name of its `collection`.
    """

    value: T
    queued: float
    ran: float
    by: Mapping[str, object]


class Wanted(Future[T]):
    """What a job will give, for as long as somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = False

    def give_up(self) -> None:
        """Nobody waits for it any more. A job that waits leaves the queue; one that runs ends as soon as it can: at
        its next token or, when nobody waits for any of its batch, before the next stage.
        """
        self.given_up = not self.done()
        self.cancel()


@dataclass(slots=True, eq=False)
class Job:
    """Work that waits. Exactly one of `question` (can be joined), `call` (cannot) and `successor` is set."""

    collection: str
    admitted: float
    deadline: float | None
    request_id: str
    question: Question | None = None
    listener: Listener | None = None
    call: Callable[[Engine], Any] | None = None
    successor: Engine | None = None
    work: Work | None = None
    seconds: float = 0.0  # that it adds to a batch, as predicted
    future: Wanted[Any] = field(default_factory=Wanted)

    @property
    def heard_by(self) -> Listener:
        """Whoever hears the answer while it is made, or only says that somebody waits for it."""
        return self.listener or Waits(lambda: not self.future.given_up)

    def ask(self, question: Question) -> None:
        """Asks this question instead; `seconds` are then to be predicted again."""
        if question is not self.question:
            self.question, self.work = question, work_of(question)

    def count_kept(self, answer: Answer) -> None:
        """Notes how many passages were read where only the most was known: predictions learn from what was done."""
        if self.question is not None and self.question.keep_mass is not None:
            self.work = work_of(self.question, kept=sum(one.kept for one in answer.passages))


class Ran(Protocol):
    """Hears of a batch of questions that was answered, or that all who waited for it have left."""

    def __call__(self, jobs: Sequence[Job], answers: Sequence[Answer], *, started: float, seconds: float) -> None:
        """Which, when it began, and what it took. `answers` is one for each job, or none."""


def lower(jobs: Sequence[Job], *, seconds: Callable[[Work | None], float], in_time: Callable[[], bool]) -> None:
    """Has questions ask for as many passages as there is time for; for the least if there is not even time for that.

    Args:
        jobs: asked together, and lowered alike. Calls are what they are.
        seconds: predicts what a work adds to a batch.
        in_time: whether the jobs, as they then are, will be done by their deadline.
    """
    asked = [job.question for job in jobs if job.question is not None]
    if len(asked) < len(jobs) or in_time():
        return

    def fits(questions: Sequence[Question]) -> bool:
        for job, question in zip(jobs, questions, strict=True):
            job.ask(question)
            job.seconds = seconds(job.work)
        return in_time()

    lowering = Lowering(asked, reason="deadline_ms")
    fits(highest_that(fits, lowering) or lowering.at(0))


def told(error: BaseException) -> Exception:
    """The error as one that a caller can handle: a panic of a Rust library, for one, is no `Exception`."""
    if isinstance(error, Exception):
        return error
    ended = RuntimeError(f"the engine was ended by {type(error).__name__}: {error}")
    ended.__cause__ = error
    return ended


def fail_unfinished(jobs: Iterable[Job], error: BaseException) -> None:
    """Fails those that are not done, as the thread that ran them has ended with this error."""
    for job in jobs:
        with suppress(InvalidStateError):  # done, or cancelled
            ended = RuntimeError("the engine's thread ended while it ran this")
            ended.__cause__ = error
            job.future.set_exception(ended)
