"""How right the pages behind an answer are: KILT's page-level retrieval metrics (arXiv 2009.02252, section 3).

A page is any string that names it. Evidence is a collection of page sets: all pages of one set together prove the
answer, and each set proves it on its own. Predicted pages come best first; a page named again counts only once, at
its first place. Knows neither files nor answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

Evidence = Sequence[Collection[str]]


def r_precision(pages: Sequence[str], evidence: Evidence) -> float:
    """The share of right pages among the first R, R being the size of the evidence set; the best over the sets.

    0 without evidence.
    """
    predicted = list(dict.fromkeys(pages))
    return max((_r_precision(predicted, set(wanted)) for wanted in evidence), default=0.0)


def _r_precision(predicted: Sequence[str], wanted: set[str]) -> float:
    if not wanted:
        return 0.0
    return sum(page in wanted for page in predicted[: len(wanted)]) / len(wanted)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Predicted pages, with the pages of one evidence set drawn together.

    Attributes:
        hits: per place, best first, whether an evidence set is complete there. A set stands where its last page
            does; a page of no set takes a place of its own.
        sets: how many different evidence sets there are. An empty set counts, and is never found.
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
    """Ranks evidence sets by predicted pages. A page that is in several sets takes a place for each."""
    sets = list(dict.fromkeys(frozenset(wanted) for wanted in evidence))
    missing = [set(wanted) for wanted in sets]
    places: list[tuple[int | None, bool]] = []  # (the set a page is of, is the set complete with it)
    for page in dict.fromkeys(pages):
        owners = [number for number, left in enumerate(missing) if page in left]
        for number in owners:
            missing[number].remove(page)
            places.append((number, not missing[number]))
        if not owners:
            places.append((None, False))
    last = {owner: at for at, (owner, _) in enumerate(places)}
    hits = (done for at, (owner, done) in enumerate(places) if owner is None or last[owner] == at)
    return Ranking(tuple(hits), len(sets))
