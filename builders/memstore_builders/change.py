"""One change of a store, from the writer's lock to CURRENT: a new generation, or nothing.

    1. what a killed change of the same number left is removed
    2. the caller counts documents out, copies and encodes passages into new segments   out/segments/g<number>-<i>/
    3. small segments at the end are joined, row by row
    4. index, of the earlier one's files and what is new                                out/index/<number>/
    5. lists of dead rows, id index, generation, CURRENT

Until CURRENT is replaced, the earlier generation is in force. Knows no corpus and no model; `add.py` does.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import memstore
from memstore.errors import MemstoreError
from memstore.passage import Passage
from memstore.storage import as_url
from memstore.store import Generation, SegmentRef, Store, segment_path
from memstore.store.codec_tables import segment_codec
from memstore.store.contents import Contents, DocumentPlaces
from memstore.store.copying import copy_passages, one_codec
from memstore.store.current import read_current
from memstore.store.deletions import read_dead, write_dead
from memstore.store.duplicates import Duplicate, read_duplicates
from memstore.store.format import lookups_path
from memstore.store.history import dead_bytes, next_number, remove_unfinished
from memstore.store.holding import only_writer, writing
from memstore.store.publish import publish_change
from memstore.store.segment import Readers, open_segment, read_seal
from memstore.store.working import changing
from memstore_builders.index import change_index, fields_of
from memstore_builders.progress import Progress, Silent
from memstore_builders.segments import SEGMENT_SHARDS, shard_passages

FAN = 8
"""Segments of a size that are joined: each passage is copied once for every factor of eight that its segment grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReport:
    """What a change did.

    Attributes:
        generation: the one in force afterwards; the earlier one's number where there was nothing to change.
        added, replaced, unchanged, skipped, deleted: documents. `skipped` were there and left alone, as asked.
        not_found: documents to delete that were not there; the first of them in `missing`.
        passages: live ones afterwards.
        passages_written: encoded or copied; `passages_died` those that are no longer in the collection.
        rows_skipped, errors: rows of the corpus that could not be used.
        segments: afterwards.
        dead_bytes: about what `memstore compact` would free.
        seconds: by stage.
    """

    kind: str
    store: str
    generation: int
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0
    deleted: int = 0
    not_found: int = 0
    missing: tuple[str, ...] = ()
    passages: int = 0
    passages_written: int = 0
    passages_died: int = 0
    rows_skipped: int = 0
    errors: tuple[str, ...] = ()
    segments: int = 0
    dead_bytes: int = 0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(slots=True)
class _Part:
    """A segment of the generation that is being made, with its dead rows (places of duplicates above them)."""

    ref: SegmentRef
    dead: npt.NDArray[np.int64]
    changed: bool


