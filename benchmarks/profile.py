"""Where the time of `POST /answer` goes: by stage over HTTP, and inside the largest stage by operator.

A `memstore serve` over the given store, or over one of the bundled sample, is asked one question after another. The
client's time that its stages do not account for is HTTP, JSON, the queue, and making the reply.

In turns with that, this process answers the same questions itself: as the server does, which shows the cost of HTTP;
with the plain decoder instead of the prepared one (`memstore/decode/prepared.py`); and with whole layers before the
scorer (`memstore/model/ranking.py`), which shows what these two save. At last torch's profiler watches. It slows small
operators down, so read shares from it, not times.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.common import Options, Report, Subject, Times, ratio, take_turns
from benchmarks.inputs import questions_of
from benchmarks.serving import built_store, serving
from memstore.answer import Answerer, Question
from memstore.answer import answerer as story
from memstore.machine import StageTimer
from memstore.model.model import MemoryModel
from memstore.model.packed import Packed
from memstore.model.ranking import Ranked
from memstore_builders.corpus import sample_corpus
from memstore_client import Client

QUESTIONS, ROUNDS, PROFILED, OPERATORS = 20, 5, 10, 12
RETRIEVE_K, KEEP_K, NEW_TOKENS = 40, 10, 16
STAGES = ("retrieve", "load", "question", "live_a", "live_b", "decode")
OUTSIDE = "HTTP, JSON, queue, reply"
PLAIN, WHOLE = "in process, plain decoder", "in process, whole layers for scores"
MARK = "stage: "


def run(options: Options) -> Report:
    """Ask over HTTP and in this process, in turns. Then profile."""
    count, rounds = (2, 1) if options.quick else (QUESTIONS, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        limit = 64 if options.quick else 10_000
        store = options.store or built_store(sample_corpus(), Path(name) / "store", limit=limit)
        answerer, plain = Answerer.open(store), Answerer.open(store)
        plain.prepared = None
        questions = _questions(answerer, count)
        with serving(store) as server, Client(server.url, timeout=300) as client:
            subjects = {
                "HTTP": _over_http(client, questions),
                "in process": _in_process(answerer, questions),
                PLAIN: _in_process(plain, questions),
                WHOLE: _with_whole_layers(_in_process(answerer, questions)),
            }
            times = take_turns(subjects, rounds=rounds)
        stages = {stage: times["HTTP"].median(stage) / count for stage in (*STAGES, OUTSIDE)}
        largest = max(STAGES, key=lambda stage: stages[stage])
        operators = _operators(answerer, questions[:PROFILED], largest)
    wall, ours = sum(stages.values()), times["in process"]
    return Report(
        name="profile",
        claim="one question at a time",
        settings={
            "passages": len(answerer.store),
            "questions": count,
            "retrieve_k": RETRIEVE_K,
            "keep_k": KEEP_K,
            "new_tokens": NEW_TOKENS,
            "model": str(answerer.model.config.name),
            "store": "given" if options.store else "the bundled sample",
        },
        ratios=[
            ratio("decode, plain decoder over the prepared one", times[PLAIN].of("decode"), ours.of("decode")),
            ratio("the whole, plain decoder over the prepared one", times[PLAIN].of(), ours.of()),
            ratio("live_a, whole layers over what scores need", times[WHOLE].of("live_a"), ours.of("live_a")),
            ratio("the whole, whole layers over what scores need", times[WHOLE].of(), ours.of()),
            ratio("in process over HTTP", ours.of(), times["HTTP"].of()),
        ],
        times={name: _per_question(t, count).summary() for name, t in times.items()},
        figures={f"{largest}, ms under the profiler: {name}": value for name, value in operators.items()},
        rows=[{"stage": s, "ms": ms, "share, %": 100 * ms / wall} for s, ms in stages.items()],
    )


def _questions(answerer: Answerer, count: int) -> list[str]:
    rows = [i * len(answerer.store) // count for i in range(count)]
    return questions_of(answerer.store.passages(answerer.store.ids(rows)))


def _question(text: str) -> Question:
    return Question(text=text, retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS)


def _over_http(client: Client, questions: Sequence[str]) -> Subject:
    def work(stages: StageTimer) -> None:
        for question in questions:
            begin = time.perf_counter()
            reply = client.answer(question, retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS)
            wall = (time.perf_counter() - begin) * 1e3
            spent = {stage: reply.usage.milliseconds[stage] for stage in STAGES}
            for stage, ms in (spent | {OUTSIDE: wall - sum(spent.values())}).items():
                stages.milliseconds[stage] = stages.milliseconds.get(stage, 0.0) + ms

    return work


def _in_process(answerer: Answerer, questions: Sequence[str]) -> Subject:
    def work(stages: StageTimer) -> None:
        for question in questions:
            (answer,) = answerer.answer([_question(question)])
            for stage, ms in answer.usage.milliseconds.items():
                stages.milliseconds[stage] = stages.milliseconds.get(stage, 0.0) + ms

    return work


def _with_whole_layers(work: Subject) -> Subject:
    """The same work with all of live_a for every passage: the plain twin of `memstore.model.ranking.rank`."""

    def plain_rank(model: MemoryModel, questions: Packed, memories: Packed, question_of: Tensor) -> Ranked:
        rows = model.live_a(questions, memories, question_of)
        return Ranked(model, rows, None if model.scorer is None else model.score(rows))

    def whole(stages: StageTimer) -> None:
        with mock.patch.object(story, "rank", plain_rank):
            work(stages)

    return whole


def _per_question(times: Times, count: int) -> Times:
    return Times(tuple({stage: ms / count for stage, ms in r.items()} for r in times.rounds))


# --- by operator ----------------------------------------------------------------------------------------------


class _Marked(StageTimer):
    """Times stages, and marks them in a profile."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        with record_function(MARK + stage), StageTimer.__call__(self, stage):
            yield


def _operators(answerer: Answerer, questions: Sequence[str], stage: str) -> dict[str, float]:
    """The operators of a stage that take most time, with milliseconds and calls per question; the rest; Python."""
    with mock.patch.object(story, "StageTimer", _Marked), profile(activities=[ProfilerActivity.CPU]) as profiled:
        for question in questions:
            answerer.answer([_question(question)])
    spent: dict[str, list[float]] = defaultdict(list)
    outside = 0.0
    for event in profiled.events() or ():
        if event.name == MARK + stage:
            outside += event.self_cpu_time_total / 1e3
        elif _within(event, MARK + stage):
            spent[event.name].append(event.self_cpu_time_total / 1e3)
    count = len(questions)
    ordered = sorted(spent.items(), key=lambda item: -sum(item[1]))
    found = {f"{name}, {len(ms) / count:.0f} calls": sum(ms) / count for name, ms in ordered[:OPERATORS]}
    rest = sum(sum(ms) for _, ms in ordered[OPERATORS:]) / count
    return found | {f"{max(0, len(ordered) - OPERATORS)} others": rest, "Python, between operators": outside / count}


def _within(event: FunctionEvent, name: str) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name == name:
            return True
        parent = parent.cpu_parent
    return False
