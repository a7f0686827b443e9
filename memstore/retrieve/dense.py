"""Nearest passages by the inner product of unit vectors, with faiss. Refuses to know stores and our model.

Up to `FLAT_LIMIT` passages every vector is compared, in float32. Above it the vectors are spread over `nlist`
clusters (IVF) and stored in 8 bits per dimension (SQ8); a search looks into the `nprobe` nearest clusters:

- `nlist`: the power of two nearest to 4 sqrt(passages);
- training: spherical k-means on `TRAINING_PER_CLUSTER` vectors per cluster, at most `TRAINING_BYTES`, evenly
  spaced over the passages (a corpus is sorted by topic: its beginning is no sample);
- `nprobe`: the smallest power of two, from `MIN_PROBES` on, with which `PROBE_QUERIES` passages find `RECALL`
  of the `PROBE_DEPTH` passages that are nearest to them by the float32 vectors.

A filter chooses rows. Where it leaves few, their vectors are read and kept, and compared one by one: that takes less
time than looking for them in clusters, and misses none. Else a search passes over the others as it does over dead rows.

An index that was changed (`dense_change`) has flat parts beside the first one, for the rows that came later. Dead
rows stay in it; a search passes over them, and looks into more clusters until it has its passages.

Measured on 350,000 made-up vectors of width 128 around 3,000 centres, on one core: built in 20 s, 49 MB;
200 other vectors found 0.988 of their exact top 10 and 0.991 of their top 40, in 0.42 ms each (`nprobe` 8).

Torch and faiss each bring an OpenMP library of their own; both import orders work, also from several threads.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import faiss
import numpy as np
import numpy.typing as npt

from memstore.errors import ConfigError, IndexCorrupt, InvalidMemory
from memstore.files import system_errors
from memstore.names import accepted
from memstore.retrieve import Filters, FoundRow, Hit, HitsOf, check_k, searchable
from memstore.retrieve.dense_parts import Part, read_part
from memstore.retrieve.encoders import EncoderRef, QuestionEncoder, TextEncoder, Vectors
from memstore.retrieve.filters import Filter
from memstore.retrieve.folder import new_index_folder, read_settings, write_settings

__all__ = [
    "DenseRetriever",
    "DenseSettings",
    "EncoderRef",
    "QuestionEncoder",
    "TextEncoder",
    "build_dense",
    "clusters",
    "read_dense_settings",
    "unit",
]

FORMAT_VERSION = 1
FLAT_LIMIT = 100_000
TRAINING_PER_CLUSTER = 64
TRAINING_BYTES = 256 * 2**20
MIN_PROBES = 8
PROBE_QUERIES = 200
PROBE_DEPTH = 20
RECALL = 0.95
FILTERS_KEPT, FILTER_BYTES = 64, 64 * 2**20
"""Filters whose choices are remembered, the latest, and about what they may take in memory."""

CHUNK_ROWS = 16_384
"""Vectors handled at a time: with the training sample, all that is in memory beside the index."""

RowsOf = Callable[[Filter], npt.NDArray[np.int64]]
"""Gives the live rows that pass a filter, ascending."""

INDEX = "index.faiss"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSettings:
    """What `settings.json` of a dense index says.

    Attributes:
        passages: rows, those of `more` and dead ones included.
        nlist, nprobe: clusters, and clusters looked into; 0 for a flat index.
        recall: measured when `nprobe` was chosen; 1.0 for a flat index.
        more: rows of each flat part that follows the first, in their order.
    """

    format_version: int = FORMAT_VERSION
    encoder: EncoderRef
    dim: int
    passages: int
    kind: Literal["flat", "ivf"]
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0
    more: tuple[int, ...] = ()

    def parts(self) -> list[tuple[str, int, int]]:
        """File, first row, and number of rows of each part."""
        counts = [self.passages - sum(self.more), *self.more]
        firsts = [0, *itertools.accumulate(counts[:-1])]
        names = [INDEX, *(f"more-{first:09d}.faiss" for first in firsts[1:])]
        return list(zip(names, firsts, counts, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a key is unknown or missing, or a value is none that we write.
        """
        try:
            more = tuple(values.get("more", ()))
            settings = cls(**{**values, "encoder": EncoderRef(**values["encoder"]), "more": more})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"settings of a dense index: {error}") from error
        if settings.format_version != FORMAT_VERSION or settings.kind not in ("flat", "ivf"):
            raise ConfigError(f"a dense index of version {settings.format_version}, kind {settings.kind!r} is unknown")
        return settings


