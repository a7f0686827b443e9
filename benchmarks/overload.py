"""A server that is asked ten times as much as it can do: how many are answered in time, and how soon others hear no.

One `memstore serve` with its default settings runs over a store built in the run. First clients that wait for their
answers measure what it can do. Then questions arrive at ten times that rate, whether it answers or not, each with a
deadline; meanwhile somebody asks `/health` ten times a second. Clients are one process beside the server, on the same
machine, and speak plain HTTP over sockets that they keep.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.common import TOTAL, Options, Ratio, Report, percentile, summary
from benchmarks.inputs import corpus_file, questions_of
from benchmarks.serving import Server, built_store, serving
from memstore_builders.corpus import open_corpus

PASSAGES, SECONDS, TIMES = 2000, 20.0, 10
DEADLINES = (500, 2000, None)  # milliseconds
CLIENTS = 16  # that measure what the server can do
ALONE = 30  # questions of one client, before and after
RETRIEVE_K, KEEP_K, NEW_TOKENS = 40, 10, 16


@dataclass(slots=True)
class Seen:
    """What became of the requests: milliseconds of each by status, and `health`'s."""

    by_status: dict[int, list[float]] = field(default_factory=dict)
    health: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, status: int, milliseconds: float) -> None:
        """One more."""
        self.by_status.setdefault(status, []).append(milliseconds)

    @property
    def answered(self) -> list[float]:
        """Milliseconds of the answers."""
        return self.by_status.get(200, [])

    @property
    def per_second(self) -> float:
        """Answers."""
        return len(self.answered) / self.seconds


