"""Windows of passages: short enough, with eos, after their titles, and around what is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.train.data.ragged import Ints
from memstore.train.data.windows import Windows, find
from tests.train.data import data_cases as cases

TITLE = "Nile"
TEXT = "one two three four five six seven eight nine ten"


def encoded(text: str) -> Ints:
    """Its tokens, without eos."""
    return cases.tokenizer().encode_answers([text], max_tokens=500)[0][:-1]


TOKENS = cases.tokenizer().encode_answers([f"{TITLE}: {TEXT}"], max_tokens=500)[0]
HEAD = encoded(f"{TITLE}:")


def text(ids: Ints) -> str:
    return cases.tokenizer().decode(ids.tolist())


def cut(around: tuple[int, int] | None, most: int, number: int) -> Ints:
    return Windows(cases.tokenizer()).cut(TOKENS, around, most, np.random.default_rng(number))


def test_a_passage_that_fits_stays_as_it_is() -> None:
    assert cut(None, len(TOKENS), 0).tolist() == TOKENS.tolist()


@pytest.mark.parametrize(("asked", "places"), [("one", 1), ("two three", 5), ("five", 8), ("ten", 1)])
def test_a_window_keeps_the_title_and_holds_what_is_asked_for(asked: str, places: int) -> None:
    before, _, _ = TEXT.partition(asked)
    begin, end = len(encoded(f"{TITLE}: {before}".rstrip())), len(encoded(f"{TITLE}: {before}{asked}"))
    most = len(HEAD) + end - begin + 8
    assert most < len(TOKENS)
    windows = [cut((begin, end), most, n) for n in range(40)]
    for window in windows:
        assert len(window) == most
        assert window[-1] == TOKENS[-1]
        assert window[: len(HEAD)].tolist() == HEAD.tolist()
        assert find(window, TOKENS[begin:end]) is not None
    assert len({text(w) for w in windows}) == places


def test_without_anything_asked_for_a_window_may_be_anywhere() -> None:
    seen = {i for n in range(200) for i in cut(None, len(HEAD) + 6, n).tolist()}
    assert seen == set(TOKENS.tolist())


def test_the_title_is_dropped_if_what_is_asked_for_needs_its_room() -> None:
    most = len(HEAD) + 8
    begin, end = len(HEAD) + 3, len(HEAD) + 3 + most - 1
    assert find(cut((begin, end), most, 0), TOKENS[begin:end]) is not None


def test_find() -> None:
    tokens = np.array([5, 6, 7, 6, 7, 8])
    assert find(tokens, np.array([6, 7])) == (1, 3)
    assert find(tokens, np.array([6, 7, 8])) == (3, 6)
    assert find(tokens, np.array([7, 5])) is None
    assert find(tokens, np.array([], dtype=np.int64)) is None
    assert find(tokens[:1], np.array([5, 6])) is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{title}: {text}", TITLE),
        ("title: {title} context: {text}", TITLE),
        ("about : {title} : {text}", TITLE),
        ("{text}", ""),
        ("{text} ({title})", ""),
    ],
)
def test_the_title_of_a_passage(template: str, expected: str) -> None:
    tokenizer = cases.tokenizer(passage_template=template)
    filled = template.replace("{title}", TITLE).replace("{text}", TEXT)
    tokens = tokenizer.encode_answers([filled], max_tokens=500)[0]
    assert tokenizer.decode(Windows(tokenizer).title(tokens).tolist()) == expected


def test_a_window_keeps_all_that_comes_before_the_text() -> None:
    tokenizer = cases.tokenizer(passage_template="about : {title} : {text}")
    tokens = tokenizer.encode_answers([f"about : {TITLE} : {TEXT}"], max_tokens=500)[0]
    head = len(encoded(f"about : {TITLE} :"))
    window = Windows(tokenizer).cut(tokens, (len(tokens) - 3, len(tokens) - 1), 2 * head, np.random.default_rng(0))
    assert window[:head].tolist() == tokens[:head].tolist()
    assert find(window[head:], tokens[-3:]) is not None
