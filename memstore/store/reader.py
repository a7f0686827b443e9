"""Reading a generation: memories by passage id, on the hot path of every question. Knows no model.

Rows (positions over the generation's segments, deleted passages included) are for indexes; they never leave
the reader, where a passage is known by its id.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from memstore.errors import (
    ChecksumMismatch,
    ConfigError,
    IndexCorrupt,
    MissingData,
    PassageNotFound,
    StoreFormatError,
    StoreNotFound,
)
from memstore.fingerprint import Fingerprint
from memstore.passage import Passage, StoredPassage
from memstore.store.codec import ArraySpec, Codec
from memstore.store.format import (
    CURRENT,
    Current,
    Generation,
    generation_path,
    hash_bytes,
    hash_file,
    ids_path,
    is_folder,
    read_bytes,
)
from memstore.store.ids import Uint64, candidates, open_npy, sort_hashes
from memstore.store.segment import Readers, Segment, ShardReader, open_segment


@dataclass(frozen=True, slots=True)
class Memories:
    """Memories of N passages, packed: passages one after another, no padding.

    Attributes:
        states: (T, D), bfloat16 or float32.
        lengths: (N,) int64, tokens per passage; they sum to T.
        token_ids: (T,) int64.
        bytes_read: bytes of encoded memory fetched, before compression, token ids included.
    """

    states: torch.Tensor
    lengths: torch.Tensor
    token_ids: torch.Tensor
    bytes_read: int


class Store:
    """One generation of a store, open for reading. Safe to use from several threads.

    Segments are opened when a read first touches them. Memory: 4 bytes per passage of opened segments
    (lengths), the indexes of the shards used last, and a cache of `arrays.CACHE_BYTES`; passages and id
    index are memory-mapped.
    """

    def __init__(self, path: Path, generation: Generation, *, shard_reader: ShardReader = "direct") -> None:
        """View `generation`, which need not be published: an index is built over it before it is.

        `Store.open` is for everybody else.
        """
        self.path, self.generation = path, generation
        self._bounds = [0, *itertools.accumulate(s.passages for s in generation.segments)]
        self._starts = np.asarray(self._bounds, dtype=np.int64)
        self._deleted = frozenset(generation.deleted)
        self._readers = Readers(shard_reader=shard_reader)
        self._segments: dict[int, Segment] = {}
        self._ids: Uint64 | None = None
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
        store = cls(Path(path), read_generation(Path(path), generation), shard_reader=shard_reader)
        store._index()
        return store

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

    def contains(self, passage_id: str) -> bool:
        """Whether the generation holds a passage of that id."""
        return self._find([passage_id])[0] is not None

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
        for passage_id, stored in zip(ids, self._find(ids), strict=True):
            if stored is None:
                raise PassageNotFound(passage_id)
            found.append(stored)
        return found

    def at(self, rows: Sequence[int]) -> list[StoredPassage]:
        """The passages that an index over this generation found, in the order asked.

        Raises:
            IndexCorrupt: a row is outside the generation, or its passage is deleted: the index is of another one.
            StoreCorrupt: data are damaged or missing; the subclass says how.
        """
        found = [StoredPassage(self._passage(row), row) for row in self._checked(rows)]
        if self._deleted:
            for stored in found:
                if stored.passage.id in self._deleted:
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
        segments, locals_ = self._locate(np.asarray([f.row for f in found], dtype=np.int64))
        lengths = np.zeros(len(found), dtype=np.int64)
        for number in np.unique(segments).tolist():
            places = np.flatnonzero(segments == number)
            lengths[places] = self._segment(number).lengths[locals_[places]]
        groups = self._by_codec(segments)
        parts = [self._decoded(segments[p], locals_[p], lengths[p], dtype=dtype, device=device) for p in groups]
        return parts[0] if len(parts) == 1 else _in_order(groups, parts)

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
        return [self._passage(row).id for row in self._checked(rows)]

    def iter_passages(self) -> Iterator[Passage]:
        """All passages in row order, deleted ones included, so that position is row."""
        for number in range(len(self.generation.segments)):
            yield from self._segment(number).passages

    def iter_embeddings(self) -> Iterator[npt.NDArray[np.float32]]:
        """Vectors (n, dim) in row order, a shard at a time.

        Raises:
            ConfigError: the store was built without them.
        """
        for number in range(len(self.generation.segments)):
            segment = self._segment(number)
            if not segment.seal.embedding_dim:
                raise ConfigError(f"{self.path} has no passage vectors; build it with a dense or hybrid retriever")
            step = segment.seal.shard_passages
            for first in range(0, segment.seal.passages, step):
                last = min(first + step, segment.seal.passages)
                yield segment.read_embeddings(first, last)

    def _segment(self, number: int) -> Segment:
        with self._lock:
            if number not in self._segments:
                ref = self.generation.segments[number]
                self._segments[number] = open_segment(self.path, ref, self._readers)
            return self._segments[number]

    def _locate(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows to (segment numbers, rows within them)."""
        segments = np.searchsorted(self._starts, rows, side="right").astype(np.int64) - 1
        return segments, rows - self._starts[segments]

    def _passage(self, row: int) -> Passage:
        number = bisect_right(self._bounds, row) - 1
        return self._segment(number).passages.passage(row - self._bounds[number])

    def _checked(self, rows: Sequence[int]) -> Sequence[int]:
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexCorrupt(f"row {row} is outside this generation of {len(self)} rows; rebuild the index")
        return rows

    def _find(self, ids: Sequence[str]) -> list[StoredPassage | None]:
        """Each passage, or None. Before one is called absent, the id index is held to its checksum."""
        found: list[StoredPassage | None] = []
        for passage_id, rows in zip(ids, candidates(self._index(), ids), strict=True):
            read = (StoredPassage(self._passage(row), row) for row in rows if row < len(self))
            stored = next((s for s in read if s.passage.id == passage_id), None)  # hashes may meet: the id decides
            if stored is None:
                self._verify_index()
            found.append(None if passage_id in self._deleted else stored)
        return found

    def _index(self) -> Uint64:
        """The id index: memory-mapped, or made from the segments of an unpublished generation."""
        with self._lock:
            if self._ids is None:
                if self.generation.ids is None:
                    counts = range(len(self.generation.segments))
                    self._ids = sort_hashes([self._segment(n).passages.hashes for n in counts])
                else:
                    path = ids_path(self.path, self.generation.number)
                    self._ids = open_npy(path, dtype="uint64", shape=(2, len(self)))
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


