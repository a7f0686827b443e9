"""What the routes offer, without HTTP: awaits the engine thread, and knows whether the server is ready.

A question's way: checked and translated, admitted to the queue, awaited until its deadline, translated back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from memstore.answer import Answer, Question, kept
from memstore.errors import MemstoreError, RequestError
from memstore.retrieve.encoders import Vectors
from memstore_client import served, wire
from memstore_server import examples, translate
from memstore_server.admission import Admission, TooLate
from memstore_server.batching import DeadlineExceeded, Engine, EngineStopped, EngineThread, Timed
from memstore_server.budgets import degraded
from memstore_server.collection import Collection, named
from memstore_server.costs import CostModel
from memstore_server.hearing import Events, Hearing
from memstore_server.logs import request_id
from memstore_server.metrics import Metrics
from memstore_server.queued import Wanted
from memstore_server.reloading import Reloaded
from memstore_server.settings import Settings
from memstore_server.tracing import Tracing

log = logging.getLogger(__name__)
T = TypeVar("T")
WARM_UP_QUESTION = "What is the history of the world?"  # common words: a store of any English text has passages for it


class NotReady(MemstoreError):  # noqa: N818 - reads as the fact it states
    """The warm-up answer is not there yet or has failed, or the server is shutting down or has lost its engine."""


class Service:
    """Answers wire requests with engines that run in one thread.

    Args:
        engines: by collection, the default one first; opened, and from now on left alone by everybody else.
        settings: limits, defaults, and the sizes of queue and batch.
        costs: how long batches take, as far as it is known already.
        changed: called when this service was told that a store has changed, or has changed it: others may serve it too.
        tracing: makes spans of what answers took, if any are wanted.

    Attributes:
        settings: those given.
        metrics: what is counted.
        collections: what there is, by name, the default one first.
        warm_up: done when a warm-up answer of each collection has ended well, or one with its error; done in the
            engine's thread.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        settings: Settings,
        costs: CostModel | None = None,
        changed: Callable[[], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings, self.metrics, self.tell_others = settings, Metrics(), changed or (lambda: None)
        self._tracing = tracing
        self._thread = EngineThread(
            engines,
            admission=admission_of(settings, costs or CostModel()),
            max_wait=settings.max_wait_ms / 1000,
            ran=self.metrics.ran,
        )
        self.metrics.watch(self._thread)
        self.collections = {
            name: Collection(name, self._thread, settings, try_with=WARM_UP_QUESTION) for name in engines
        }
        self.warm_up: Future[None] = Future()
        self._state = "is starting: the warm-up answer is not there yet"
        self._failed = False  # the warm-up

    # --- life ---

    def start(self) -> None:
        """Starts the engine's thread and asks it the warm-up question; does not wait for the answer."""
        self._thread.start()
        self._warm(list(self.collections.values()))

    def close(self) -> None:
        """Refuses new work, lets what runs finish (at most `drain_seconds`), ends the threads. Blocks."""
        self._state = "is shutting down"
        for one in self.collections.values():
            one.reloader.stop()
        if not self._thread.close(timeout=self.settings.drain_seconds):
            log.warning("the model did not finish within %s s and is left behind", self.settings.drain_seconds)

    @property
    def ended(self) -> bool:
        """Whether the engine's thread runs no more; after `close`, false where it was left behind."""
        return self._thread.ended

    def require_ready(self) -> None:
        """Raises NotReady, saying why, unless questions can be answered."""
        self.require_alive()
        if self._state or not self._thread.alive:
            raise NotReady(f"the server {self._state or 'does not run'}")

    def require_alive(self) -> None:
        """Raises NotReady, saying why, if questions can never be answered again: only a restart helps."""
        if self._thread.lost:
            raise NotReady("the server has lost its engine thread: restart it")
        if self._failed:
            raise NotReady("the server cannot answer: the warm-up failed, its log says why")

    def _warm(self, cold: Sequence[Collection]) -> None:
        """Asks the first collection, and then the others, one at a time: the queue may have one place."""
        (warm,) = self._thread.ask([usual_question(cold[0].settings)], collections=[cold[0].name])
        warm.add_done_callback(lambda warm: self._warmed(warm, cold))

    def _warmed(self, warm: Future[Timed[Answer]], cold: Sequence[Collection]) -> None:
        error = warm.exception()
        if error is None:
            log.info("collection %s: warm-up answered in %.0f ms", cold[0].name, warm.result().ran * 1000)
            try:
                if cold[1:]:
                    self._warm(cold[1:])
                    return
            except EngineStopped as stopped:
                error = stopped
        if error is None:
            self._state = "" if self._thread.alive else self._state
            for one in self.collections.values():
                one.reloader.start()
            self.warm_up.set_result(None)
            return
        if not isinstance(error, EngineStopped):
            self._failed = True
            log.error("collection %s: the warm-up answer failed", cold[0].name, exc_info=error)
        self.warm_up.set_exception(error)

    def reload_soon(self, collection: str | None = None) -> Future[Reloaded]:
        """Has a new generation taken up, without waiting for it; may be called where a signal is handled."""
        return self.of(collection).reloader.request()

    def require_room(self) -> None:
        """Raises NotReady or Overloaded if a request would be refused whatever it asks, so that it need not be read."""
        self.require_ready()
        self._thread.require_room()

    # --- requests ---

    def of(self, collection: str | None) -> Collection:
        """The collection that a request names; the first if it names none. Raises UnknownCollection."""
        return named(self.collections, collection)

    def info(self, collection: str | None = None) -> served.InfoReply:
        """What answers, and what is allowed. Raises UnknownCollection."""
        listed = [(self._thread.info_of(one.name), one.reloader.error) for one in self.collections.values()]
        of = self.of(collection)
        by = self._thread.info_of(of.name)
        return translate.info(by, of.settings, reload_error=of.reloader.error, collections=listed)

    def store_summary(self, collection: str | None = None) -> wire.StoreSummary:
        """The generation that answers."""
        return translate.store_summary(self._thread.info_of(collection))

    async def reload(self, collection: str | None = None) -> served.ReloadReply:
        """Takes up the generation that is in force in the store. Raises NotReloaded; then the former one goes on."""
        self.require_ready()
        self.tell_others()
        done = await asyncio.wrap_future(self.reload_soon(collection))
        return translate.reloaded(done, request_id=request_id.get())

    async def answer(self, asked: wire.AnswerRequest) -> wire.AnswerReply:
        """One answer. Raises what `translate.question`, `EngineThread.ask` and the engine raise."""
        began = time.monotonic()
        self.require_ready()
        of = self.of(asked.collection)
        question = self._possible(translate.question(asked, of.settings), asked, of)
        deadline = _deadline(began, asked.deadline_ms)
        (outcome,) = await _all(self._thread.ask([question], deadline=deadline, collections=[of.name]), deadline)
        if isinstance(outcome, Exception):
            raise outcome
        return self._answered(outcome, began)

    async def stream(self, asked: wire.AnswerRequest) -> Events:
        """One answer as it arrives; its last event is what `answer` returns. Raises what `answer` raises. Who closes it
        early ends the work.
        """
        began = time.monotonic()
        self.require_ready()
        of, hearing = self.of(asked.collection), Hearing()
        question = self._possible(translate.question(asked, of.settings), asked, of)
        deadline = _deadline(began, asked.deadline_ms)
        (future,) = self._thread.ask([question], deadline=deadline, listeners=[hearing], collections=[of.name])
        done = asyncio.wrap_future(future)
        try:
            async for event in hearing.until(done, deadline):
                yield event
            outcome = _outcome(done)
            if isinstance(outcome, Exception):
                raise outcome
            yield self._answered(outcome, began)
        finally:
            hearing.stop()
            _give_up(future, done)

    async def answer_batch(self, asked: wire.AnswerBatchRequest) -> list[wire.AnswerReply | Exception]:
        """Per question its answer, or the error that is its alone; errors of the whole request are raised."""
        began = time.monotonic()
        self.require_ready()
        of = [self.of(one.collection) for one in asked.questions]
        questions = translate.questions(asked, self.settings, of=[one.settings for one in of])
        deadline = _deadline(began, asked.deadline_ms)
        possible: dict[int, Question] = {}
        refused: dict[int, RequestError] = {}
        for at, (question, one) in enumerate(zip(questions, of, strict=True)):
            try:
                possible[at] = self._possible(question, asked.questions[at], one)
            except RequestError as error:
                refused[at] = error
        outcomes: dict[int, Timed[Answer] | Exception] = {}
        if possible:
            admitted = self._thread.ask(
                list(possible.values()), deadline=deadline, collections=[of[at].name for at in possible]
            )
            outcomes = dict(zip(possible, await _all(admitted, deadline), strict=True))
        for outcome in outcomes.values():
            if isinstance(outcome, DeadlineExceeded | EngineStopped | TooLate):
                raise outcome
        replies = [refused[at] if at in refused else outcomes[at] for at in range(len(questions))]
        return [one if isinstance(one, Exception) else self._answered(one, began) for one in replies]

    def _possible(self, question: Question, asked: wire.QuestionInput, of: Collection) -> Question:
        """The question as it may wait: as cheap as it must be, and as a server with so much to do takes it.

        Raises:
            RequestError: it can never be answered, which is known before it waits.
        """
        translate.require_possible(question, self._thread.info_of(of.name))
        if question.max_gflop is not None:
            question = self._thread.engine_of(of.name).afford(question)
        degrade = self.settings.degrade if asked.degrade is None else asked.degrade
        return degraded(question, self._thread.pressure()) if degrade else question

    async def retrieve(self, asked: wire.RetrieveRequest) -> wire.RetrieveReply:
        """Passages for a question, best first."""
        k, where = translate.retrieve_k(asked, self.settings), translate.where(asked.filter)
        (ranking,), milliseconds, by = await self._call(
            lambda engine: engine.retrieve([asked.question], k, [where]),
            "retrieve",
            asked.deadline_ms,
            asked.collection,
        )
        return wire.RetrieveReply(
            passages=translate.ranked(ranking),
            milliseconds=milliseconds,
            store=translate.store_summary(by),
            request_id=request_id.get(),
        )

    async def rerank(self, asked: wire.RerankRequest) -> wire.RerankReply:
        """The caller's passages, scored, best first."""
        passages = translate.rerank_passages(asked, self.settings)
        translate.require_task(asked.task, self._thread.info_of(self.of(asked.collection).name))
        ranking, milliseconds, by = await self._call(
            lambda engine: engine.rerank(asked.question, passages, task=asked.task),
            "rerank",
            asked.deadline_ms,
            asked.collection,
        )
        return wire.RerankReply(
            passages=translate.ranked(ranking),
            milliseconds=milliseconds,
            model=translate.model_summary(by),
            request_id=request_id.get(),
        )

    async def embed(self, texts: Sequence[str], collection: str | None, *, as_questions: bool) -> Vectors:
        """`(N, dim)` float32 of unit length. Raises RequestError where there are no vectors."""
        found, _, _ = await self._call(
            lambda engine: engine.embed(texts, as_questions=as_questions), "embed", None, collection
        )
        return found

    async def passage(self, passage_id: str, collection: str | None = None) -> wire.PassageReply:
        """A passage of the store. Raises PassageNotFound."""
        found, _, _ = await self._call(lambda engine: engine.passage(passage_id), "passage", None, collection)
        return translate.passage(found)

    async def examples(self, collection: str | None = None) -> examples.Examples:
        """What a first visitor may ask; made once for each generation, so that visits cost the engine nothing."""
        of = self.of(collection)
        generation = self.store_summary(of.name).generation
        if of.examples is None or of.examples[0] != generation:
            made, _, by = await self._call(examples.examples, "examples", None, of.name)
            of.examples = translate.store_summary(by).generation, made
        return of.examples[1]

    async def _call(
        self, function: Callable[[Engine], T], stage: str, deadline_ms: int | None, collection: str | None
    ) -> tuple[T, dict[str, float], Mapping[str, object]]:
        """Runs a function on a collection's engine in its thread; the result, the milliseconds it took, and what ran
        it.
        """
        began = time.monotonic()
        self.require_ready()
        deadline = _deadline(began, deadline_ms)
        admitted = self._thread.call(function, deadline=deadline, collection=self.of(collection).name)
        (outcome,) = await _all([admitted], deadline)
        if isinstance(outcome, Exception):
            raise outcome
        milliseconds = {stage: outcome.ran * 1000, **_server_milliseconds(outcome.queued, began)}
        return outcome.value, milliseconds, outcome.by

    def _answered(self, outcome: Timed[Answer], began: float) -> wire.AnswerReply:
        if self._tracing is not None:
            self._tracing.answered(outcome)
        return translate.answer(
            outcome.value,
            outcome.by,
            milliseconds=_server_milliseconds(outcome.queued, began),
            request_id=request_id.get(),
        )


def admission_of(settings: Settings, costs: CostModel) -> Admission:
    """The rules of admission that the settings ask for."""
    return Admission(
        costs,
        queue_size=settings.queue_size,
        queue_seconds=settings.queue_seconds,
        max_batch=settings.max_batch,
        max_batch_tokens=settings.max_batch_tokens,
    )


def usual_question(settings: Settings) -> Question:
    """A usual question, as the settings have it."""
    return Question(
        text=WARM_UP_QUESTION,
        retrieve_k=settings.retrieve_k,
        keep_k=kept(settings.keep_k, None, of=settings.retrieve_k, auto=translate.auto_kept(settings))[0],
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
    )


def _deadline(began: float, milliseconds: int | None) -> float | None:
    return None if milliseconds is None else began + milliseconds / 1000


def _server_milliseconds(queued: float, began: float) -> dict[str, float]:
    return {"queue": queued * 1000, "total": (time.monotonic() - began) * 1000}


async def _all(futures: Sequence[Wanted[Timed[T]]], deadline: float | None) -> list[Timed[T] | Exception]:
    """Waits for all, until the deadline; whatever ends the waiting, what has not begun is then given up."""
    left = None if deadline is None else deadline - time.monotonic()
    waited = [asyncio.wrap_future(future) for future in futures]
    try:
        _, late = await asyncio.wait(waited, timeout=left)
        outcomes = [_outcome(one) for one in waited if one.done()]
    finally:
        for future, one in zip(futures, waited, strict=True):
            _give_up(future, one)
    if late:
        raise DeadlineExceeded("the deadline passed before the model had finished")
    return outcomes


def _give_up(future: Wanted[Timed[T]], waited: asyncio.Future[Timed[T]]) -> None:
    """Takes out of the queue what has not begun, and ends what has, if nobody waits for others of its batch."""
    future.give_up()
    if not waited.cancel() and not waited.cancelled():
        waited.exception()  # seen, even if nobody waits for it any more


def _outcome(done: asyncio.Future[Timed[T]]) -> Timed[T] | Exception:
    error = done.exception()
    if error is None:
        return done.result()
    if isinstance(error, Exception):
        return error
    raise error
