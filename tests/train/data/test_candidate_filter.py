"""Candidates that hold an answer by chance: their support by hand, and what a set of questions keeps."""

from __future__ import annotations

import math

import pytest

from memstore.passage import Passage
from memstore.questions.files import GoldQuestion
from memstore.train.data.cache import ANSWER, TITLE
from memstore.train.data.candidate_filter import Rarity, Screen


def _passage(name: str, title: str, text: str) -> tuple[Passage, str]:
    return Passage(name, name, title, text, end=len(text)), text


PASSAGES = [
    _passage("a", "Wine", "red wine grows in burgundy since 1395"),
    _passage("b", "Kings", "the king died in 1395"),
    _passage("c", "Burgundy", "red wine"),
    _passage("d", "Paint", "red"),
]
ROW = GoldQuestion(
    id="1", input="when was red wine first grown in Burgundy", answers=("1395",), evidence=(), titles=("Wine",)
)


@pytest.fixture
def rarity() -> Rarity:
    counted = Rarity()
    counted.add(passage for passage, _ in PASSAGES)
    return counted


def test_rarity_is_inverse_document_frequency(rarity: Rarity) -> None:
    assert rarity.of("king") == pytest.approx(math.log(5 / 1.5))
    assert rarity.of("red") == pytest.approx(math.log(5 / 3.5))
    assert rarity.of("unheard") == pytest.approx(math.log(5 / 0.5))
    assert rarity.of("wine") == rarity.of("burgundy") == pytest.approx(math.log(5 / 2.5))  # titles count


def test_support_is_the_weighted_share_of_the_questions_words(rarity: Rarity) -> None:
    weights = {word: rarity.of(word) for word in ("red", "wine", "first", "grown", "burgundy")}
    expected = (weights["red"] + weights["wine"]) / sum(weights.values())
    assert rarity.support(ROW.input, {"red", "wine", "since"}) == pytest.approx(expected)
    assert rarity.support("when was it", set()) == 1.0  # nothing to support


def test_which_candidates_stay(rarity: Rarity) -> None:
    marks = [ANSWER | TITLE, ANSWER, 0, 0]

    def stay(support: float, *, elsewhere: bool) -> list[bool]:
        return Screen(rarity=rarity, support=support, elsewhere=elsewhere).stay(ROW, PASSAGES, marks)

    assert stay(0.0, elsewhere=False) == [True, True, True, True]
    assert stay(0.2, elsewhere=False) == [True, False, True, True]  # the king's year is there by chance
    assert stay(0.2, elsewhere=True) == [False, False, True, True]
    assert stay(0.0, elsewhere=True) == [False, True, True, True]
