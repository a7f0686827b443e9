"""Answers written as their passages write them."""

from __future__ import annotations

import pytest

from memstore.decode.spelling import spelled

TEXTS = [
    "Marie Curie (born in Warsaw) won it in the U.S. in 1921; it cost $1,000 or so.",
    "CURIE was the co-founder of the Radium Institute, with a half-life of 1,600 years. Ask J. R. R. Tolkien's agent.",
]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("marie curie", "Marie Curie"),
        ("curie", "Curie"),  # the first text first
        ("u. s", "U.S"),
        ("u.s.", "U.S."),
        ("$ 1, 000", "$1,000"),
        ("cofounder", "cofounder"),  # other words: left alone
        ("co- founder", "co-founder"),
        ("j.r.r. tolkien", "J. R. R. Tolkien"),
        ("radium institute", "Radium Institute"),
        ("art", "art"),  # never a part of a word
        ("nobody", "nobody"),
        ("", ""),
        ("?!", "?!"),
        ("(born in warsaw)", "(born in Warsaw)"),
        ("(marie curie)", "Marie Curie"),  # signs at its ends may be missing
    ],
)
def test_an_answer_is_spelled_as_the_first_passage_that_holds_it(answer: str, expected: str) -> None:
    assert spelled(answer, TEXTS) == expected


def test_letters_in_several_signs_are_found_and_composed() -> None:
    texts = ["It was Beyonce\u0301 Knowles, the \ufb01rst Lady of pop, on 5 km\u00b2."]
    assert spelled("beyonc\u00e9 knowles", texts) == "Beyonc\u00e9 Knowles"
    assert spelled("first lady", texts) == "first Lady"
    assert spelled("beyonc\u00e9", [*texts, "Beyonc\u00e9!"]) == "Beyonc\u00e9"


def test_words_in_brackets_and_lines_are_not_joined() -> None:
    assert spelled("one two", ["One\nTwo", "One -- Two"]) == "One -- Two"


@pytest.mark.parametrize(
    ("answer", "texts", "expected"),
    [
        ("दिल", ["दल here, दुल there"], "दिल"),  # Hindi: heart, not party
        ("दिल", ["दल here, दिल there"], "दिल"),
        ("कि", ["की"], "कि"),  # the last letter's sign too
        ("dal दिल", ["DAL (दिल)"], "DAL (दिल"),
        ("cafe a", ["Cafe\u0301 A", "Cafe A"], "Cafe A"),  # an accent is part of its word
    ],
)
def test_signs_on_a_letter_are_of_the_word(answer: str, texts: list[str], expected: str) -> None:
    assert spelled(answer, texts) == expected
