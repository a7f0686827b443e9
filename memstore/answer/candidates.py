"""The passages that a question may read, before they are read: of a store, or the caller's own. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memstore.passage import Passage, RankedPassage, StoredPassage
from memstore.retrieve import Filters, Retriever
from memstore.store import AnyStore


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that a question may read. `stored` is None where the caller brought it."""

    found: RankedPassage
    stored: StoredPassage | None = None


Candidates = Sequence[Candidate]


def rows_of(found: Sequence[Candidates]) -> list[range]:
    """The rows of each question's candidates; a question without any has one row all the same, which is not its."""
    rows, first = [], 0
    for own in found:
        rows.append(range(first, first + len(own)))
        first += max(1, len(own))
    return rows


def brought(passages: Sequence[Passage]) -> list[Candidate]:
    """Candidates of the caller's own passages."""
    return [Candidate(RankedPassage(passage=p)) for p in passages]


def found_in(
    store: AnyStore, retriever: Retriever, questions: Sequence[str], k: int, filters: Filters | None
) -> list[list[Candidate]]:
    """What the retriever finds, best first, each passage with its row. Most retrievers have read it to name it."""
    hits = retriever.search(questions, k, filters)
    unread = iter(store.find([h.passage_id for own in hits for h in own if h.stored is None]))
    found: list[list[Candidate]] = [[] for _ in hits]
    for own, candidates in zip(hits, found, strict=True):
        for place, hit in enumerate(own, start=1):
            stored = hit.stored or next(unread)
            passage = RankedPassage(passage=stored.passage, retrieval_rank=place, retrieval_score=hit.score)
            candidates.append(Candidate(passage, stored))
    return found
