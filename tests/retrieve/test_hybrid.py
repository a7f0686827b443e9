"""Reciprocal rank fusion against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from memstore.errors import ConfigError
from memstore.retrieve.hybrid import DEPTH, HybridRetriever
from tests.retrieve.retrieve_cases import FixedRanking, Letters


def test_by_hand() -> None:
    hybrid = HybridRetriever([FixedRanking("a", "b", "c"), FixedRanking("c", "a", "d")], Letters())
    [hits] = hybrid.search(["q"], 10)
    assert [(h.passage_id, h.score) for h in hits] == [
        ("a", pytest.approx(1 / 61 + 1 / 62)),
        ("c", pytest.approx(1 / 63 + 1 / 61)),
        ("b", pytest.approx(1 / 62)),
        ("d", pytest.approx(1 / 63)),
    ]


@pytest.mark.parametrize(
    ("rankings", "k0", "expected"),
    [
        ([["a", "b"], ["b", "a"]], 60, ["a", "b"]),  # equal scores, equal best ranks: by id
        ([["b"], ["a"]], 60, ["a", "b"]),
        ([["z", "b"], ["y", "b"]], 60, ["b", "y", "z"]),  # found twice beats found first, at k0 = 60
        ([["z", "b"], ["y", "b"]], 0, ["y", "z", "b"]),  # 1/2 + 1/2 = 1/1: the better best rank
        ([["x", "y", "a"], ["w", "v", "u"], ["a", "t", "s"]], 1, ["a", "w", "x", "t", "v", "y", "s", "u"]),
        ([[], ["a"]], 60, ["a"]),
        ([[], []], 60, []),
    ],
)
def test_order(rankings: list[list[str]], k0: int, expected: list[str]) -> None:
    hybrid = HybridRetriever([FixedRanking(*ranking) for ranking in rankings], Letters(), k0=k0)
    assert [h.passage_id for h in hybrid.search(["q"], 10)[0]] == expected


@pytest.mark.parametrize(("k", "asked"), [(1, DEPTH), (DEPTH, DEPTH), (DEPTH + 5, DEPTH + 5)])
def test_how_deep_it_asks(k: int, asked: int) -> None:
    parts = [FixedRanking("a", "b", "c"), FixedRanking("c")]
    assert [len(hits) for hits in HybridRetriever(parts, Letters()).search(["q", "r"], k)] == [min(k, 3)] * 2
    assert [part.asked for part in parts] == [[asked], [asked]]


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {}, "at least one retriever"),
        ([FixedRanking("a")], {"k0": -1}, "not -1 and 100"),
        ([FixedRanking("a")], {"depth": 0}, "not 60 and 0"),
    ],
)
def test_what_cannot_be_fused(parts: list[FixedRanking], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridRetriever(parts, Letters(), **options)


def test_only_passages_that_may_be_among_the_first_k_are_read() -> None:
    """ "b" and "e" tie for the third place, so both are named; "c", "f" and whatever comes after are not."""
    letters = Letters()
    parts = [FixedRanking("a", "d", "e", "f"), FixedRanking("a", "d", "b", "c")]
    [hits] = HybridRetriever(parts, letters).search(["q"], 3)
    assert [h.passage_id for h in hits] == ["a", "d", "b"]
    assert sorted(letters.named) == ["a", "b", "d", "e"]
