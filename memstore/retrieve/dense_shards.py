"""Nearest passages over several dense indexes: each finds its own, the best of all are kept. Knows no store.

Scores are inner products of unit vectors, which mean the same in each. Up to `dense.FLAT_LIMIT` passages an index
compares every vector, and what is found is what one index of all finds. Above it each looks into clusters of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from memstore.retrieve import Filters, FoundRow, Hit, HitsOf, check_k
from memstore.retrieve.dense import DenseRetriever, question_vectors
from memstore.retrieve.encoders import QuestionEncoder

RowsOf = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.int64]]
"""Rows of all, of rows of the index of this number."""


class DenseShards:
    """Searches several indexes, whose vectors one encoder made, as one."""

    kind = "dense"

    def __init__(self, shards: Sequence[DenseRetriever], rows_of: RowsOf, hits: HitsOf) -> None:
        self._shards, self._rows_of, self._hits = tuple(shards), rows_of, hits

    @property
    def encoder(self) -> QuestionEncoder:
        """What makes vectors of questions."""
        return self._shards[0].encoder

    def search(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[Hit]]:
        """See `Retriever.search`."""
        return [self._hits(found) for found in self.search_rows(questions, k, filters)]

    def search_rows(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[FoundRow]]:
        """See `RowSearch.search_rows`. Questions are encoded once."""
        check_k(k)
        if not questions:
            return []
        vectors = question_vectors(self.encoder, questions)
        each = [self._of_all(number, shard.nearest(vectors, k, filters)) for number, shard in enumerate(self._shards)]
        return [
            sorted(itertools.chain(*found), key=lambda pair: (-pair[1], pair[0]))[:k]
            for found in zip(*each, strict=True)
        ]

    def _of_all(self, number: int, found: Sequence[Sequence[FoundRow]]) -> list[list[FoundRow]]:
        named = []
        for own in found:
            rows = self._rows_of(number, np.asarray([row for row, _ in own], dtype=np.int64)).tolist()
            named.append([(row, score) for row, (_, score) in zip(rows, own, strict=True)])
        return named
