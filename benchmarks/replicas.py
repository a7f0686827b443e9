"""Replicas: two servers and a builder on one store, changed for `--seconds` (300 by default) while 8 clients ask.

The builder is the command line: it adds, deletes, compacts, goes back and forgets, one change after another. One server
looks for generations by itself, the other gets SIGHUP after each change. In the store are documents that name the
edition they are of, and each addition replaces all of them by the next edition. So a reply shows which edition it read,
and must show that of the generation it names, and no other. A failed request or a mixed reply ends the run with an
error. What is timed: the longest that a server took to answer from a change.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import TOTAL, Options, Report, percentile, summary
from benchmarks.inputs import corpus_file
from benchmarks.serving import Server, built_store, serving
from memstore.errors import MemstoreError
from memstore_client import Client

SECONDS, CLIENTS, WATCH = 300.0, 8, 0.5
PATIENCE = 600.0  # seconds that a question may wait: nothing is refused for the time that this machine takes
PASSAGES, STAMPED, FILLERS = 2000, 12, 40
QUESTION = "zyx qwv"  # words of no other document, and short: tests have tiny models
RETRIEVE_K, KEEP_K, NEW_TOKENS = 8, 4, 4


class Inconsistent(MemstoreError):
    """A reply that no single generation could have given."""


@dataclass(slots=True)
class Seen:
    """What replies said: how often each (generation, edition), how long answers took, and when a server first named a
    generation.
    """

    replies: Counter[tuple[int, int]] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    first: dict[tuple[str, int], float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class Changed:
    """What the builder did: the edition of each generation, when each came into force, and changes by their kind."""

    editions: dict[int, int]
    times: dict[int, float] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)


def run(options: Options) -> Report:
    """Change and ask, then hold every reply against what the builder knows."""
    seconds = options.seconds or (15.0 if options.quick else SECONDS)
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        corpus = corpus_file(options, folder, documents=PASSAGES)
        store = built_store(corpus, folder / "store", limit=64 if options.quick else PASSAGES)
        changed = Changed({})
        _add(store, folder, changed, edition=1)
        servers = [stack.enter_context(serving(store, watch=watch, queue_seconds=PATIENCE)) for watch in (WATCH, None)]
        seen, stop = Seen(), threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(_ask, servers[i % 2].url, seen, stop) for i in range(CLIENTS)]
            try:
                _change(store, folder, changed, servers[1], until=time.monotonic() + seconds, asking=asking)
            finally:
                stop.set()
        for one in asking:
            one.result()
    require_consistent(seen.replies, changed.editions)
    return _report(seen, changed, settings={
        "seconds": seconds, "clients": CLIENTS, "watch": WATCH, "stamped documents": STAMPED,
        "retrieve_k": RETRIEVE_K, "keep_k": KEEP_K, "model": "default", "corpus": corpus.name,
    })  # fmt: skip


def stamped(edition: int) -> list[dict[str, str]]:
    """The documents that say which edition the store is of."""
    return [
        {"id": f"stamp-{i}", "title": "Stamp", "text": f"{QUESTION} copy{i} edition {edition}."} for i in range(STAMPED)
    ]


def edition_of(texts: Iterable[str]) -> int:
    """The edition that all passages of a reply are of.

    Raises:
        Inconsistent: they are of several, or of none.
    """
    found = {int(text.rsplit("edition ", 1)[1].rstrip(".")) for text in texts if "edition " in text}
    if len(found) != 1:
        raise Inconsistent(f"a reply has passages of editions {sorted(found)}")
    return found.pop()


def require_consistent(replies: Iterable[tuple[int, int]], editions: dict[int, int]) -> None:
    """Raises Inconsistent unless each reply is of the edition that its generation has."""
    for generation, edition in replies:
        if editions.get(generation) != edition:
            raise Inconsistent(
                f"a reply names generation {generation}, of edition {editions.get(generation)}, and has passages of "
                f"edition {edition}"
            )


# --- clients --------------------------------------------------------------------------------------------------


def _ask(url: str, seen: Seen, stop: threading.Event) -> None:
    """Asks in all ways until told to stop; a failed request raises."""
    with Client(url, timeout=300, retries=0) as client:
        while not stop.is_set():
            begin = time.perf_counter()
            one = client.answer(QUESTION, retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS)
            took = (time.perf_counter() - begin) * 1e3
            batch = client.answer_batch([QUESTION] * 3)
            found = client.retrieve(QUESTION, retrieve_k=RETRIEVE_K)
            answers = [item.answer for item in batch.items if item.answer is not None]
            if len(answers) != len(batch.items):
                raise Inconsistent(f"questions of a batch failed: {[i.problem for i in batch.items]}")
            if len({answer.store.generation for answer in answers}) != 1:
                raise Inconsistent("a batch was answered from several generations")
            with seen.lock:
                seen.latencies.append(took)
                for reply in (one, *answers, found):
                    seen.replies[reply.store.generation, edition_of(p.text for p in reply.passages)] += 1
                    seen.first.setdefault((url, reply.store.generation), time.monotonic())


# --- the builder ----------------------------------------------------------------------------------------------


def _change(
    store: Path, folder: Path, changed: Changed, hung_up: Server, *, until: float, asking: list[Any]
) -> None:  # fmt: skip
    """Changes the store until the time has come, or a client has failed."""
    rng = random.Random(0)
    edition = 1
    while time.monotonic() < until and not any(one.done() for one in asking):
        kind = rng.choices(["add", "delete", "compact", "rollback", "forget"], [6, 2, 1, 2, 1])[0]
        match kind:
            case "add":
                edition += 1
                _add(store, folder, changed, edition=edition)
            case "delete":
                before = _current(store)
                report = _memstore("delete", "--store", store, "--id", f"filler-{edition}-{rng.randrange(FILLERS)}")
                _note(changed, report["generation"], changed.editions[before])
            case "compact":
                before = _current(store)
                report = _memstore("compact", "--store", store)
                _note(changed, report["generation"], changed.editions[before])
            case "rollback":
                there = [g["generation"] for g in _memstore("generations", "--store", store)["generations"]]
                report = _memstore("rollback", "--store", store, "--to", rng.choice(there))
                _note(changed, report["generation"], changed.editions[report["generation"]])
            case _:
                _memstore("forget", "--store", store, "--keep", 3)
        changed.kinds[kind] += 1
        hung_up.process.send_signal(signal.SIGHUP)


def _add(store: Path, folder: Path, changed: Changed, *, edition: int) -> None:
    """Replaces all stamped documents, and adds some that only later deletions care for."""
    fillers = [{"id": f"filler-{edition}-{i}", "text": f"Nothing of note, {edition} and {i}."} for i in range(FILLERS)]
    corpus = folder / "changed.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in [*stamped(edition), *fillers]), encoding="utf-8")
    report = _memstore("add", "--store", store, "--corpus", corpus, "--format", "jsonl")
    _note(changed, report["generation"], edition)


def _note(changed: Changed, generation: int, edition: int) -> None:
    changed.editions[generation] = edition
    changed.times.setdefault(generation, time.monotonic())


def _current(store: Path) -> int:
    listed = _memstore("generations", "--store", store)["generations"]
    return next(int(g["generation"]) for g in listed if g["in_force"])


def _memstore(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "memstore", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Inconsistent(f"{' '.join(map(str, arguments))} failed: {done.stderr.strip()}")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


# --- report ---------------------------------------------------------------------------------------------------


def _report(seen: Seen, changed: Changed, *, settings: dict[str, float | int | str]) -> Report:
    delays = [
        max(0.0, first - changed.times[generation]) * 1e3
        for (_, generation), first in seen.first.items()
        if generation in changed.times
    ] or [0.0]
    return Report(
        name="replicas",
        claim="two servers on a store that is changed: no request fails, and no reply mixes generations",
        settings=settings,
        ratios=[],
        times={"answers": {TOTAL: summary(seen.latencies)}, "until answered from": {TOTAL: summary(delays)}},
        figures={
            "replies": sum(seen.replies.values()),
            "failed requests": 0,
            "replies that mix generations": 0,
            "generations seen": len({generation for generation, _ in seen.replies}),
            "generations made": len(changed.editions),
            "answers, 95th percentile in ms": percentile(seen.latencies, 0.95),
        },
        rows=[{"change": kind, "times": count} for kind, count in sorted(changed.kinds.items())],
    )