class Change:
    """A change under way; `opened_change` makes it. Its segments come into force by `publish` alone."""

    def __init__(self, path: Path, progress: Progress, *, place: Path) -> None:
        self.path, self.progress, self.place = path, progress, place
        self.seconds: dict[str, float] = {}
        self.number = next_number(path)
        remove_unfinished(path, self.number)
        self.store = Store.open(path)
        with self.timed("look up"):
            self.contents = Contents(self.store)
        first = self.store.segment(0)
        self.shard = shard_passages(first.codec, d_model=first.seal.d_model, max_tokens=first.seal.max_tokens)
        self.killed = np.empty(0, dtype=np.int64)
        self.skipped: frozenset[int] = frozenset()
        self._new: list[SegmentRef] = []
        self._names = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the seconds of a stage."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

    def name(self) -> str:
        """The id of the next new segment."""
        self._names += 1
        return f"g{self.number:06d}-{self._names - 1:05d}"

    @property
    def written(self) -> int:
        """Rows of the new segments."""
        return sum(ref.passages for ref in self._new)

    def append(self, ref: SegmentRef) -> None:
        """A new segment after all others."""
        self._new.append(ref)

    def kill(self, documents: Sequence[DocumentPlaces]) -> list[Passage]:
        """Count documents out, and copy the passages that come to life by that; returns these."""
        self.killed = self.contents.kill(documents)
        heirs = self.contents.heirs(self.killed)
        left = heirs
        while left:
            count = one_codec(self.store, [row for row, _ in left], self.shard * SEGMENT_SHARDS)
            rows, passages = zip(*left[:count], strict=True)
            left = left[count:]
            ref = copy_passages(
                self.store, rows, segment_id=self.name(), shard_passages=self.shard, passages=list(passages)
            )
            self.append(ref)
        return [passage for _, passage in heirs]

    def publish(self, kind: str, counts: Mapping[str, int]) -> Generation:
        """Put the change in force.

        Raises:
            StoreCorrupt: something it needs is damaged or missing.
            OSError: the system refuses to write.
        """
        of = self.store.generation
        with self.timed("segments"):
            parts = self._joined(self._parts())
        generation = dataclasses.replace(
            of,
            number=self.number,
            segments=tuple(part.ref for part in parts),
            passages=sum(part.ref.passages for part in parts),
            tokens=sum(part.ref.tokens for part in parts),
            deleted=(),
            index=None,
            ids=None,
            ids_passages=None,
            change={"kind": kind, "of": of.number, **counts},
            made_by=made_by(),
        )
        with self.timed("index"):
            self.progress.begin("index", None)
            new = Store(self.path, generation)
            by_id = [row for rows in self.store.rows_of_ids(of.deleted) for row in rows]  # its index has them alive
            killed = sorted({*self.killed.tolist(), *by_id})
            index = change_index(self.store, new, killed=killed, skipped=self.skipped)
            self.progress.end()
        with self.timed("publish"):
            refs = tuple(self._with_dead(part) for part in parts)
            fields = fields_of(self.path, self.number, index)
            made = dataclasses.replace(generation, segments=refs, index=index, metadata=fields)
            published = publish_change(self.path, made, of=of)
        self._remove_joined(published)
        return published

    def _parts(self) -> list[_Part]:
        parts = []
        for number, ref in enumerate(self.store.generation.segments):
            begin, end = self.contents.starts[number : number + 2]
            rows = np.flatnonzero(self.contents.dead[begin:end])
            records = ref.passages + np.asarray(sorted(self.contents.dead_records[number]), dtype=np.int64)
            dead = np.concatenate([rows, records]).astype(np.int64)
            parts.append(_Part(ref, dead, changed=len(dead) != len(read_dead(self.path, ref))))
        start = len(self.store)
        for ref in self._new:
            dead = np.asarray([r - start for r in sorted(self.skipped) if start <= r < start + ref.passages], np.int64)
            parts.append(_Part(ref, dead, changed=bool(len(dead))))
            start += ref.passages
        return parts

    def _joined(self, parts: list[_Part]) -> list[_Part]:
        """Segments at the end that are small and many are joined, dead rows included: no row moves by that, so
        indexes need not know.
        """
        most = self.shard * SEGMENT_SHARDS
        while count := _to_join([part.ref.passages for part in parts], self._alike(parts), most):
            parts = [*parts[:-count], self._join(parts[:-count], parts[-count:])]
        return parts

    def _alike(self, parts: Sequence[_Part]) -> int:
        """How many segments at the end keep memories by the same codec, with the same tables."""
        last, count = None, 0
        for part in reversed(parts):
            folder = segment_path(self.path, part.ref.id)
            codec = segment_codec(folder, read_seal(folder, part.ref))
            if last not in (None, codec):
                break
            last, count = codec, count + 1
        return count

    def _join(self, before: Sequence[_Part], parts: Sequence[_Part]) -> _Part:
        refs = tuple(part.ref for part in (*before, *parts))
        total = sum(ref.passages for ref in refs)
        start = total - sum(part.ref.passages for part in parts)
        view = Store(self.path, dataclasses.replace(self.store.generation, segments=refs, passages=total, ids=None))
        duplicates: list[Duplicate] = []
        dead: list[npt.NDArray[np.int64]] = []
        dead_records: list[npt.NDArray[np.int64]] = []
        rows = 0
        for part in parts:
            folder = segment_path(self.path, part.ref.id)
            of_part = read_duplicates(folder, read_seal(folder, part.ref))
            is_row = part.dead < part.ref.passages
            dead.append(part.dead[is_row] + rows)
            dead_records.append(part.dead[~is_row] - part.ref.passages + len(duplicates))
            duplicates += [dataclasses.replace(d, before=d.before + rows) for d in of_part]
            rows += part.ref.passages
        joined = copy_passages(
            view, range(start, total), segment_id=self.name(), shard_passages=self.shard, duplicates=duplicates
        )
        records = np.concatenate(dead_records) + rows
        return _Part(joined, np.concatenate([*dead, records]), changed=True)

    def _with_dead(self, part: _Part) -> SegmentRef:
        if not part.changed:
            return part.ref
        if not len(part.dead):
            return dataclasses.replace(part.ref, dead=None)
        lengths = open_segment(self.path, part.ref, Readers()).lengths
        dead = write_dead(self.path, part.ref, part.dead.tolist(), lengths=lengths, number=self.number)
        return dataclasses.replace(part.ref, dead=dead)

    def _remove_joined(self, published: Generation) -> None:
        """New segments that were joined at once are nobody's."""
        used = {ref.id for ref in published.segments}
        for i in range(self._names):
            name = f"g{self.number:06d}-{i:05d}"
            if name not in used:
                shutil.rmtree(segment_path(self.path, name), ignore_errors=True)
                lookups_path(self.path, name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was written, unless it was published by now."""
        if read_current(self.path).last < self.number:
            remove_unfinished(self.path, self.number)

    def report(self, kind: str, generation: Generation, **counts: Any) -> ChangeReport:
        """What was done."""
        return ChangeReport(
            kind=kind,
            store=as_url(self.place) or str(self.place),
            generation=generation.number,
            passages=generation.live,
            passages_written=self.written,
            passages_died=len(self.killed),
            segments=len(generation.segments),
            dead_bytes=dead_bytes(generation),
            seconds=self.seconds,
            **counts,
        )


@contextmanager
def opened_change(path: Path, progress: Progress | None) -> Iterator[Change]:
    """A change of a store, under the writer's lock. An error discards it; what a killed process leaves, the next does.

    Raises:
        StoreNotFound: there is no finished store.
        ConfigError: another process is changing it, or it cannot be written.
        DiskSpaceError: the disk is full.
    """
    with changing(path) as folder, only_writer(folder), writing(folder):
        change = Change(folder, progress or Silent(), place=path)
        try:
            yield change
        except BaseException:
            with suppress(OSError, MemstoreError):  # the next change would do it, too
                change.discard()
            raise
        finally:
            change.store.close()


def delete(path: Path, ids: Sequence[str], progress: Progress | None = None) -> ChangeReport:
    """Delete documents: a new generation without them. Ids that are not there are counted, and no error.

    Raises:
        StoreNotFound, ConfigError, DiskSpaceError, StoreCorrupt: see `opened_change`; or something is damaged.
    """
    wanted = list(dict.fromkeys(ids))
    with opened_change(path, progress) as change:
        found = change.contents.documents(wanted)
        missing = [i for i in wanted if i not in found]
        counts = {"deleted": len(found), "not_found": len(missing)}
        generation = change.store.generation
        if found:
            change.kill(list(found.values()))
            generation = change.publish("delete", {"deleted": len(found)})
        return change.report("delete", generation, missing=tuple(missing[:20]), **counts)


def made_by() -> dict[str, str]:
    """Versions of what writes."""
    return {"memstore": memstore.__version__, "torch": torch.__version__, "python": platform.python_version()}


def _to_join(sizes: Sequence[int], alike: int, most: int) -> int:
    """How many segments at the end are to become one: those up to the last one's level, a power of `FAN`, if they are
    `FAN` or more, fit into `most` passages, and are among the last `alike`; else 0.
    """
    limit = 1
    while limit <= sizes[-1]:
        limit *= FAN
    count = total = 0
    for size in reversed(sizes[len(sizes) - alike :]):
        if size >= limit or total + size > most:
            break
        count, total = count + 1, total + size
    return count if count >= FAN else 0