class Connections:
    """Requests over sockets that are kept, one request at a time on each; status 0 where the server hung up."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._place = (parts.hostname, parts.port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, path: str, body: dict[str, object] | None = None) -> tuple[int, float]:
        """The status, and milliseconds until the whole reply was there."""
        begin = time.perf_counter()
        content = b"" if body is None else json.dumps(body).encode()
        kept = bool(self._free)
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: m\r\nContent-Length: {len(content)}\r\n"
        try:
            reader, writer = self._free.pop() if kept else await asyncio.open_connection(*self._place)
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(int(one[15:]) for one in answer.split("\r\n") if one.startswith("content-length:"))
            await reader.readexactly(length)
        except (OSError, EOFError):
            if kept:  # the server closes what was silent for some seconds
                return await self.ask(path, body)
            return 0, (time.perf_counter() - begin) * 1e3
        self._free.append((reader, writer))
        return int(answer.split()[1]), (time.perf_counter() - begin) * 1e3

    def close(self) -> None:
        """Closes all that are free."""
        for _, writer in self._free:
            writer.close()


def run(options: Options) -> Report:
    """Measure what the server can do, and what it does when asked for ten times as much."""
    seconds = 1.0 if options.quick else options.seconds or SECONDS
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        corpus = corpus_file(options, Path(name), documents=PASSAGES)
        limit = 64 if options.quick else PASSAGES
        store = built_store(corpus, Path(name) / "store", limit=limit)
        passages = list(open_corpus([corpus], limit=limit))
        questions = questions_of(passages[:: max(1, len(passages) // 200)])
        with serving(store) as server:
            return asyncio.run(_measured(server, questions, seconds, quick=options.quick))


async def _measured(server: Server, questions: Sequence[str], seconds: float, *, quick: bool) -> Report:
    connections, alone = Connections(server.url), 2 if quick else ALONE
    try:
        before = await _closed(connections, questions, clients=1, most=alone)
        capacity = await _closed(connections, questions, clients=CLIENTS, seconds=seconds)
        memory, floods = [_megabytes(server)], dict[str, Seen]()
        for deadline in DEADLINES:
            case = "no deadline" if deadline is None else f"{deadline} ms"
            rate = TIMES * capacity.per_second
            floods[case] = await _flood(connections, questions, rate=rate, seconds=seconds, deadline=deadline)
            memory.append(_megabytes(server))
        after = await _closed(connections, questions, clients=1, most=alone)
    finally:
        connections.close()
    each = {"one client, before": before, f"{CLIENTS} clients": capacity, **floods, "one client, after": after}
    return Report(
        name="overload",
        claim="answers/s in time of a server asked ten times as much as it can do, over what it can do",
        settings={"seconds": seconds, "times": TIMES, "clients": CLIENTS, "retrieve_k": RETRIEVE_K, "keep_k": KEEP_K,
                  "new_tokens": NEW_TOKENS, "model": "default", "settings": "the server's defaults"},
        ratios=[
            *(_share(f"goodput, {case}", seen.per_second / capacity.per_second) for case, seen in floods.items()),
            _share("one client, before over after", _median(before.answered) / _median(after.answered)),
        ],
        times={case: {TOTAL: summary(seen.answered or [math.nan])} for case, seen in each.items()},
        figures={"memory before, MB": memory[0], "memory after each, MB": ", ".join(f"{m:.0f}" for m in memory[1:])},
        rows=[_row(case, seen) for case, seen in each.items()],
    )  # fmt: skip


async def _closed(
    connections: Connections,
    questions: Sequence[str],
    *,
    clients: int,
    seconds: float = math.inf,
    most: float = math.inf,
) -> Seen:
    """Clients that each ask the next question when they have an answer."""
    seen, begin, rest = Seen(), time.perf_counter(), iter(range(10**9))

    async def client() -> None:
        while time.perf_counter() - begin < seconds and (at := next(rest)) < most:
            seen.note(*await connections.ask("/answer", _body(questions[at % len(questions)], None)))

    await asyncio.gather(*(client() for _ in range(clients)))
    seen.seconds = time.perf_counter() - begin
    return seen


async def _flood(
    connections: Connections, questions: Sequence[str], *, rate: float, seconds: float, deadline: int | None
) -> Seen:
    """Questions that arrive at a rate, whatever becomes of those before."""
    seen, begin, asked = Seen(), time.perf_counter(), set[asyncio.Task[None]]()

    async def ask(at: int) -> None:
        seen.note(*await connections.ask("/answer", _body(questions[at % len(questions)], deadline)))

    async def look() -> None:
        while time.perf_counter() - begin < seconds:
            seen.health.append((await connections.ask("/health"))[1])
            await asyncio.sleep(0.1)

    looking, done = asyncio.create_task(look()), 0
    while (now := time.perf_counter() - begin) < seconds:
        due = int(now * rate) + 1
        for at in range(done, due):
            task = asyncio.create_task(ask(at))
            asked.add(task)
            task.add_done_callback(asked.discard)
        done = due
        await asyncio.sleep(1 / rate)
    await asyncio.gather(looking, *asked)
    seen.seconds = time.perf_counter() - begin  # what waits at the end is answered too
    return seen


def _body(question: str, deadline: int | None) -> dict[str, object]:
    body = {"question": question, "retrieve_k": RETRIEVE_K, "keep_k": KEEP_K, "max_new_tokens": NEW_TOKENS}
    return body if deadline is None else {**body, "deadline_ms": deadline}


def _row(case: str, seen: Seen) -> dict[str, float | int | str]:
    counts = Counter({status: len(times) for status, times in seen.by_status.items()})
    admitted = counts[200] + counts[504]
    return {
        "case": case,
        "answered": counts[200],
        "answers/s": seen.per_second,
        "median, ms": _median(seen.answered),
        "99th percentile, ms": _p99(seen.answered),
        "503": counts[503],
        "503, 99th percentile, ms": _p99(seen.by_status.get(503, [])),
        "504": counts[504],
        "in time, % of admitted": 100 * counts[200] / max(1, admitted),
        "other": sum(counts.values()) - admitted - counts[503],
        "/health, 99th percentile, ms": _p99(seen.health),
    }


def _share(name: str, value: float) -> Ratio:
    return Ratio(name=name, value=value, low=value, high=value)


def _median(values: Sequence[float]) -> float:
    return summary(values)["median"] if values else math.nan


def _p99(values: Sequence[float]) -> float:
    return percentile(values, 0.99) if values else math.nan


def _megabytes(server: Server) -> float:
    """The memory that the server has in use."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1e3
