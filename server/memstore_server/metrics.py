"""What a server counts, for Prometheus: requests, refusals, the queue, batches and their stages, what was read.

Each app has its own registry, so that two in one process do not count together. Refuses to know routes and HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector

from memstore.answer import Answer
from memstore_server.batching import EngineThread
from memstore_server.costs import total
from memstore_server.queued import Job

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_SECONDS = (0.0005, 0.001, 0.0025, *_SECONDS[:-1])
_QUESTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000)
_PASSAGES = (0, 1, 2, 5, 10, 20, 50, 100)
_SHARES = tuple(n / 10 for n in range(1, 11))


class Metrics:
    """What is counted, and the text that says it. Every method may be called from any thread."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self._requests = Histogram(
            "memstore_request_seconds", "From a request's arrival to the end of its reply.",
            ("route", "method", "status"), buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self._problems = Counter(
            "memstore_problems",
            "Replies that were problems: refusals and errors, by their kind.",
            ("kind",),
            registry=own,
        )
        collection = ("collection",)
        self._waited = Histogram(
            "memstore_queue_wait_seconds", "That a question waited for the model.", collection, buckets=_SECONDS,
            registry=own,
        )  # fmt: skip
        self._batch_seconds = Histogram(
            "memstore_batch_seconds", "That a batch took.", collection, buckets=_SECONDS, registry=own
        )
        self._batch_questions = Histogram(
            "memstore_batch_questions", "Answered together.", collection, buckets=_QUESTIONS, registry=own
        )
        self._batch_tokens = Histogram(
            "memstore_batch_tokens", "Of passages in a batch, as admission counts them.", collection, buckets=_TOKENS,
            registry=own,
        )  # fmt: skip
        self._stages = Histogram(
            "memstore_stage_seconds", "That a stage of a batch took.", ("collection", "stage"), buckets=_STAGE_SECONDS,
            registry=own,
        )  # fmt: skip
        self._kept = Histogram(
            "memstore_kept_passages", "Read for an answer.", collection, buckets=_PASSAGES, registry=own
        )
        self._confidence = Histogram(
            "memstore_confidence", "Of an answer, where the model is calibrated.", collection, buckets=_SHARES,
            registry=own,
        )  # fmt: skip
        self._degraded = Counter(
            "memstore_degraded_replies",
            "Answers from fewer passages than asked for, by the reason; one may have several.",
            ("collection", "reason"),
            registry=own,
        )
        self._left = Counter(
            "memstore_left_questions", "Begun, and given up by all who waited for them.", collection, registry=own
        )
        self._bytes = Counter("memstore_read_bytes", "Of encoded memories.", collection, registry=own)
        self._flops = Counter("memstore_flops", "Floating-point operations.", ("collection", "stage"), registry=own)
        self._fid = Counter("memstore_fid_flops", "What FiD would have spent.", collection, registry=own)

    def watch(self, thread: EngineThread) -> None:
        """Reports the queue of a thread and the generations that it answers from, as they are when somebody looks."""
        own = self.registry
        Gauge("memstore_queue_jobs", "That wait for the model.", registry=own).set_function(lambda: thread.waiting)
        Gauge(
            "memstore_queue_pressure", "How full the queue is, by places and by time; from 1 on all is refused.",
            registry=own,
        ).set_function(thread.pressure)  # fmt: skip
        generation = Gauge("memstore_generation", "Of the store, that answers.", ("collection",), registry=own)
        passages = Gauge("memstore_passages", "That the store has.", ("collection",), registry=own)
        for name in thread.collections:
            generation.labels(name).set_function(partial(_of_store, thread, name, "generation"))
            passages.labels(name).set_function(partial(_of_store, thread, name, "passages"))

    def request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """A request has its reply. `route` is the pattern of its path: paths themselves would be labels without end."""
        self._requests.labels(route, method, str(status)).observe(seconds)

    def problem(self, kind: str) -> None:
        """A reply was a problem."""
        self._problems.labels(kind).inc()

    def ran(self, jobs: Sequence[Job], answers: Sequence[Answer], *, started: float, seconds: float) -> None:
        """A batch was answered, or left by all who waited for it: then there are no answers."""
        name = jobs[0].collection
        self._left.labels(name).inc(sum(job.future.given_up for job in jobs))
        if not answers:
            return
        self._batch_seconds.labels(name).observe(seconds)
        self._batch_questions.labels(name).observe(len(jobs))
        self._batch_tokens.labels(name).observe(total(job.work for job in jobs if job.work is not None).tokens)
        for job in jobs:
            self._waited.labels(name).observe(max(0.0, started - job.admitted))
        timed = {id(answer.usage.milliseconds): answer.usage.milliseconds for answer in answers}
        for milliseconds in timed.values():  # once for those that were answered together
            for stage, took in milliseconds.items():
                self._stages.labels(name, stage).observe(took / 1e3)
        for answer in answers:
            self._answered(name, answer)

    def _answered(self, name: str, answer: Answer) -> None:
        self._kept.labels(name).observe(sum(one.kept for one in answer.passages))
        self._bytes.labels(name).inc(answer.usage.bytes_read)
        self._fid.labels(name).inc(answer.usage.fid_flops)
        for stage, spent in answer.usage.flops.items():
            self._flops.labels(name, stage).inc(spent)
        for reason in () if answer.lowered is None else answer.lowered.reasons:
            self._degraded.labels(name, reason).inc()
        if answer.calibrated:
            self._confidence.labels(name).observe(answer.confidence)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


def _of_store(thread: EngineThread, collection: str, what: str) -> float:
    store = thread.info_of(collection)["store"]
    return float(store[what]) if isinstance(store, Mapping) else 0.0