# --- building --------------------------------------------------------------------------------------------


def build_dense(
    folder: Path,
    vectors: Iterable[npt.NDArray[Any]],
    *,
    count: int,
    dim: int,
    encoder: EncoderRef,
) -> DenseSettings:
    """Indexes passage vectors in row order.

    Above `FLAT_LIMIT` passages the vectors are first spooled to a file beside the index, of `4 * count * dim`
    bytes, removed at the end: training and the choice of `nprobe` read them again.

    Args:
        folder: becomes the index, complete and on disk when this returns; an older one is replaced.
        vectors: arrays `(n, dim)` of any float type and any length, one after another; `count` rows in all.
        count: number of passages.
        dim: width of a vector.
        encoder: what made them.

    Raises:
        IndexCorrupt: there are fewer or more than `count` vectors.
        InvalidMemory: a vector is of another width or not finite.
        OSError: the system refuses to write.
    """
    with new_index_folder(folder) as part, system_errors():
        if count <= FLAT_LIMIT:
            index = faiss.IndexFlatIP(dim)
            for chunk in unit_chunks(vectors, count=count, dim=dim):
                index.add(chunk)
            settings = DenseSettings(encoder=encoder, dim=dim, passages=count, kind="flat")
        else:
            index, settings = _build_ivf(
                part, unit_chunks(vectors, count=count, dim=dim), count=count, dim=dim, encoder=encoder
            )
        name, _handle = accepted(part / INDEX)
        faiss.write_index(index, name)
        write_settings(part, settings.to_dict())
    return settings


