"""Answers against values worked out by hand; ROUGE-L also against values of the `rouge` package."""

from __future__ import annotations

import pytest

from memstore.evaluate import accuracy, exact_match, f1, normalise_answer, rouge_l
from memstore.questions.rouge import rouge_l_pair


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("a an the", ""),
        ("theatre an-d another", "theatre and another"),  # articles are words; punctuation leaves no gap
        ("the-rapist", "therapist"),  # punctuation goes before articles do
        ("1992–1998", "1992–1998"),  # only ASCII punctuation is known
        ("Škoda\tÉ\n", "škoda é"),
        ("A.B. the C", "ab c"),
        ("Straße", "straße"),  # lower case is not case folding: "strasse" is another answer
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),  # accuracy, exact match, F1
    [
        ("Paris", ["London", "Paris"], (1, 1, 1)),
        (" Paris\n", ["Paris "], (1, 1, 1)),
        ("the paris.", ["Paris"], (0, 1, 1)),
        ("Paris, France", ["Paris"], (0, 0, 2 / 3)),  # precision 1/2, recall 1
        ("red red blue", ["red green blue red"], (0, 0, 6 / 7)),  # 3 of 3, 3 of 4: words count as often as they occur
        ("red red red", ["red"], (0, 0, 1 / 2)),
        ("big red", ["red car", "big red car"], (0, 0, 4 / 5)),  # the best answer counts
        ("London", ["Paris"], (0, 0, 0)),
        ("the", ["The"], (0, 1, 0)),  # both are nothing once normalised: equal, but no word in common
        ("the", ["an"], (0, 1, 0)),
        ("", ["Paris"], (0, 0, 0)),
        ("  ", ["  "], (0, 0, 0)),  # no answer is never right
        ("Paris", [], (0, 0, 0)),
    ],
)
def test_scores(prediction: str, answers: list[str], expected: tuple[float, float, float]) -> None:
    scores = (accuracy(prediction, answers), exact_match(prediction, answers), f1(prediction, answers))
    assert scores == pytest.approx(expected, abs=1e-12)


def rouge_f(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall + 1e-8)


@pytest.mark.parametrize(
    ("prediction", "reference", "precision", "recall"),
    [
        ("Paris", "Paris", 1, 1),
        ("paris", "Paris", 0, 0),  # not normalised: case counts
        ("the cat sat", "the big cat", 2 / 3, 2 / 3),
        ("cat the", "the cat", 1 / 2, 1 / 2),  # order counts
        ("a a a b", "a b", 1, 1),  # each distinct word once
        ("a a b", "b a", 1 / 2, 1 / 2),
        ("b a", "a b. b a", 1, 1),  # the union over sentences
        ("b. a", "a b", 1, 1),
        ("x y", "x.y", 1, 1),  # a full stop ends a sentence even inside a number or a name
        ("a. .b", "a b", 2 / 3, 1),  # white space between two full stops is a sentence of one empty word
        ("...", "a", 0, 0),
        ("a", ".", 0, 0),
        ("", "a", 0, 0),
    ],
)
def test_rouge_l_by_hand(prediction: str, reference: str, precision: float, recall: float) -> None:
    expected = rouge_f(precision, recall) if precision else 0.0
    assert rouge_l_pair(prediction, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("c a a d. d. a", "a d. b a c d.", 0.8571428522448981),
        ("d. b a c b", "d. c b a a B b c", 0.8888888839506174),
        ("c B c b a B c a", "a a B b d.", 0.4999999950000001),
        ("a c b c B d. a c", "b a B a b", 0.49999999531250006),
    ],
)
def test_rouge_l_by_the_package(prediction: str, reference: str, score: float) -> None:
    """Repeated words, where it matters which longest common subsequence is taken. Scores by `rouge` 1.0.1."""
    assert rouge_l_pair(prediction, reference) == pytest.approx(score, abs=1e-12)


def test_rouge_l_takes_the_best_answer() -> None:
    assert rouge_l(" big red ", ["blue", "big red car", "car"]) == pytest.approx(rouge_f(1, 2 / 3), abs=1e-12)


def test_rouge_l_of_a_perfect_answer_is_not_quite_one() -> None:
    assert 0.99999999 < rouge_l("Paris", ["Paris"]) < 1.0


def test_rouge_l_of_long_answers() -> None:
    text = " ".join(f"w{n}" for n in range(1200))
    assert rouge_l(text, [text]) == pytest.approx(1.0, abs=1e-8)
