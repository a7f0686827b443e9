"""Who is let in, and who is answered together: by places, by tokens, and by the time that it will take.

What cannot be done in time is refused before anything is computed, so that a server with too many questions goes on
answering as many as it can. Singles and batches go by the same rules. Refuses to know threads and HTTP: whoever has the
queue asks here, under a lock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from memstore.errors import MemstoreError
from memstore_server.costs import CostModel, Work, total

REPLY_SECONDS = 0.01  # from an answer to its reply on the way: JSON of forty passages, and the event loop's other work
TRY_SECONDS = 5.0  # without a batch, after which one that seems too late is tried all the same
_WEIGHT = 0.2  # of the newest in moving averages


class Refused(MemstoreError):  # noqa: N818 - reads as the fact it states
    """Not admitted; nothing was computed. `retry_after` estimates, in seconds, when it may be worth another try."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Refused):
    """The queue has no room for what was asked, or what waits in it takes too long already."""


class TooLate(Refused):
    """What was asked cannot be done by its deadline."""


class Job(Protocol):
    """What waits. Of a call, which is no question, the work is None."""

    @property
    def work(self) -> Work | None:
        """What answering it takes."""

    @property
    def seconds(self) -> float:
        """What it adds to the time of a batch, or takes by itself, as `Admission.seconds` has it."""

    @property
    def deadline(self) -> float | None:
        """On the clock of those who ask here."""


