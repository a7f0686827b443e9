"""Several retrievers fused by their ranks. Refuses to know what the scores of one mean to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from memstore.errors import ConfigError
from memstore.retrieve import Hit, Retriever, check_k

K0 = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, section 2)."""

DEPTH = 100
"""Passages asked of every retriever, or k if that is more: up to it, a smaller k gives a prefix of a larger one."""


class HybridRetriever:
    """Reciprocal rank fusion: the score is the sum over retrievers of `1 / (k0 + rank)`, ranks from 1.

    Ties go to the passage with the better best rank, then to the smaller id.
    """

    kind = "hybrid"

    def __init__(self, retrievers: Sequence[Retriever], *, k0: int = K0, depth: int = DEPTH) -> None:
        if not retrievers:
            raise ConfigError("a hybrid retriever needs at least one retriever to fuse")
        if k0 < 0 or depth < 1:
            raise ConfigError(f"k0 must be at least 0 and depth at least 1, not {k0} and {depth}")
        self._retrievers, self._k0, self._depth = tuple(retrievers), k0, depth

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        check_k(k)
        found = [retriever.search(questions, max(k, self._depth)) for retriever in self._retrievers]
        return [self._fuse(rankings)[:k] for rankings in zip(*found, strict=True)]

    def _fuse(self, rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
        ranks: dict[str, list[int]] = {}
        for ranking in rankings:
            for rank, hit in enumerate(ranking, start=1):
                ranks.setdefault(hit.passage_id, []).append(rank)
        scores = {i: math.fsum(1 / (self._k0 + rank) for rank in of) for i, of in ranks.items()}
        return [Hit(i, scores[i]) for i in sorted(ranks, key=lambda i: (-scores[i], min(ranks[i]), i))]
