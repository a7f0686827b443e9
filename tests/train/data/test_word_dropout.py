"""Dropping words from token sequences."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.train.data.ragged import Ints
from memstore.train.data.word_dropout import Words
from tests.train.data import data_cases as cases

TEXT = "the composer lived and died in Vienna"


def encoded(text: str) -> Ints:
    """Its tokens, without eos."""
    return cases.tokenizer().encode_answers([text], max_tokens=500)[0][:-1]


def thinned(keep: float, seed: int, least: int = 1) -> list[str]:
    ids = Words(cases.tokenizer()).thinned(encoded(TEXT), keep, np.random.default_rng(seed), least=least)
    return cases.tokenizer().decode(ids.tolist()).split()


def test_whole_words_are_dropped_and_the_rest_stays_in_order() -> None:
    words = TEXT.split()
    lengths = []
    for seed in range(200):
        rest = iter(words)
        short = thinned(0.6, seed)
        assert all(word in rest for word in short)
        lengths.append(len(short))
    assert abs(np.mean(lengths) / len(words) - 0.6) < 0.05


def test_how_many_words_stay_at_least() -> None:
    assert all(len(thinned(0.0, seed)) == 1 for seed in range(5))
    assert thinned(0.0, 0, least=0) == []
    assert thinned(1.0, 0) == TEXT.split()


@pytest.mark.parametrize(
    ("other", "rest"),
    [("Vienna", "the composer lived and died in"), ("died", "the composer lived and in Vienna"), ("", TEXT)],
)
def test_words_of_another_text_are_dropped_whole(other: str, rest: str) -> None:
    ids = Words(cases.tokenizer()).without(encoded(TEXT), encoded(other))
    assert cases.tokenizer().decode(ids.tolist()) == rest
