"""Several retrievers fused by their ranks. Refuses to know what the scores of one mean to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from memstore.errors import ConfigError
from memstore.retrieve import Filters, FoundRow, Hit, HitsOf, RowSearch, check_k

K0 = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, section 2)."""

DEPTH = 100
"""Passages asked of every retriever, or k if that is more: up to it, a smaller k gives a prefix of a larger one."""


class HybridRetriever:
    """Reciprocal rank fusion: the score is the sum over retrievers of `1 / (k0 + rank)`, ranks from 1.

    Ties go to the passage with the better best rank, then to the smaller id. Only passages that are among the first k,
    or may be, are read.
    """

    kind = "hybrid"

    def __init__(self, parts: Sequence[RowSearch], hits: HitsOf, *, k0: int = K0, depth: int = DEPTH) -> None:
        if not parts:
            raise ConfigError("a hybrid retriever needs at least one retriever to fuse")
        if k0 < 0 or depth < 1:
            raise ConfigError(f"k0 must be at least 0 and depth at least 1, not {k0} and {depth}")
        self._parts, self._hits, self._k0, self._depth = tuple(parts), hits, k0, depth

    @property
    def parts(self) -> Sequence[RowSearch]:
        """The retrievers that are fused."""
        return self._parts

    def search(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[Hit]]:
        """See `Retriever.search`."""
        check_k(k)
        found = [part.search_rows(questions, max(k, self._depth), filters) for part in self._parts]
        return [self._fuse(rankings, k) for rankings in zip(*found, strict=True)]

    def _fuse(self, rankings: Sequence[Sequence[FoundRow]], k: int) -> list[Hit]:
        ranks: dict[int, list[int]] = {}
        for ranking in rankings:
            for rank, (row, _) in enumerate(ranking, start=1):
                ranks.setdefault(row, []).append(rank)
        place = {row: (-math.fsum(1 / (self._k0 + rank) for rank in of), min(of)) for row, of in ranks.items()}
        best = sorted(place, key=place.__getitem__)
        # All that tie with the k-th, too: which of them is among the first k is for their ids to say.
        best = [row for row in best if place[row] <= place[best[min(k, len(best)) - 1]]]
        hits = self._hits([(row, -place[row][0]) for row in best])
        order = sorted(zip(best, hits, strict=True), key=lambda found: (place[found[0]], found[1].passage_id))
        return [hit for _, hit in order[:k]]
