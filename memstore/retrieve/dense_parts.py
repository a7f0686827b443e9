"""One faiss index among those that a dense index is made of, and which of its rows may be found. Knows no settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from memstore.errors import IndexCorrupt
from memstore.names import accepted
from memstore.retrieve.broad import LEAST_SHARE, needed
from memstore.retrieve.encoders import Vectors

DEPTH = 100
"""Live passages that a search finds at least before it stops looking into clusters, where some are dead."""

FEW_ROWS = 16_384
"""Rows that a filter may leave in a part for their vectors to be read, kept, and compared one by one. Of 120,000
vectors of width 128, on one core: reading 6,000 takes 4 ms, once, and comparing them 0.15 ms. A search without a filter
takes 0.4 ms, and one of clusters until 100 of the 6,000 are found 1.4."""

# faiss gives these classes other constructors when it is imported than its types say.
_PARAMETERS: Any = faiss.SearchParameters
_IVF_PARAMETERS: Any = faiss.SearchParametersIVF
_BITMAP: Any = faiss.IDSelectorBitmap


@dataclass(frozen=True, slots=True)
class Part:
    """One faiss index, of rows from `first` on.

    Attributes:
        live: rows that may be found.
        alive: chooses them; None if all may.
        few: they themselves, counted from `first`, if they are few.
        vectors: of these few `(n, dim)`.
        passes: for each row whether it may be found, in a flat index where many may.
    """

    index: Any
    first: int
    live: int
    alive: Any
    few: npt.NDArray[np.int64] | None = None
    vectors: Vectors | None = None
    passes: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, index: Any, first: int, dead: npt.NDArray[np.int64]) -> Part:
        """All rows of an index but the dead ones, which count from its first."""
        if not len(dead):
            return cls(index, first, index.ntotal, None)
        alive = np.ones(index.ntotal, dtype=bool)
        alive[dead] = False
        return cls._choosing(index, first, alive)

    @classmethod
    def _choosing(cls, index: Any, first: int, passes: npt.NDArray[np.bool_]) -> Part:
        """The rows of an index that pass."""
        live = int(passes.sum())
        many = not getattr(index, "nlist", 0) and live >= LEAST_SHARE * len(passes)
        return cls(index, first, live, _selector(passes), passes=passes if many else None)

    @property
    def bytes_kept(self) -> int:
        """About what a filter's choice takes in memory."""
        kept = [array.nbytes for array in (self.few, self.vectors, self.passes) if array is not None]
        return sum(kept) + (self.index.ntotal // 8 if self.alive is not None else 0)

    def passing(self, rows: npt.NDArray[np.int64]) -> Part:
        """The part of which only these rows, ascending and live ones, may be found."""
        count = self.index.ntotal
        own = rows[np.searchsorted(rows, self.first) : np.searchsorted(rows, self.first + count)] - self.first
        if len(own) <= FEW_ROWS:
            vectors = self.index.reconstruct_batch(own) if len(own) else np.empty((0, self.index.d), np.float32)
            return Part(self.index, self.first, len(own), None, own, vectors)
        passes = np.zeros(count, dtype=bool)
        passes[own] = True
        return self._choosing(self.index, self.first, passes)

    def _nearest_of_few(
        self, vector: Vectors, rows: npt.NDArray[np.int64], vectors: Vectors, wanted: int
    ) -> list[tuple[int, float]]:
        # Not a product of matrices, whose sums may depend on a row's place: equal vectors must have equal scores.
        scores = np.einsum("nd,d->n", vectors, vector[0])
        least = np.partition(scores, -wanted)[-wanted] if 0 < wanted < len(scores) else -np.inf
        high = np.flatnonzero(scores >= least)
        best = high[np.argsort(-scores[high], kind="stable")][:wanted]
        return [(self.first + int(rows[i]), float(scores[i])) for i in best]

    def _nearest_of_many(self, vector: Vectors, passes: npt.NDArray[np.bool_], wanted: int) -> list[tuple[int, float]]:
        """The nearest of a flat index's rows that pass, out of more that are found. The lowest score does not count
        unless all are there: more rows may have it.
        """
        limit = needed(wanted, self.live / len(passes))
        while True:
            scores, rows = self.index.search(vector, min(limit, len(passes)))
            kept = passes[rows[0]] & ((scores[0] > scores[0, -1]) | (limit >= len(passes)))
            if kept.sum() >= wanted or limit >= len(passes):
                found = zip(rows[0, kept].tolist(), scores[0, kept].tolist(), strict=True)
                return [(self.first + row, score) for row, score in found][:wanted]
            limit *= 4

    def nearest(self, vector: Vectors, wanted: int) -> list[tuple[int, float]]:
        """Up to `wanted` of the `(row, score)` nearest to a `(1, dim)` vector.

        Where rows are dead, it looks into more clusters until `DEPTH` live ones are found, or `wanted` if that is
        more: up to it, a smaller number gives a prefix of a larger one.
        """
        at_least = 0 if self.alive is None else min(max(wanted, DEPTH), self.live)
        wanted = min(max(wanted, at_least), self.live)
        if self.few is not None and self.vectors is not None:
            return self._nearest_of_few(vector, self.few, self.vectors, wanted)
        if self.passes is not None and wanted:
            return self._nearest_of_many(vector, self.passes, wanted)
        nprobe, nlist = getattr(self.index, "nprobe", 0), getattr(self.index, "nlist", 0)
        while nprobe < nlist and nprobe * self.live < at_least * nlist:
            nprobe = min(2 * nprobe, nlist)  # so many clusters hold fewer, if they are as mixed as all are
        while wanted:
            if self.alive is None and not nlist:
                scores, rows = self.index.search(vector, wanted)
            elif nlist:
                params = _IVF_PARAMETERS(sel=self.alive, nprobe=nprobe)
                scores, rows = self.index.search(vector, wanted, params=params)
            else:
                scores, rows = self.index.search(vector, wanted, params=_PARAMETERS(sel=self.alive))
            found = [(self.first + int(r), float(s)) for r, s in zip(rows[0], scores[0], strict=True) if r >= 0]
            if len(found) >= at_least or nprobe >= nlist:
                return found
            nprobe = min(2 * nprobe, nlist)  # the nearest clusters hold too few that are alive
        return []


def _selector(chosen: npt.NDArray[np.bool_]) -> Any:
    """Chooses rows, by a bit for each."""
    return _BITMAP(np.packbits(chosen, bitorder="little"))


def read_part(path: Path, *, count: int, dim: int, mapped: bool) -> Any:
    """The faiss index in a file; `mapped` leaves the vectors of an IVF index on the disk.

    Raises:
        IndexCorrupt: faiss cannot read it, or it is not of so many vectors of this width.
    """
    try:
        name, _handle = accepted(path)
        index = faiss.read_index(name, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0)
    except RuntimeError as error:
        raise IndexCorrupt(f"{path} cannot be read ({error}); build the index again") from error
    if (index.ntotal, index.d) != (count, dim):
        raise IndexCorrupt(
            f"{path} holds {index.ntotal} vectors of width {index.d}, not {count} of width {dim}; build the index again"
        )
    return index
