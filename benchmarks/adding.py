"""Adding: how long answers take while documents are added over HTTP, against the same server left alone.

One `memstore serve` with a write key has a store of `PASSAGES` passages and the default model. `CLIENTS` clients,
threads of this process, ask one question after another: for `--seconds` without a change, then for as long as it takes
the server to add `--limit` documents (10,000 by default) of one passage each, then without a change again. The variable
MEMSTORE_WRITE_NICE says how far the process that adds stands back.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import TOTAL, Options, Report, percentile, ratio, summary
from benchmarks.inputs import corpus_file, questions_of
from benchmarks.serving import KEY, built_store, serving
from memstore_builders.corpus import open_corpus, sample_corpus
from memstore_client import Client, JobReply, MemstoreClientError
from memstore_server.settings import Settings

PASSAGES, ADDED, CLIENTS, SECONDS = 2000, 10_000, 2, 60.0
RETRIEVE_K, KEEP_K, NEW_TOKENS = 40, 10, 16
WORDS = 90  # of a document: one passage
BEFORE, DURING, AFTER = "before", "while adding", "after"


@dataclass(slots=True)
class Asked:
    """Milliseconds of each answer of a phase, and the failures."""

    latencies: list[float] = field(default_factory=list)
    errors: int = 0


def run(options: Options) -> Report:
    """Ask before, during and after an addition."""
    seconds = options.seconds or (2.0 if options.quick else SECONDS)
    count = options.limit or (8 if options.quick else ADDED)
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        corpus = corpus_file(options, Path(name), documents=PASSAGES)
        limit = 64 if options.quick else PASSAGES
        store = built_store(corpus, Path(name) / "store", limit=limit)
        passages = list(open_corpus([corpus], limit=limit))
        questions = questions_of(passages[:: max(1, len(passages) // 100)])
        with serving(store, write_key=KEY) as server, Client(server.url, timeout=600, write_key=KEY) as client:
            seen = {}
            with _asking(server.url, questions) as warm:
                _until(warm, 4)
            with _asking(server.url, questions) as seen[BEFORE]:
                time.sleep(seconds)
            begin = time.perf_counter()
            with _asking(server.url, questions) as seen[DURING]:
                job = client.wait(client.put_documents(documents(count)))
                took = time.perf_counter() - begin
            with _asking(server.url, questions) as seen[AFTER]:
                time.sleep(seconds)
    return _report(seen, job, took, settings={
        "passages": len(passages), "added": count, "clients": CLIENTS, "seconds_alone": seconds,
        "retrieve_k": RETRIEVE_K, "keep_k": KEEP_K, "new_tokens": NEW_TOKENS,
        "write_nice": Settings.load(store=store).write_nice, "model": "default", "corpus": corpus.name,
    })  # fmt: skip


def documents(count: int) -> list[dict[str, str]]:
    """Documents of random sentences of the bundled sample, about `WORDS` words each."""
    rng = random.Random(1)
    sample = [json.loads(line) for line in sample_corpus().read_text(encoding="utf-8").splitlines()]
    words = " ".join(document["text"] for document in sample).split()
    starts = (rng.randrange(len(words) - WORDS) for _ in itertools.count())
    return [
        {"id": f"added-{i}", "title": rng.choice(sample)["title"], "text": f"{i} {' '.join(words[s : s + WORDS])}"}
        for i, s in zip(range(count), starts, strict=False)
    ]


@contextmanager
def _asking(url: str, questions: Sequence[str]) -> Iterator[Asked]:
    """Within, the clients ask; their results come as they are had."""
    asked, stop = Asked(), threading.Event()
    rest = itertools.cycle(questions)  # shared by threads: what `next` gives two of them alike does no harm

    def client() -> None:
        with Client(url, timeout=300, retries=0) as one:
            while not stop.is_set():
                begin = time.perf_counter()
                try:
                    one.answer(next(rest), retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS)
                    asked.latencies.append((time.perf_counter() - begin) * 1e3)
                except MemstoreClientError:
                    asked.errors += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            yield asked
        finally:
            stop.set()
    for one in clients:
        one.result()


def _until(asked: Asked, answers: int) -> None:
    while len(asked.latencies) < answers and not asked.errors:
        time.sleep(0.05)


def _report(seen: dict[str, Asked], job: JobReply, took: float, *, settings: dict[str, float | int | str]) -> Report:
    alone = [*seen[BEFORE].latencies, *seen[AFTER].latencies]
    changing = seen[DURING].latencies
    assert job.result is not None
    started, ended = job.started or 0.0, job.ended or 0.0
    return Report(
        name="adding",
        claim="the server left alone over the same while documents are added: how long an answer takes (1: no cost)",
        settings=settings,
        ratios=[
            ratio("median answer", [percentile(alone, 0.5)], [percentile(changing, 0.5)]),
            ratio("95th percentile of answers", [percentile(alone, 0.95)], [percentile(changing, 0.95)]),
        ],
        times={phase: {TOTAL: summary(asked.latencies)} for phase, asked in seen.items()},
        figures={
            "documents added": job.result.added,
            "seconds of the request until it was answered from": took,
            "seconds of the job": ended - started,
            "documents/s": job.result.added / max(1e-9, ended - started),
            "failed questions": sum(asked.errors for asked in seen.values()),
        },
        rows=[
            {
                "phase": phase,
                "answers": len(asked.latencies),
                "median, ms": percentile(asked.latencies, 0.5),
                "95th percentile, ms": percentile(asked.latencies, 0.95),
                "99th percentile, ms": percentile(asked.latencies, 0.99),
                "errors": asked.errors,
            }
            for phase, asked in seen.items()
        ],
    )
