"""Filters that many rows pass, remembered: such a search goes without the filter and drops what does not pass.

A search engine passes over most of an index because it knows what no passage can score any more. With a condition in
the query it knows less and looks at more: where half of the rows pass, that takes more than twice the time. Finding a
few more rows, and looking up which of them pass, takes less. Knows rows and filters, and no index.

Which rows pass is asked once, at a filter's second use: many are used but once. Measured on 120,000 passages, processor
time: 25 ms where half of them pass; then a question takes 1.1 ms instead of 1.9, and 0.8 without a filter.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memstore.retrieve.filters import Filter

RowsOf = Callable[[Filter], npt.NDArray[np.int64]]
"""Gives the live rows that pass a filter."""

LEAST_SHARE = 0.25
"""Of the live rows: where fewer pass, a condition in the query takes less time than dropping most of what is found."""

MOST_ROWS = 1_000_000
"""Live rows of an index up to which those that pass are asked for: they are all in memory for a moment."""

KEPT = 64
"""Filters that are remembered. One that is broad takes a bit for each row."""

MORE = 1.2  # of what is expected to be needed: few searches are done again with the condition
EXTRA = 16


@dataclass(frozen=True, slots=True)
class Broad:
    """What a filter passes: a bit for each row, and the share of the live rows that it is."""

    bits: npt.NDArray[np.uint8]
    share: float

    @classmethod
    def of(cls, rows: npt.NDArray[np.int64], *, total: int, live: int) -> Broad:
        """Of the rows that pass, of `total`."""
        passes = np.zeros(total, dtype=bool)
        passes[rows] = True
        return cls(np.packbits(passes, bitorder="little"), len(rows) / live)

    def passes(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """For each of the rows whether it passes."""
        asked = np.asarray(rows, dtype=np.int64)
        found: npt.NDArray[np.bool_] = (self.bits[asked >> 3] >> (asked & 7).astype(np.uint8) & 1).astype(bool)
        return found

    def wanted(self, k: int) -> int:
        """How many rows to find so that k of them should pass."""
        return needed(k, self.share)


def needed(k: int, share: float) -> int:
    """How many rows to find so that k of them should pass, where this share of all does."""
    return int(MORE * k / share) + EXTRA


class BroadFilters:
    """The latest filters of one index. Several threads may ask at once.

    It knows nothing of the index itself, which would then live until Python looks for circles, and hold its generation.

    Args:
        total: rows that there are.
        live: those that may be found.
    """

    def __init__(self, *, total: int, live: int) -> None:
        self._total, self._live = total, live
        self._lock = threading.Lock()
        self._known: OrderedDict[Filter, Broad | None] = OrderedDict()  # None: used once, or not broad
        self._asked: set[Filter] = set()  # of these, those whose rows are known

    def of(self, where: Filter, rows_of: RowsOf) -> Broad | None:
        """What the filter passes; None at its first use, and where it is not broad. Raises what `rows_of` raises, which
        gives the live rows that pass.
        """
        if self._live > MOST_ROWS:
            return None
        with self._lock:
            if where not in self._known:
                self._remember(where, None)
                return None
            self._known.move_to_end(where)
            if where in self._asked:
                return self._known[where]
        rows = rows_of(where)
        is_broad = len(rows) >= LEAST_SHARE * self._live > 0
        broad = Broad.of(rows, total=self._total, live=self._live) if is_broad else None
        with self._lock:
            self._remember(where, broad)
            self._asked.add(where)
        return broad

    def _remember(self, where: Filter, broad: Broad | None) -> None:
        self._known[where] = broad
        self._known.move_to_end(where)
        while len(self._known) > KEPT:
            forgotten, _ = self._known.popitem(last=False)
            self._asked.discard(forgotten)
