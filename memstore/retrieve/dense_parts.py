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
from memstore.retrieve.encoders import Vectors

DEPTH = 100
"""Live passages that a search finds at least before it stops looking into clusters, where some are dead."""

FEW_ROWS = 4096
"""Rows that a filter may leave in a part for their vectors to be read one by one. Of 350,000 vectors of width 128, on
one core: 0.03 ms for 35 rows, 0.23 for 350, 2.5 for 3,500, and 0.31 without a filter. Clusters until 100 of them
are found: 18, 12 and 3.3 ms."""

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
    """

    index: Any
    first: int
    live: int
    alive: Any
    few: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, index: Any, first: int, dead: npt.NDArray[np.int64]) -> Part:
        """All rows of an index but the dead ones, which count from its first."""
        if not len(dead):
            return cls(index, first, index.ntotal, None)
        alive = np.ones(index.ntotal, dtype=bool)
        alive[dead] = False
        return cls(index, first, index.ntotal - len(dead), _selector(alive))

    def passing(self, rows: npt.NDArray[np.int64]) -> Part:
        """The part of which only these rows, ascending and live ones, may be found."""
        count = self.index.ntotal
        own = rows[np.searchsorted(rows, self.first) : np.searchsorted(rows, self.first + count)] - self.first
        if len(own) <= FEW_ROWS:
            return Part(self.index, self.first, len(own), None, own)
        passes = np.zeros(count, dtype=bool)
        passes[own] = True
        return Part(self.index, self.first, len(own), _selector(passes))

    def _nearest_of_few(self, vector: Vectors, rows: npt.NDArray[np.int64], wanted: int) -> list[tuple[int, float]]:
        # Not a product of matrices, whose sums may depend on a row's place: equal vectors must have equal scores.
        scores = np.einsum("nd,d->n", self.index.reconstruct_batch(rows), vector[0])
        best = np.argsort(-scores, kind="stable")[:wanted]
        return [(self.first + int(rows[i]), float(scores[i])) for i in best]

    def nearest(self, vector: Vectors, wanted: int) -> list[tuple[int, float]]:
        """Up to `wanted` of the `(row, score)` nearest to a `(1, dim)` vector.

        Where rows are dead, it looks into more clusters until `DEPTH` live ones are found, or `wanted` if that is
        more: up to it, a smaller number gives a prefix of a larger one.
        """
        at_least = 0 if self.alive is None else min(max(wanted, DEPTH), self.live)
        wanted = min(max(wanted, at_least), self.live)
        if self.few is not None and wanted:
            return self._nearest_of_few(vector, self.few, wanted)
        nprobe, nlist = getattr(self.index, "nprobe", 0), getattr(self.index, "nlist", 0)
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
