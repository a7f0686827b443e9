"""Which candidates of synthetic questions are kept: neither right nor wrong ones by chance.

A question made from a sentence knows its answer, not the passages that give it. A passage that holds the answer and
little else of the question ("1945") holds it by chance: reading it teaches to guess, and calling it wrong may be wrong.
So it is left out. `support` is the share of the question's words that a passage has, rare ones counting for more: each
by its inverse document frequency. Knows text; refuses to know tokens, retrievers and files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from memstore.passage import Passage
from memstore.questions.answers import normalise
from memstore.questions.files import GoldQuestion
from memstore.train.data.cache import ANSWER, TITLE
from memstore.train.data.salient_spans import FUNCTION_WORDS


@dataclass(slots=True)
class Rarity:
    """Inverse document frequencies of words, from some of a collection's passages."""

    passages: int = 0
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, passages: Iterable[Passage]) -> None:
        """Count the words of these passages."""
        for passage in passages:
            self.passages += 1
            self._counts.update(_words(passage, normalise(passage.text)))

    def of(self, word: str) -> float:
        """ln((n + 1) / (count + 1/2)): above 0 even for what stands in every passage."""
        return math.log((self.passages + 1) / (self._counts[word] + 0.5))

    def support(self, question: str, words: set[str]) -> float:
        """Share of a question's words, function words aside, that are among `words`; 1 for a question without any."""
        asked = {word: self.of(word) for word in set(normalise(question).split()) - FUNCTION_WORDS}
        total = sum(asked.values())
        return sum(rarity for word, rarity in asked.items() if word in words) / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The rule of one set of questions.

    Attributes:
        rarity: of words in the collection; asked only where there is `support`.
        support: candidates that hold an answer with less support than this are left out; 0 for none.
        elsewhere: candidates of a page that the question was made from are left out.
    """

    rarity: Rarity
    support: float = 0.0
    elsewhere: bool = False

    def stay(self, row: GoldQuestion, passages: Sequence[tuple[Passage, str]], marks: Sequence[int]) -> list[bool]:
        """For each passage, given with its normalised text and its mark, whether it is kept."""
        return [self._stays(row, *read, mark) for read, mark in zip(passages, marks, strict=True)]

    def _stays(self, row: GoldQuestion, passage: Passage, normalised: str, mark: int) -> bool:
        if mark & TITLE and self.elsewhere:
            return False
        if not mark & ANSWER or not self.support:
            return True
        return self.rarity.support(row.input, _words(passage, normalised)) >= self.support


def _words(passage: Passage, normalised: str) -> set[str]:
    return {*normalised.split(), *normalise(passage.title).split()}
