"""The server under load: 1, 8 and 32 clients at once over HTTP, against one question at a time.

Two `memstore serve` processes run over the same store, which is built in the run with the default model. One has its
default settings. The other, the baseline, has `--max-batch 1`, and one client that waits for each answer. Clients are
threads of this process, so they share the machine with the server. Each sends its next question when it has the answer
to the last. All cases ask the same questions.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import TOTAL, Options, Report, Subject, Times, percentile, ratio, summary, take_turns
from benchmarks.inputs import corpus_file, questions_of
from benchmarks.serving import Server, built_store, serving
from memstore_builders.corpus import open_corpus
from memstore_client import Client, MemstoreClientError

CLIENTS = (1, 8, 32)
PASSAGES, QUESTIONS, ROUNDS = 2000, 96, 3
RETRIEVE_K, KEEP_K, NEW_TOKENS = 40, 10, 16
BASELINE = "one at a time"


@dataclass(slots=True)
class Asked:
    """The results of one round: milliseconds of each answer, questions in each batch, and the number of failures."""

    latencies: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    errors: int = 0


def run(options: Options) -> Report:
    """Time the baseline and each number of clients, in turns."""
    count, rounds = (4, 1) if options.quick else (QUESTIONS, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name, ExitStack() as stack:
        corpus = corpus_file(options, Path(name), documents=PASSAGES)
        limit = 64 if options.quick else PASSAGES
        store = built_store(corpus, Path(name) / "store", limit=limit)
        passages = list(open_corpus([corpus], limit=limit))
        questions = questions_of(passages[:: max(1, len(passages) // count)][:count])
        alone = stack.enter_context(serving(store, max_batch=1))
        server = stack.enter_context(serving(store))
        seen: dict[str, list[Asked]] = {BASELINE: []}
        subjects = {BASELINE: _subject(alone, 1, questions, seen[BASELINE])}
        for clients in CLIENTS:
            seen[_name(clients)] = []
            subjects[_name(clients)] = _subject(server, clients, questions, seen[_name(clients)])
        times = take_turns(subjects, rounds=rounds)
    kept = {case: asked[-rounds:] for case, asked in seen.items()}  # without the warm-up
    each = {case: _per_answer(times[case], kept[case]) for case in kept}
    return Report(
        name="load",
        claim="questions/s of the server over one question at a time with --max-batch 1, over HTTP",
        settings={
            "passages": len(passages),
            "questions_per_round": len(questions),
            "rounds": rounds,
            "retrieve_k": RETRIEVE_K,
            "keep_k": KEEP_K,
            "new_tokens": NEW_TOKENS,
            "max_batch": "the server's default",
            "model": "default",
            "corpus": corpus.name,
        },
        ratios=[ratio(_name(n), each[BASELINE], each[_name(n)]) for n in CLIENTS],
        times={case: {TOTAL: _latencies(kept[case])} for case in kept},
        rows=[_row(case, each[case], kept[case]) for case in kept],
    )


def _name(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"


def _subject(server: Server, clients: int, questions: Sequence[str], seen: list[Asked]) -> Subject:
    """A round in which `clients` threads share the questions."""

    def work(_: object) -> None:
        rest = iter(questions)  # a list's iterator may be shared by threads
        with ThreadPoolExecutor(clients) as pool:
            parts = list(pool.map(lambda _: _client(server.url, rest), range(clients)))
        seen.append(
            Asked(
                [ms for p in parts for ms in p.latencies],
                [b for p in parts for b in p.batches],
                sum(p.errors for p in parts),
            )
        )

    return work


def _client(url: str, rest: Iterator[str]) -> Asked:
    """One client: asks the next question until none is left."""
    asked = Asked()
    with Client(url, timeout=300, retries=0) as client:
        for question in rest:
            begin = time.perf_counter()
            try:
                reply = client.answer(question, retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS)
            except MemstoreClientError:
                asked.errors += 1
                continue
            asked.latencies.append((time.perf_counter() - begin) * 1e3)
            asked.batches.append(reply.usage.questions_in_batch)
    return asked


def _per_answer(times: Times, asked: Sequence[Asked]) -> list[float]:
    """For each round its milliseconds per answer. Failed questions count as none: they make no case faster."""
    return [t / max(1, len(a.latencies)) for t, a in zip(times.of(), asked, strict=True)]


def _latencies(asked: Sequence[Asked]) -> dict[str, float]:
    values = [ms for a in asked for ms in a.latencies] or [float("nan")]
    return summary(values) | {"p99": percentile(values, 0.99)}


def _row(case: str, each: Sequence[float], asked: Sequence[Asked]) -> dict[str, float | int | str]:
    latencies = _latencies(asked)
    return {
        "clients": case,
        "questions/s": 1e3 / statistics.median(each),
        "median, ms": latencies["median"],
        "99th percentile, ms": latencies["p99"],
        "questions per batch": statistics.mean([b for a in asked for b in a.batches] or [float("nan")]),
        "errors": sum(a.errors for a in asked),
    }
