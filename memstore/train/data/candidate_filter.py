"""Chooses which candidates of synthetic questions are kept: not those that hold the answer by chance.

For a question that was made from a sentence, the answer is known, but not which passages prove it. A passage that holds
the answer ("1945") and little else of the question holds it by chance. As a right passage it would teach to guess; as a
wrong one it may be labelled falsely. So it is left out. `support` measures this: the share of the question's words that
a passage has, each word weighted by its inverse document frequency. Knows text; refuses to know tokens, retrievers and
files.
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
    """Inverse document frequencies of words, counted over some of a collection's passages."""

    passages: int = 0
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, passages: Iterable[Passage]) -> None:
        """Count the words of these passages."""
        for passage in passages:
            self.passages += 1
            self._counts.update(_words(passage, normalise(passage.text)))

    def of(self, word: str) -> float:
        """ln((n + 1) / (count + 1/2)): above 0 even for a word in every passage."""
        return math.log((self.passages + 1) / (self._counts[word] + 0.5))

    def support(self, question: str, words: set[str]) -> float:
        """The weighted share of a question's words that are among `words`; 1 for a question without any.

        Function words do not count.
        """
        asked = {word: self.of(word) for word in set(normalise(question).split()) - FUNCTION_WORDS}
        total = sum(asked.values())
        return sum(rarity for word, rarity in asked.items() if word in words) / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The rule for the candidates of one question set.

    Attributes:
        rarity: of words in the collection; used only where `support` is above 0.
        support: candidates that hold an answer with less support than this are left out; 0 leaves none out.
        elsewhere: whether candidates of the page that the question was made from are left out.
        asked: whether, of the candidates that hold an answer, only the passage asked about stays. Whether the others
            answer too, nobody knows.
    """

    rarity: Rarity
    support: float = 0.0
    elsewhere: bool = False
    asked: bool = False

    def stay(self, row: GoldQuestion, passages: Sequence[tuple[Passage, str]], marks: Sequence[int]) -> list[bool]:
        """For each passage whether it is kept. A passage comes with its normalised text, and has a mark."""
        return [self._stays(row, *read, mark) for read, mark in zip(passages, marks, strict=True)]

    def _stays(self, row: GoldQuestion, passage: Passage, normalised: str, mark: int) -> bool:
        if mark & TITLE and self.elsewhere:
            return False
        if mark & ANSWER and self.asked and passage.id not in row.passages:
            return False
        if not mark & ANSWER or not self.support:
            return True
        return self.rarity.support(row.input, _words(passage, normalised)) >= self.support


def _words(passage: Passage, normalised: str) -> set[str]:
    return {*normalised.split(), *normalise(passage.title).split()}
