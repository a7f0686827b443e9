"""`memstore compact`: a store as one build would have made it of the documents that are left. Encodes nothing.

Live passages are copied in the order of their documents, still encoded; one that came to life when an earlier
duplicate died goes where its own document has it. Segments that are whole stay. The search indexes are built from
scratch, so that nothing of them counts what is dead. Then all other generations are forgotten, and the bytes of what
was deleted are gone, unless a reader holds a generation that still has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from memstore.storage import as_url
from memstore.store import Generation, SegmentRef, Store, publish
from memstore.store.contents import Contents
from memstore.store.copying import copy_passages, empty_segment, one_codec
from memstore.store.deletions import write_dead
from memstore.store.duplicates import Duplicate
from memstore.store.history import Forgotten, forget_locked
from memstore.store.working import sweep
from memstore_builders.add import vectors_made_by
from memstore_builders.change import Change, made_by, opened_change
from memstore_builders.index import build_index, fields_of
from memstore_builders.progress import Progress
from memstore_builders.segments import SEGMENT_SHARDS


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport:
    """What was done. `in_use`: generations that readers hold, so that their bytes are still there."""

    store: str
    generation: int
    passages: int
    segments: int
    segments_kept: int
    segments_written: int
    already_compact: bool
    in_use: tuple[int, ...]
    bytes_freed: int
    seconds: Mapping[str, float]


Item = int | Duplicate
"""What a place in the order of passages holds: a row, or a record of one left out."""


@dataclass(slots=True)
class _Block:
    """Items that become segments; or a segment that stays, whose items they are."""

    items: list[Item]
    kept: SegmentRef | None = None

    @property
    def rows(self) -> int:
        return sum(isinstance(item, int) for item in self.items)


def compact(path: Path, progress: Progress | None = None) -> CompactReport:
    """Write what is alive into full segments, build the indexes again, and forget all earlier generations.

    Memory: one encoded shard a few times, Tantivy's heap, and 60 bytes per passage.

    Raises:
        StoreNotFound, StoreCorrupt: there is no store; something in it is damaged.
        ConfigError: another process is changing the store, or it cannot be written.
        DiskSpaceError: the disk is full: until it is done, both the old and the new are there.
    """
    report = _compact(path, progress)
    return report if as_url(path) is None else dataclasses.replace(report, bytes_freed=sweep(path))


def _compact(path: Path, progress: Progress | None) -> CompactReport:
    with opened_change(path, progress) as change:
        generation, kept = change.store.generation, len(change.store.generation.segments)
        kind = generation.change.get("kind", "build")
        done = kind == "compact" or (kind == "build" and not generation.dead)
        if not done:
            generation, kept = _rewrite(change)
        change.store.close()
        with change.timed("forget"):
            forgotten = forget_locked(change.path, keep=1)
        return _report(change, generation, kept, forgotten, done=done)


def _rewrite(change: Change) -> tuple[Generation, int]:
    old, most = change.store.generation, change.shard * SEGMENT_SHARDS
    with change.timed("segments"):
        blocks = _blocks(change.contents, most)
        change.progress.begin("copy", sum(block.rows for block in blocks if block.kept is None))
        refs = [ref for block in blocks for ref in _written(change, block, most)]
        change.progress.end()
        refs = refs or [_nothing(change)]
    generation = dataclasses.replace(
        old,
        number=change.number,
        segments=tuple(refs),
        passages=sum(ref.passages for ref in refs),
        tokens=sum(ref.tokens for ref in refs),
        deleted=(),
        index=None,
        ids=None,
        ids_passages=None,
        change={"kind": "compact", "of": old.number},
        made_by=made_by(),
    )
    with change.timed("index"):
        change.progress.begin("index", generation.passages)
        dim = change.store.segment(0).seal.embedding_dim
        index = build_index(
            Store(change.path, generation),
            kind=old.retriever,
            encoder=vectors_made_by(change.store),
            dim=dim,
            skipped=frozenset() if generation.live else frozenset([0]),
            metadata=bool(old.metadata),
            tick=change.progress.advance,
        )
        change.progress.end()
    with change.timed("publish"):
        fields = fields_of(change.path, change.number, index)
        published = publish(change.path, dataclasses.replace(generation, index=index, metadata=fields))
    return published, sum(block.kept is not None for block in blocks)


def _nothing(change: Change) -> SegmentRef:
    """The segment of a store in which nothing is alive."""
    ref = empty_segment(change.store, segment_id=change.name())
    dead = write_dead(change.path, ref, [0], lengths=np.zeros(1, dtype=np.int32), number=change.number)
    return dataclasses.replace(ref, dead=dead)


def ordered(contents: Contents) -> Iterator[tuple[int, list[Item]]]:
    """What is alive of each segment, in the order in which one build would have it: (segment number, items).

    A row that came to life is where its record was, and no longer where it was copied to.
    """
    moved: set[int] = set()
    for number, (start, end) in enumerate(pairwise(contents.starts)):
        alive = [(i, d) for i, d in enumerate(contents.records[number]) if i not in contents.dead_records[number]]
        items: list[Item] = []
        at = 0
        for _, duplicate in alive:
            items += _rows(contents, start + at, start + duplicate.before, moved)
            at = duplicate.before
            revived = contents.live_row(duplicate.passage.id)
            if revived is None:
                items.append(duplicate)
            else:
                moved.add(revived)
                items.append(revived)
        items += _rows(contents, start + at, end, moved)
        yield number, items


def _rows(contents: Contents, first: int, last: int, moved: set[int]) -> list[int]:
    return [row for row in range(first, last) if not contents.dead[row] and row not in moved]


def _blocks(contents: Contents, most: int) -> list[_Block]:
    """Segments that stay, and between them what is to be written; records alone go to a neighbour."""
    blocks: list[_Block] = []
    for number, items in ordered(contents):
        ref, start = contents.store.generation.segments[number], contents.starts[number]
        rows = [item for item in items if isinstance(item, int)]
        records = len(items) - len(rows)
        whole = rows == list(range(start, start + ref.passages)) and records == len(contents.records[number])
        if whole and ref.passages * 2 >= most and not (blocks and blocks[-1].kept is None and not blocks[-1].rows):
            blocks.append(_Block(items, dataclasses.replace(ref, dead=None)))
        elif blocks and blocks[-1].kept is None:
            blocks[-1].items += items
        elif items:
            blocks.append(_Block(items))
    if len(blocks) > 1 and not blocks[-1].rows:
        last = blocks.pop()
        blocks[-1].kept = None
        blocks[-1].items += last.items
    return blocks


def _written(change: Change, block: _Block, most: int) -> Iterator[SegmentRef]:
    """The segments of a block, each of `most` passages but for the last."""
    if block.kept is not None:
        yield block.kept
        return
    rows: list[int] = []
    duplicates: list[Duplicate] = []
    for item in block.items:
        if isinstance(item, Duplicate):
            duplicates.append(dataclasses.replace(item, before=len(rows)))
            continue
        if len(rows) == most or (rows and one_codec(change.store, [rows[-1], item], 2) == 1):
            yield _copy(change, rows, duplicates)
            rows, duplicates = [], []
        rows.append(item)
    if rows:
        yield _copy(change, rows, duplicates)


def _copy(change: Change, rows: list[int], duplicates: list[Duplicate]) -> SegmentRef:
    ref = copy_passages(
        change.store, rows, segment_id=change.name(), shard_passages=change.shard, duplicates=duplicates
    )
    change.progress.advance(len(rows))
    return ref


def _report(change: Change, generation: Generation, kept: int, forgotten: Forgotten, *, done: bool) -> CompactReport:
    return CompactReport(
        store=as_url(change.place) or str(change.place),
        generation=generation.number,
        passages=generation.live,
        segments=len(generation.segments),
        segments_kept=kept,
        segments_written=len(generation.segments) - kept,
        already_compact=done,
        in_use=forgotten.in_use,
        bytes_freed=forgotten.bytes_freed,
        seconds=change.seconds,
    )
