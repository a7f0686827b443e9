"""How often tasks are drawn, which answer is trained on, where answers are found."""

from __future__ import annotations

from typing import Any

import pytest

from memstore.errors import ConfigError
from memstore.questions.answers import holds, normalise, same_title, searchable_answers
from memstore.train.data.tasks import choose_answer, mixture


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"a": 0.5, "b": 0.5, "none": 0.0}),
        (1.0, {"a": 0.8, "b": 0.2, "none": 0.0}),
        (2.0, {"a": 2 / 3, "b": 1 / 3, "none": 0.0}),  # square roots of 400 and 100 are 20 and 10
        (float("inf"), {"a": 0.5, "b": 0.5, "none": 0.0}),
        ({"a": 1, "b": 3}, {"a": 0.25, "b": 0.75, "none": 0.0}),
        ({"b": 2, "none": 2}, {"a": 0.0, "b": 1.0, "none": 0.0}),
    ],
)
def test_mixture(weights: Any, expected: dict[str, float]) -> None:
    assert mixture({"a": 400, "b": 100, "none": 0}, weights=weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "says"),
    [({"c": 1}, "unknown task"), ({"a": -1}, "not negative"), ({"a": 0}, "no task is left"), (0.0, "above 0"),
     ({"a": "half"}, "must be numbers"), ({"a": True}, "must be numbers"), ({"a": float("nan")}, "finite")],
)  # fmt: skip
def test_impossible_mixtures(weights: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        mixture({"a": 1}, weights=weights)


def test_which_answer_is_trained_on() -> None:
    assert choose_answer([3, 1, 1], "first", 0.9) == 0
    assert choose_answer([3, 1, 1], "shortest", 0.9) == 1
    assert [choose_answer([3, 1, 1], "random", draw) for draw in (0.0, 0.34, 0.99)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick, brown\nFox!", "quick brown fox"),
        ("U.S. dollars: 1,000.50", "us dollars 100050"),
        ("the war of 1939–1945 (Europe)", "war of 1939 1945 europe"),
        ("England's king, O’Brien", "england s king obrien"),
        ("an _A_ the", ""),
        ("Ｐａｄｍé", "padmé"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_answers_are_found_as_whole_words_only() -> None:
    text = normalise("The Nile's delta: 1,000 km, near Cairo.")
    for answer, found in {"the Nile": True, "1000": True, "Cair": False, "km near": True, "Nil": False}.items():
        assert holds(text, searchable_answers([answer])) is found, answer


def test_verdicts_and_empty_answers_are_not_searched_for() -> None:
    assert searchable_answers(["SUPPORTS", "No", "The", "Nile", "the nile"]) == ["nile"]


def test_titles_are_compared_as_pages_are_named() -> None:
    assert same_title("the_Nile", "The  Nile")
    assert not same_title("The Nile", "The nile")
