"""KILT's page-level retrieval metrics (arXiv 2009.02252, section 3). Knows neither files nor answers.

A page is a string, its name. Evidence is a list of page sets: all pages of one set together prove the answer, and any
set is enough. Predicted pages come best first. A page that is named again counts only once, at its first place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

Evidence = Sequence[Collection[str]]


def r_precision(pages: Sequence[str], evidence: Evidence) -> float:
    """R-precision: the share of right pages among the first R, where R is the size of the evidence set.

    The best over the sets; 0 without evidence.
    """
    predicted = list(dict.fromkeys(pages))
    return max((_r_precision(predicted, set(wanted)) for wanted in evidence), default=0.0)


def _r_precision(predicted: Sequence[str], wanted: set[str]) -> float:
    if not wanted:
        return 0.0
    return sum(page in wanted for page in predicted[: len(wanted)]) / len(wanted)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Predicted pages, where the pages of one evidence set share one place.

    Attributes:
        hits: for each place, best first, whether an evidence set is complete there. The place of a set is that of
            its last predicted page. A page of no set has a place of its own.
        sets: the number of different evidence sets. An empty set counts, and is never found.
    """

    hits: tuple[bool, ...]
    sets: int

    def precision(self, k: int) -> float:
        """The share of complete sets among the first `k` places (fewer places than `k` count as misses)."""
        return sum(self.hits[:k]) / k

    def recall(self, k: int) -> float:
        """The share of the evidence sets that are complete within `k` places; 0 without evidence."""
        return sum(self.hits[:k]) / self.sets if self.sets else 0.0

    def success(self, k: int) -> float:
        """1 if any evidence set is complete within `k` places, else 0."""
        return float(any(self.hits[:k]))


def rank_evidence(pages: Iterable[str], evidence: Evidence) -> Ranking:
    """The ranking of evidence sets by predicted pages. A page that is in several sets has a place for each."""
    sets = list(dict.fromkeys(frozenset(wanted) for wanted in evidence))
    missing = [set(wanted) for wanted in sets]  # of each set, the pages not yet predicted
    places: list[tuple[int | None, bool]] = []  # (the set a page is of, is the set complete with it)
    for page in dict.fromkeys(pages):
        owners = [number for number, left in enumerate(missing) if page in left]
        for number in owners:
            missing[number].remove(page)
            places.append((number, not missing[number]))
        if not owners:
            places.append((None, False))
    # A set's earlier pages give up their places: only its last one counts, complete or not.
    last = {owner: at for at, (owner, _) in enumerate(places)}
    hits = (done for at, (owner, done) in enumerate(places) if owner is None or last[owner] == at)
    return Ranking(tuple(hits), len(sets))