def clusters(count: int) -> int:
    """The number of clusters for so many vectors: the power of two nearest to 4 sqrt(count)."""
    return int(2 ** round(math.log2(4 * math.sqrt(count))))


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """The rows `(n, dim)` scaled to length 1; a row of zeros stays."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)  # squares overflow float32
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def unit_chunks(vectors: Iterable[npt.NDArray[Any]], *, count: int, dim: int) -> Iterator[Vectors]:
    """The arrays `(n, dim)` in pieces of at most `CHUNK_ROWS` rows, scaled to length 1.

    Raises:
        InvalidMemory: an array has another width, a value is not finite, or there are not `count` rows in all.
    """
    seen = 0
    for array in vectors:
        if array.ndim != 2 or array.shape[1] != dim:
            raise InvalidMemory(f"vectors from row {seen} on have the shape {array.shape}, not (n, {dim})")
        for start in range(0, len(array), CHUNK_ROWS):
            chunk = array[start : start + CHUNK_ROWS]
            if not (finite := np.isfinite(chunk).all(axis=1)).all():
                row = seen + int(np.flatnonzero(~finite)[0])
                raise InvalidMemory(f"the vector of row {row} has values that are not finite")
            seen += len(chunk)
            yield unit(chunk)
    if seen != count:
        raise IndexCorrupt(f"{seen} vectors were given for an index of {count} passages")


def _build_ivf(
    part: Path, chunks: Iterator[Vectors], *, count: int, dim: int, encoder: EncoderRef
) -> tuple[Any, DenseSettings]:
    spool = part / "vectors.spool"
    with spool.open("wb") as file:
        for chunk in chunks:
            chunk.tofile(file)
    rows = np.memmap(spool, dtype=np.float32, mode="r", shape=(count, dim))
    nlist = clusters(count)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, nlist, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1  # only silences a warning: the sample's size is ours to choose
    index.train(_spaced(rows, min(count, TRAINING_PER_CLUSTER * nlist, TRAINING_BYTES // (4 * dim))))
    for start in range(0, count, CHUNK_ROWS):
        index.add(np.ascontiguousarray(rows[start : start + CHUNK_ROWS]))
    index.nprobe, recall = _choose_nprobe(index, rows)
    del rows
    spool.unlink()
    settings = DenseSettings(
        encoder=encoder, dim=dim, passages=count, kind="ivf", nlist=nlist, nprobe=index.nprobe, recall=recall
    )
    return index, settings


def _spaced_rows(count: int, wanted: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, count - 1, num=min(wanted, count)).astype(np.int64)


def _spaced(rows: npt.NDArray[np.float32], wanted: int) -> Vectors:
    return np.ascontiguousarray(rows[_spaced_rows(len(rows), wanted)])


def _choose_nprobe(index: Any, rows: npt.NDArray[np.float32]) -> tuple[int, float]:
    """The number of clusters to look into, and the recall measured with it (see the module's rule)."""
    asked = _spaced_rows(len(rows), PROBE_QUERIES)
    queries = np.ascontiguousarray(rows[asked])
    exact = faiss.ResultHeap(len(queries), PROBE_DEPTH + 1, keep_max=True)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        depth = min(PROBE_DEPTH + 1, len(chunk))
        scores, nearest = faiss.knn(queries, chunk, depth, metric=faiss.METRIC_INNER_PRODUCT)
        exact.add_result(scores, nearest + start)
    exact.finalize()
    # A passage is its own nearest: that says nothing of how others are found.
    wanted = [set(found[found != own][:PROBE_DEPTH].tolist()) for found, own in zip(exact.I, asked, strict=True)]
    nprobe = MIN_PROBES
    while True:
        index.nprobe = min(nprobe, index.nlist)
        _, found = index.search(queries, PROBE_DEPTH + 1)
        recall = float(np.mean([len(w & set(f.tolist())) / len(w) for w, f in zip(wanted, found, strict=True)]))
        if recall >= RECALL or index.nprobe == index.nlist:
            return int(index.nprobe), round(recall, 4)
        nprobe *= 2


# --- searching -------------------------------------------------------------------------------------------


class DenseRetriever:
    """Searches an index that `build_dense` or `change_dense` made, with the encoder that made its vectors."""

    kind = "dense"

    def __init__(
        self,
        folder: Path,
        encoder: QuestionEncoder,
        hits: HitsOf,
        *,
        dead: npt.NDArray[np.int64] | None = None,
        passing: RowsOf | None = None,
    ) -> None:
        """Opens the index; an IVF index's vectors stay on disk, mapped into memory.

        Args:
            folder: what `build_dense` or `change_dense` wrote.
            encoder: what `read_dense_settings(folder).encoder` names.
            hits: names the passages of rows.
            dead: rows never to be found, ascending; none by default.
            passing: gives the live rows that pass a filter; by default there are no metadata.

        Raises:
            IndexCorrupt: the folder is absent or incomplete, or faiss cannot read it.
            ConfigError: the encoder's vectors are of another width.
        """
        self.settings = read_dense_settings(folder)
        self._encoder, self._hits, self._folder = encoder, hits, folder
        if encoder.dim != self.settings.dim:
            raise ConfigError(
                f"the dense index at {folder} holds vectors of width {self.settings.dim} and the encoder's "
                f"are {encoder.dim} wide; open it with the encoder that it was built with"
            )
        dead = np.empty(0, np.int64) if dead is None else dead
        self._live = self.settings.passages - len(dead)
        self._parts = []
        for name, first, count in self.settings.parts():
            index = read_part(folder / name, count=count, dim=self.settings.dim, mapped=self.settings.kind == "ivf")
            gone = dead[np.searchsorted(dead, first) : np.searchsorted(dead, first + count)] - first
            self._parts.append(Part.of(index, first, gone))
        self._passing = passing
        self._lock = threading.Lock()  # of the next two
        self._filtered: OrderedDict[Filter, list[Part]] = OrderedDict()
        self._mapped = False

    @property
    def encoder(self) -> QuestionEncoder:
        """What makes vectors of questions."""
        return self._encoder

    def __len__(self) -> int:
        """Rows that the index covers, dead ones included."""
        return self.settings.passages

    def search(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[Hit]]:
        """See `Retriever.search`. Scores are cosines; an IVF index's are off by the 8-bit storage."""
        return [self._hits(found) for found in self.search_rows(questions, k, filters)]

    def search_rows(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[FoundRow]]:
        """See `RowSearch.search_rows`."""
        check_k(k)
        parts = self._parts_for(filters, len(questions))
        if not questions or not self._live:
            return [[] for _ in questions]
        return self._nearest(question_vectors(self._encoder, questions), k, parts)

    def nearest(self, vectors: Vectors, k: int, filters: Filters | None = None) -> list[list[FoundRow]]:
        """`search_rows` for vectors `(Q, dim)` of questions, as `question_vectors` makes them."""
        parts = self._parts_for(filters, len(vectors))
        return self._nearest(vectors, k, parts) if self._live else [[] for _ in vectors]

    def _parts_for(self, filters: Filters | None, questions: int) -> list[list[Part]]:
        return [self._parts_of(where) for where in filters or itertools.repeat(None, questions)]

    def _nearest(self, vectors: Vectors, k: int, parts: Sequence[Sequence[Part]]) -> list[list[FoundRow]]:
        # One by one: in a batch faiss takes other routines, whose sums round differently.
        return [_search_one(own, vector[None], k) for own, vector in zip(parts, vectors, strict=True)]

    def _parts_of(self, where: Filter | None) -> list[Part]:
        """The parts, of which only what passes may be found.

        Raises:
            RequestError: see `Retriever.search`.
        """
        if where is None:
            return self._parts
        if self._passing is None:
            where.require({})
            return self._parts
        with self._lock:
            if where in self._filtered:
                self._filtered.move_to_end(where)
                return self._filtered[where]
        rows = self._passing(where)
        with self._lock:
            if not self._mapped and self.settings.kind == "ivf":
                self._parts[0].index.make_direct_map()  # from rows to their places in the clusters: 8 bytes a row
                self._mapped = True
            chosen = self._filtered[where] = [part.passing(rows) for part in self._parts]
            while len(self._filtered) > 1 and not self._may_keep():
                self._filtered.popitem(last=False)
            return chosen

    def _may_keep(self) -> bool:
        """Whether what is remembered of filters is no more than it may be."""
        taken = sum(part.bytes_kept for parts in self._filtered.values() for part in parts)
        return len(self._filtered) <= FILTERS_KEPT and taken <= FILTER_BYTES


def question_vectors(encoder: QuestionEncoder, questions: Sequence[str]) -> Vectors:
    """`(Q, dim)` of unit length, of at least one question."""
    return unit(encoder.encode_questions([searchable(question) for question in questions]))


def _search_one(parts: Sequence[Part], vector: Vectors, k: int) -> list[FoundRow]:
    """Rows for one `(1, dim)` vector. faiss cuts ties in an order of its own, so we look past them."""
    live = sum(part.live for part in parts)
    limit = min(k + 8, live)
    while True:
        found = [part.nearest(vector, limit) for part in parts]
        scored = sorted(itertools.chain(*found), key=lambda pair: (-pair[1], pair[0]))[:limit]
        if len(scored) < limit or limit == live or scored[-1][1] < scored[k - 1][1]:
            break
        limit = min(4 * limit, live)
    return scored[:k]


def read_dense_settings(folder: Path) -> DenseSettings:
    """The settings of the dense index in a folder.

    Raises:
        IndexCorrupt: the folder is absent or incomplete, or its settings are not ours.
    """
    try:
        return DenseSettings.from_dict(read_settings(folder))
    except ConfigError as error:
        raise IndexCorrupt(f"the dense index at {folder} cannot be opened: {error}; build it again") from error
