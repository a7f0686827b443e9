"""Reading a generation: memories by passage id, on the hot path of every question. Knows no model.

Rows (positions over the generation's segments, deleted passages included) are for indexes; they never leave
the reader, where a passage is known by its id.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from memstore.codec import ArraySpec, Codec
from memstore.errors import ChecksumMismatch, ConfigError, IndexCorrupt, MemstoreError, PassageNotFound
from memstore.fingerprint import Fingerprint
from memstore.passage import Passage, StoredPassage
from memstore.store.current import open_held
from memstore.store.deletions import Rows, read_dead
from memstore.store.format import Generation, hash_file, ids_path
from memstore.store.holding import Held
from memstore.store.ids import Uint64, candidates, open_npy, sort_hashes
from memstore.store.memories import Memories, in_order
from memstore.store.mirror import mirror_at
from memstore.store.publish import remove_other_generations
from memstore.store.segment import Readers, Segment, ShardReader, open_segment
from memstore.store.texts import PassageReader


class Store:
    """One generation of a store, open for reading. Safe to use from several threads.

    Segments are opened when a read first touches them. Memory: 4 bytes per passage of opened segments
    (lengths), the indexes of the shards used last, and a cache of `arrays.CACHE_BYTES`; passages and id
    index are memory-mapped. Of a store that was changed, a byte per passage too, and the id index of its newest ones.

    While it is open, its generation is not removed by `memstore forget` and `compact`; see `close`.
    """

    def __init__(self, path: Path, generation: Generation, *, shard_reader: ShardReader = "direct") -> None:
        """View `generation`, which need not be published: an index is built over it before it is.

        `Store.open` is for everybody else.
        """
        self.path, self.place, self.generation = path, path, generation
        self._bounds = [0, *itertools.accumulate(s.passages for s in generation.segments)]
        self._starts = np.asarray(self._bounds, dtype=np.int64)
        self._held: Held | None = None
        self._elsewhere = mirror_at(path) is not None
        self._dead: npt.NDArray[np.bool_] | None = None
        self._readers = Readers(shard_reader=shard_reader)
        self._segments: dict[int, Segment] = {}
        self._ids: tuple[Uint64, ...] | None = None
        self._ids_verified = False
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path | str, *, generation: int | None = None, shard_reader: ShardReader = "direct") -> Self:
        """Open a store at the generation in force, or at a numbered one.

        `shard_reader` is what reads memories: `shards` ("direct"), or TensorStore, which gives the same.

        Raises:
            StoreNotFound: no store is at `path`, or it has no such generation.
            ChecksumMismatch, MissingData, StoreFormatError: a manifest is damaged, absent, or not understood.
        """
        folder, found, held = open_held(Path(path), generation)
        store = cls(folder, found, shard_reader=shard_reader)
        store.place, store._held = Path(path), held
        if generation is None and (mirror := mirror_at(folder)) is not None:
            with mirror.alone():  # what only earlier generations needed would fill the disk
                remove_other_generations(folder, found, keep_manifests=True)
        store._index()
        return store

    def close(self) -> None:
        """Let the generation be removed. Reads may fail from then on. A store nobody refers to is closed, too."""
        if self._held is not None:
            self._held.close()
            self._held = None

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the memories."""
        return self.generation.fingerprint

    @property
    def codec(self) -> Codec:
        """How the first segment's memories are kept, with the tables that decoding needs."""
        return self._segment(0).codec

    def codec_of(self, passage_id: str) -> Codec:
        """How one passage's memory is kept: segments may have tables of different fits.

        Raises:
            PassageNotFound: it is not in this generation.
        """
        [found] = self.find([passage_id])
        return self._segment(bisect_right(self._bounds, found.row) - 1).codec

    def __len__(self) -> int:
        """Rows, deleted passages included."""
        return self._bounds[-1]

    @property
    def live(self) -> int:
        """Passages in the collection: rows without the dead ones."""
        return self.generation.live

    def dead_rows(self) -> Rows:
        """Rows whose passages are no longer in the collection, ascending.

        Raises:
            StoreCorrupt: a list of them is damaged or missing.
        """
        return np.flatnonzero(self._dead_mask())

    def contains(self, passage_id: str) -> bool:
        """Whether the generation holds a passage of that id."""
        return self.look_up([passage_id])[0] is not None

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Passages in the order asked.

        Raises:
            PassageNotFound: an id is not in this generation.
            StoreCorrupt: data are damaged or missing; the subclass says how.
        """
        return [found.passage for found in self.find(ids)]

    def find(self, ids: Sequence[str]) -> list[StoredPassage]:
        """Passages with their rows, in the order asked; raises what `passages` does."""
        found = []
        for passage_id, stored in zip(ids, self.look_up(ids), strict=True):
            if stored is None:
                raise PassageNotFound(passage_id)
            found.append(stored)
        return found

    def at(self, rows: Sequence[int], *, to_load: bool = False) -> list[StoredPassage]:
        """The passages that an index over this generation found, in the order asked. If they are `to_load`, memories
        that are elsewhere are fetched along with the texts, in one round trip.

        Raises:
            IndexCorrupt: a row is outside the generation, or its passage is deleted: the index is of another one.
            StoreCorrupt: data are damaged or missing; the subclass says how.
        """
        found = list(map(StoredPassage, self._passages(self._checked(rows), to_load=to_load), rows))
        dead = self._dead_mask()
        for stored in found:
            if dead[stored.row]:
                raise IndexCorrupt(f"the index finds the deleted passage {stored.passage.id!r}; rebuild the index")
        return found

    def load(
        self,
        wanted: Sequence[str | StoredPassage],
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device = "cpu",
    ) -> Memories:
        """Memories in the order asked, which may name a passage several times.

        Args:
            wanted: ids, or what `find` or `at` gave, whose texts are not read again.
            dtype: of the states.
            device: where they are to be.

        Raises:
            PassageNotFound: an id is not in this generation.
            StoreCorrupt: data are damaged or missing; the subclass says how.
        """
        names = [w for w in wanted if isinstance(w, str)]
        named = iter(self.find(names) if names else ())
        found = [next(named) if isinstance(w, str) else w for w in wanted]
        segments, locals_ = self.locate(np.asarray([f.row for f in found], dtype=np.int64))
        lengths = self._lengths(segments, locals_)
        groups = self._by_codec(segments)
        parts = [self._decoded(segments[p], locals_[p], lengths[p], dtype=dtype, device=device) for p in groups]
        return parts[0] if len(parts) == 1 else in_order(groups, parts)

    def lengths(self, found: Sequence[StoredPassage]) -> list[int]:
        """Tokens of each passage's memory; nothing of it is read."""
        return self._lengths(*self.locate(np.asarray([f.row for f in found], dtype=np.int64))).tolist()  # type: ignore[no-any-return]

    def _lengths(self, segments: npt.NDArray[np.int64], locals_: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        lengths = np.zeros(len(segments), dtype=np.int64)
        for number in np.unique(segments).tolist():
            places = np.flatnonzero(segments == number)
            lengths[places] = self._segment(number).lengths[locals_[places]]
        return lengths

    def _by_codec(self, segments: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Positions in `segments`, by the codec that reads them: one group, unless codecs learned different tables."""
        groups: dict[int, list[int]] = {}
        for number in np.unique(segments).tolist():
            groups.setdefault(id(self._segment(number).codec), []).append(number)
        if len(groups) < 2:
            return [np.arange(len(segments))]
        return [np.flatnonzero(np.isin(segments, numbers)) for numbers in groups.values()]

    def _decoded(
        self,
        segments: npt.NDArray[np.int64],
        locals_: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        *,
        dtype: torch.dtype,
        device: str | torch.device,
    ) -> Memories:
        """Memories of rows that one codec reads."""
        first = self._segment(int(segments[0]) if len(segments) else 0)
        packed = self._pack(first.specs, segments, locals_, lengths)
        size = sum(a.nbytes for a in packed.values())
        token_ids = torch.from_numpy(packed.pop("token_ids").astype(np.int64)).to(device)
        states = first.codec.decode(packed, token_ids, dtype=dtype, device=device)
        return Memories(states, torch.from_numpy(lengths).to(device), token_ids, size)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Ids of rows, deleted passages included.

        Raises:
            IndexCorrupt: a row is outside the generation.
        """
        return [passage.id for passage in self._passages(self._checked(rows))]

    def iter_passages(self, start: int = 0) -> Iterator[Passage]:
        """All passages from a row on in row order, deleted ones included, so that position is row."""
        for number, begin in enumerate(self._bounds[:-1]):
            if self._bounds[number + 1] > start:
                yield from self._segment(number).passages.iter(max(0, start - begin))

    def iter_embeddings(self, start: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Vectors (n, dim) from a row on in row order, a shard at a time.

        Raises:
            ConfigError: the store was built without them.
        """
        for number, begin in enumerate(self._bounds[:-1]):
            if self._bounds[number + 1] <= start:
                continue
            segment = self._segment(number)
            if not segment.seal.embedding_dim:
                raise ConfigError(f"{self.path} has no passage vectors; build it with a dense or hybrid retriever")
            step = segment.seal.shard_passages
            for first in range(0, segment.seal.passages, step):
                last = min(first + step, segment.seal.passages)
                if begin + last > start:
                    yield segment.read_embeddings(max(first, start - begin), last)

    def passage_at(self, row: int) -> Passage:
        """The passage of a row, dead or not; for what changes stores."""
        return self._passage(row)

    def rows_of_ids(self, ids: Sequence[str]) -> list[list[int]]:
        """Rows of each passage id, dead ones included; for what changes stores."""
        return [[row for row in rows if self._passage(row).id == passage_id]
                for passage_id, rows in zip(ids, self._candidates(ids), strict=True)]  # fmt: skip

    def segment(self, number: int) -> Segment:
        """A segment of the generation, opened; for what changes stores.

        Raises:
            StoreCorrupt: it is damaged or missing; the subclass says how.
        """
        return self._segment(number)

    def open_segments(self) -> None:
        """Open all that reads would open, so that what is missing or damaged in it is found now; see `segment`."""
        self._dead_mask()
        for number in range(len(self.generation.segments)):
            self._segment(number)

    def _segment(self, number: int) -> Segment:
        with self._lock:
            if number not in self._segments:
                ref = self.generation.segments[number]
                self._segments[number] = open_segment(self.path, ref, self._readers)
            return self._segments[number]

    def locate(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows to (segment numbers, rows within them)."""
        segments = np.searchsorted(self._starts, rows, side="right").astype(np.int64) - 1
        return segments, rows - self._starts[segments]

    def _passage(self, row: int) -> Passage:
        number = bisect_right(self._bounds, row) - 1
        return self._segment(number).passages.passage(row - self._bounds[number])

    def _passages(self, rows: Sequence[int], *, to_load: bool = False) -> list[Passage]:
        """The passages of rows; those that are elsewhere are fetched at once, with their memories if these are next."""
        if not self._elsewhere:
            return [self._passage(row) for row in rows]
        segments, locals_ = self.locate(np.asarray(rows, dtype=np.int64))
        begun: dict[int, tuple[PassageReader, int, Any]] = {}
        for number in np.unique(segments).tolist():
            segment, places = self._segment(number), np.flatnonzero(segments == number)
            own = locals_[places]
            for place, row, text in zip(
                places.tolist(), own.tolist(), segment.passages.begin(own.tolist()), strict=True
            ):
                begun[place] = segment.passages, row, text
            for source in segment.memory.values() if to_load else ():
                with suppress(MemstoreError):  # whoever loads it reports it
                    source.begin(own)
        return [reader.passage(row, text) for reader, row, text in map(begun.__getitem__, range(len(rows)))]

    def _checked(self, rows: Sequence[int]) -> Sequence[int]:
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexCorrupt(f"row {row} is outside this generation of {len(self)} rows; rebuild the index")
        return rows

    def look_up(self, ids: Sequence[str]) -> list[StoredPassage | None]:
        """Each passage, or None. Before one is called absent, the id index is held to its checksum."""
        found: list[StoredPassage | None] = []
        dead = self._dead_mask()
        places = [[row for row in rows if row < len(self)] for rows in self._candidates(ids)]
        read = iter(self._passages(list(itertools.chain(*places))))
        for passage_id, rows in zip(ids, places, strict=True):
            stored = [StoredPassage(passage, row) for row, passage in zip(rows, read, strict=False)]
            matches = [s for s in stored if s.passage.id == passage_id]  # hashes may meet: the id decides
            if not matches:
                self._verify_index()
            found.append(next((s for s in matches if not dead[s.row]), None))
        return found

    def _candidates(self, ids: Sequence[str]) -> list[list[int]]:
        parts = [candidates(index, ids) for index in self._index()]
        return [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)]

    def _dead_mask(self) -> npt.NDArray[np.bool_]:
        """(rows,): whether each is dead."""
        with self._lock:
            if self._dead is None:
                dead = np.zeros(len(self), dtype=bool)
                for first, ref in zip(self._bounds, self.generation.segments, strict=False):
                    rows = read_dead(self.path, ref)
                    dead[first + rows[rows < ref.passages]] = True
                for passage_id, rows_of in zip(
                    self.generation.deleted, self._candidates(self.generation.deleted), strict=True
                ):
                    for row in rows_of:
                        dead[row] |= self._passage(row).id == passage_id
                self._dead = dead
            return self._dead

    def _index(self) -> tuple[Uint64, ...]:
        """The id index: memory-mapped, then what is made here of the rows that it does not cover."""
        with self._lock:
            if self._ids is None:
                covered, parts = 0, []
                if self.generation.ids is not None:
                    covered = len(self) if self.generation.ids_passages is None else self.generation.ids_passages
                    path = ids_path(self.path, self.generation.number)
                    parts.append(open_npy(path, dtype="uint64", shape=(2, covered)))
                if covered < len(self):
                    hashes = np.concatenate([
                        self._segment(n).passages.hashes[max(0, covered - self._bounds[n]) :]
                        for n in range(len(self.generation.segments)) if self._bounds[n + 1] > covered
                    ])  # fmt: skip
                    rest = sort_hashes([hashes])
                    rest[1] += np.uint64(covered)
                    parts.append(rest)
                self._ids = tuple(parts)
            return self._ids

    def _verify_index(self) -> None:
        """Once: a flipped byte in the id index must not make a passage look absent."""
        with self._lock:
            if self._ids_verified or self.generation.ids is None:
                return
            path = ids_path(self.path, self.generation.number)
            if hash_file(path) != self.generation.ids.sha256:
                raise ChecksumMismatch(f"{path} is damaged: not what its generation was made with")
            self._ids_verified = True

    def _pack(
        self,
        specs: Mapping[str, ArraySpec],
        segments: npt.NDArray[np.int64],
        locals_: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> dict[str, npt.NDArray[Any]]:
        """Read passages and put each at its place without padding: (T, ...) per array.

        As many at a time as may be open at once: each passage may be in shards of its own.
        """
        ends, total = np.cumsum(lengths).tolist(), int(lengths.sum())
        packed = {n: np.empty((total, *spec.shape[1:]), dtype=spec.dtype) for n, spec in specs.items()}
        most = max(1, self._readers.shards.limit // len(packed))
        for first in range(0, len(lengths), most):
            self._fill(packed, ends, np.arange(first, min(first + most, len(lengths))), segments, locals_)
        return packed

    def _fill(
        self,
        packed: dict[str, npt.NDArray[Any]],
        ends: Sequence[int],
        places: npt.NDArray[np.int64],
        segments: npt.NDArray[np.int64],
        locals_: npt.NDArray[np.int64],
    ) -> None:
        """Begin all reads of some places, then finish them."""
        reads = []
        for number in np.unique(segments[places]).tolist():
            segment, of_segment = self._segment(number), places[segments[places] == number]
            begun = {name: source.begin(locals_[of_segment]) for name, source in segment.memory.items()}
            reads.append(_Read(segment, of_segment, begun))
        for read in reads:
            for name, begun in read.begun.items():
                chunks = read.segment.memory[name].finish(begun)  # n of (max_tokens, ...)
                for place, chunk in zip(read.places.tolist(), chunks, strict=True):
                    first = ends[place - 1] if place else 0
                    packed[name][first : ends[place]] = chunk[: ends[place] - first]


@dataclass(frozen=True, slots=True)
class _Read:
    """Reads under way of one segment; `places` are positions in what was asked."""

    segment: Segment
    places: npt.NDArray[np.int64]
    begun: dict[str, Any]