def _in_order(groups: Sequence[npt.NDArray[np.int64]], parts: Sequence[Memories]) -> Memories:
    """Memories that were read apart, at the positions that each group names."""
    order = np.argsort(np.concatenate(groups))
    lengths = torch.cat([part.lengths for part in parts])
    ends = lengths.cumsum(0).tolist()
    rows = [slice(ends[i] - int(lengths[i]), ends[i]) for i in order.tolist()]  # in the parts, one after another
    states, token_ids = torch.cat([part.states for part in parts]), torch.cat([part.token_ids for part in parts])
    return Memories(
        states=torch.cat([states[r] for r in rows]),
        lengths=lengths[torch.from_numpy(order).to(lengths.device)],
        token_ids=torch.cat([token_ids[r] for r in rows]),
        bytes_read=sum(part.bytes_read for part in parts),
    )


def read_generation(store: Path, number: int | None = None) -> Generation:
    """The generation in force, or a numbered one, held against CURRENT's checksum where that names it.

    Raises:
        StoreNotFound: no store is at the path, or it has no such generation.
        StoreUnreadable: the system does not let us.
        MissingData: CURRENT names a generation whose file is absent.
        ChecksumMismatch, StoreFormatError: a manifest is damaged, or not understood.
    """
    path = store / CURRENT
    if not is_folder(store):
        raise StoreNotFound(f"there is no store at {store}; `memstore build` makes one")
    try:
        current = Current.from_bytes(read_bytes(path), path=path)
    except FileNotFoundError:
        raise StoreNotFound(f"{store} has no {CURRENT} file: it is no store, or its build has not finished") from None
    wanted = current.generation if number is None else number
    path = generation_path(store, wanted)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        if wanted == current.generation:
            raise MissingData(f"{path} is missing, though {CURRENT} names it") from None
        raise StoreNotFound(f"{store} has no generation {wanted}; {current.generation} is in force") from None
    generation = Generation.from_bytes(data, path=path)
    if wanted == current.generation and hash_bytes(data) != current.sha256:
        raise ChecksumMismatch(f"{path} is not the generation that {CURRENT} names")
    if generation.number != wanted:
        raise StoreFormatError(f"{path} holds generation {generation.number}")
    return generation
