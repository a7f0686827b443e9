"""Finding passages for a question: what every retriever promises. Knows neither models nor a store's layout.

An index finds rows of a generation. They stay inside; what leaves a retriever are hits with stable passage ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from memstore.errors import RequestError
from memstore.passage import StoredPassage, encodable
from memstore.retrieve.filters import Filter

__all__ = ["Filters", "FoundRow", "Hit", "HitsOf", "Retriever", "RowSearch", "check_k", "numbered", "searchable"]

MAX_QUESTION_CHARACTERS = 16_384
"""Characters of a question that are searched for. Beyond this it is a document; the rest is ignored."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved passage. Scores compare hits of one retriever and one question, nothing else.

    `stored` is the passage itself where naming it meant reading it, so that nobody reads it again.
    """

    passage_id: str
    score: float
    stored: StoredPassage | None = field(default=None, compare=False, repr=False)


FoundRow = tuple[int, float]
"""A row of the generation, and its score."""

Filters = Sequence[Filter | None]
"""For each question what its passages' metadata must be, or None."""

HitsOf = Callable[[Sequence[FoundRow]], list[Hit]]
"""Makes hits of the rows that one question found, in their order."""


class Retriever(Protocol):
    """Finds passages of one generation. Deterministic, safe to call from several threads at once."""

    @property
    def kind(self) -> str:
        """The name a generation records: "bm25", "dense" or "hybrid"."""

    def search(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[Hit]]:
        """Finds up to `k` passages per question, best first, ties in the order of the generation's rows.

        A question may get fewer than `k` hits: the generation is smaller, or nothing in it matches. With a filter only
        passages that pass it are found, as many as without; scores are those that they have without.

        Raises:
            RequestError: `k` is below 1, or a filter names a field that there is not, or a value that it never has.
            IndexCorrupt: the index cannot be read.
        """


class RowSearch(Protocol):
    """A retriever over rows, as several are fused before any passage is read."""

    def search_rows(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[FoundRow]]:
        """As `Retriever.search`, but rows."""


def numbered(found: Sequence[FoundRow]) -> list[Hit]:
    """Hits that are named by their rows, of an index over passages of no store."""
    return [Hit(str(row), score) for row, score in found]


def check_k(k: int) -> None:
    """Refuses a number of passages that no retriever can return.

    Raises:
        RequestError: `k` is below 1.
    """
    if k < 1:
        raise RequestError(f"the number of passages to retrieve must be at least 1, not {k}")


def searchable(question: str) -> str:
    """The question's beginning, with lone surrogates, which UTF-8 cannot hold, as question marks."""
    return encodable(question[:MAX_QUESTION_CHARACTERS])
