"""Times each system on one question at a time, all systems in turns within one process.

Memories are made beforehand, for systems that have any; neither loading them from a store nor retrieval is timed. FiD
has none: encoding its passages is timed. This is the plain twin of `memstore.compare.measure`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from memstore import decode
from memstore.compare.config import GridTable, Point
from memstore.compare.measure import System, points_of
from memstore.model import selection
from memstore.model.model import Encoded, MemoryModel
from memstore.model.packed import Packed, Tokens
from memstore.model.ranking import Ranked, rank
from memstore.train.data.batch import DevBatch


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One model with one question: tokens, passages, and memories of the first r candidates for each r of the grid."""

    model: MemoryModel
    question: Tokens
    passages: dict[int, Tokens]
    memories: dict[int, Packed]  # empty for FiD

    def remember(self, retrieve_k: int) -> Packed:
        """The memories, which FiD encodes only now."""
        return self.memories[retrieve_k] if self.memories else self.model.encode_passages(self.passages[retrieve_k])


@dataclass(frozen=True, slots=True)
class Ready:
    """A system with one question."""

    reader: _Prepared
    ranker: _Prepared | None


@torch.inference_mode()
def prepare(system: System, batch: DevBatch, points: Sequence[Point]) -> Ready:
    """All that exists before the question is asked, which is not timed. `batch` has one question."""
    retrieve_ks = sorted({p.retrieve_k for p in points})
    task = batch.tasks[0]
    ranker = None if system.reranker is None else _prepare(system.reranker.model(task), batch, retrieve_ks)
    return Ready(_prepare(system.model(task), batch, retrieve_ks), ranker)


def _prepare(model: MemoryModel, batch: DevBatch, retrieve_ks: Sequence[int]) -> _Prepared:
    rows = torch.split(batch.passages.ids, batch.passages.layout.lengths.tolist())
    passages = {r: Tokens.of(list(rows[:r])).to(model.device) for r in retrieve_ks}
    offline = model.config.num_memory_layers > 0
    memories = {r: model.encode_passages(tokens) for r, tokens in passages.items()} if offline else {}
    return _Prepared(model, batch.questions.to(model.device), passages, memories)


@torch.inference_mode()
def encode(ready: Ready, point: Point) -> Encoded:
    """Everything from the question to the input of the decoder, as in real answering."""
    reader, ranker = ready.reader, ready.ranker
    model = reader.model
    if ranker is None:
        memories = reader.remember(point.retrieve_k)
        ranked = _ranked(reader, memories)
        return model.live_b(ranked.take(selection.select(ranked.order(), ranked.rows.question_of, point.keep_k)))
    seen = ranker.remember(point.retrieve_k)
    ranked = _ranked(ranker, seen)
    kept = selection.select(ranked.order(), ranked.rows.question_of, point.keep_k)
    memories = reader.remember(point.retrieve_k).take(kept)
    return model.live_b(model.live_a(model.encode_question(reader.question), memories, _zeros(memories)))


def _ranked(prepared: _Prepared, memories: Packed) -> Ranked:
    """A model's rows for its question."""
    model = prepared.model
    return rank(model, model.encode_question(prepared.question), memories, _zeros(memories))


def answer(ready: Ready, point: Point, *, max_new_tokens: int) -> list[int]:
    """The answer's token ids."""
    return _decode(ready, encode(ready, point), max_new_tokens)


def _decode(ready: Ready, encoded: Encoded, max_new_tokens: int) -> list[int]:
    model = ready.reader.model
    padding = [model.config.pad_token_id]
    (line,) = decode.generate(model, encoded, max_new_tokens=max_new_tokens, banned=padding)
    return line.ids


def _zeros(memories: Packed) -> Tensor:
    return torch.zeros(memories.layout.rows, dtype=torch.int64)


# --- in turns -----------------------------------------------------------------------------------------------


def take_times(systems: Sequence[System], batches: Iterable[DevBatch], grid: GridTable) -> Iterator[dict[str, Any]]:
    """Time every system at each of its points. Yields the times so far after each question.

    All systems and points take turns at a question: once without counting, then `repeats` times. The median is kept.

    Args:
        systems: the systems to compare.
        batches: of one question each.
        grid: the grid.
    """
    points = {s.name: points_of(s, grid) for s in systems}
    turns = [(s.name, p) for s in systems for p in points[s.name]]
    found: dict[str, Any] = {
        "tasks": [],
        "systems": {
            name: [{"retrieve_k": p.retrieve_k, "keep_k": p.keep_k, "ms": [], "ms_encode": []} for p in own]
            for name, own in points.items()
        },
    }
    for batch in batches:
        ready = {s.name: prepare(s, batch, points[s.name]) for s in systems}
        taken: dict[tuple[str, Point], list[tuple[float, float]]] = {turn: [] for turn in turns}
        for repeat in range(grid.repeats + 1):
            for name, point in turns:
                milliseconds = _timed(ready[name], point, grid.max_new_tokens)
                if repeat:  # the first turn warms caches up
                    taken[name, point].append(milliseconds)
        found["tasks"] += batch.tasks
        for (name, point), times in taken.items():
            own = found["systems"][name][points[name].index(point)]
            own["ms"].append(round(median(t[0] for t in times), 4))
            own["ms_encode"].append(round(median(t[1] for t in times), 4))
        yield found


def _timed(ready: Ready, point: Point, max_new_tokens: int) -> tuple[float, float]:
    """The milliseconds of one answer, and those before its decoding."""
    device = ready.reader.model.device
    begin = time.perf_counter()
    encoded = encode(ready, point)
    _wait(device)
    middle = time.perf_counter()
    _decode(ready, encoded, max_new_tokens)
    _wait(device)
    return (time.perf_counter() - begin) * 1e3, (middle - begin) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