class Admission:
    """The rules, and what they must know of the engine: what it does now, and how long that takes.

    Args:
        costs: predicts the times of batches, and learns of those that run.
        queue_size: jobs that may wait.
        queue_seconds: time that what waits may take, as far as it is predicted.
        max_batch: questions that may be answered together.
        max_batch_tokens: tokens that may, as `Work.tokens` counts them; one question may have more, and is then alone.
    """

    def __init__(
        self, costs: CostModel, *, queue_size: int, queue_seconds: float, max_batch: int, max_batch_tokens: int
    ) -> None:
        self.costs = costs
        self._queue_size, self._queue_seconds = queue_size, queue_seconds
        self._max_batch, self._max_batch_tokens = max_batch, max_batch_tokens
        self._call_seconds = 0.0  # moving averages
        self._batch_questions = 1.0
        self._runs: tuple[float, float] | None = None  # since when, and for how long as predicted
        self._ended: float | None = None  # the last batch
        self._tried: Job | None = None

    # --- what the engine does ---

    def begin(self, jobs: Sequence[Job], now: float) -> None:
        """The engine runs these together from now on."""
        works = [job.work for job in jobs if job.work is not None]
        self._runs = (now, self.costs.seconds(total(works)) if works else self._call_seconds)

    def end(self, jobs: Sequence[Job], now: float, *, well: bool = True) -> None:
        """The engine has run these; `well` if they took the time that such work takes."""
        began, _ = self._runs or (now, 0.0)
        self._runs = self._tried = None
        works = [job.work for job in jobs if job.work is not None]
        if works and well:
            self.costs.observe(total(works), now - began)
            self._batch_questions += _WEIGHT * (len(works) - self._batch_questions)
            self._ended = now
        elif well:
            self._call_seconds += (_WEIGHT if self._call_seconds else 1.0) * (now - began - self._call_seconds)

    # --- who is let in ---

    def seconds(self, work: Work | None) -> float:
        """What a job adds to the time of a batch, or takes by itself if it is a call."""
        return self._call_seconds if work is None else self.costs.seconds(work, batches=0)

    def ahead(self, waiting: Iterable[Job], now: float) -> float:
        """Seconds until the engine has done what it does and what waits."""
        return self._left(now) + self._all(list(waiting))

    def pressure(self, waiting: Sequence[Job], now: float) -> float:
        """How full the queue is: 0 is empty, and from 1 on everything is refused."""
        return max(len(waiting) / self._queue_size, self.ahead(waiting, now) / self._queue_seconds)

    def require_room(self, asked: int, waiting: Sequence[Job], now: float) -> None:
        """Raises Overloaded unless so many jobs may wait too, whatever they are."""
        ahead = self.ahead(waiting, now)
        later = max(1, math.ceil(ahead))
        if len(waiting) + asked > self._queue_size:
            taken = f"{len(waiting)} of {self._queue_size} places are taken, {asked} needed"
            raise Overloaded(f"{taken}: try again in {later} s", retry_after=later)
        if waiting and ahead > self._queue_seconds:
            raise Overloaded(f"what waits already takes about {ahead:.0f} s: try again in {later} s", retry_after=later)

    def in_time(self, asked: Sequence[Job], waiting: Sequence[Job], now: float) -> bool:
        """Whether these, which have one deadline, can be done by then after all that waits."""
        deadline = asked[0].deadline
        if deadline is None or not self.costs.known:
            return True
        seconds = self._all(asked) + self.ahead(waiting, now)
        return now + seconds * self.costs.margin + REPLY_SECONDS <= deadline

    def require_time(self, asked: Sequence[Job], waiting: Sequence[Job], now: float) -> None:
        """Raises TooLate unless these, which have one deadline, can be done by then after all that waits."""
        deadline = asked[0].deadline
        if deadline is None or self.in_time(asked, waiting, now):
            return
        if not waiting and self._runs is None and (self._ended is None or now - self._ended >= TRY_SECONDS):
            self._tried = asked[0]  # else what was learned wrong would never be seen to be wrong
            return
        own, ahead = self._all(asked), self.ahead(waiting, now)
        left, needed = max(0.0, deadline - now), (own + ahead) * self.costs.margin + REPLY_SECONDS
        message = f"it would take about {needed * 1e3:.0f} ms, and has {left * 1e3:.0f}"
        if own * self.costs.margin + REPLY_SECONDS > left:
            message += ", also when nothing else waits: give it more time"
        raise TooLate(message, retry_after=max(1, math.ceil(ahead)))

    def _left(self, now: float) -> float:
        if self._runs is None:
            return 0.0
        began, predicted = self._runs
        return max(predicted - (now - began), 0.1 * (now - began))

    def _all(self, jobs: Sequence[Job]) -> float:
        questions = sum(job.work is not None for job in jobs)
        batches = math.ceil(questions / max(1.0, self._batch_questions))
        return sum(job.seconds for job in jobs) + batches * self.costs.per_batch

    # --- who is answered together ---

    def joins(self, batch: Sequence[Job], another: Job, now: float) -> bool:
        """Whether one more can be answered together with a batch, without making those in it late, or being so."""
        together = total(job.work for job in (*batch, another) if job.work is not None)
        if together.questions > self._max_batch or together.tokens > self._max_batch_tokens:
            return False
        seconds = self.costs.seconds(together)
        done = now + seconds * self.costs.margin + REPLY_SECONDS
        in_time = all(job.deadline is None or done <= job.deadline for job in batch)
        return in_time and (another.deadline is None or now + seconds + REPLY_SECONDS <= another.deadline)

    def still_in_time(self, job: Job, now: float) -> bool:
        """Whether one that has waited can be done by its deadline, if it is alone."""
        if job.deadline is None or job.work is None or not self.costs.known or job is self._tried:
            return True
        return now + self.costs.seconds(job.work) + REPLY_SECONDS <= job.deadline

    def require_still_time(self, job: Job, now: float) -> None:
        """Raises TooLate for one that has waited, and would be late even alone."""
        if job.deadline is None or job.work is None or self.still_in_time(job, now):
            return
        seconds, left = self.costs.seconds(job.work), max(0.0, job.deadline - now)
        raise TooLate(f"it would take about {seconds * 1e3:.0f} ms, and has {left * 1e3:.0f} left", retry_after=1)
