"""The passages that a question may read, before they are read. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memstore.passage import Passage, RankedPassage, StoredPassage


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
