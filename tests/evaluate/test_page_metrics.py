"""Pages against values worked out by hand."""

from __future__ import annotations

import pytest

from memstore.evaluate.pages import r_precision, rank_evidence


@pytest.mark.parametrize(
    ("pages", "evidence", "expected"),
    [
        ("1", ["1"], 1),
        ("21", ["1"], 0),  # R is 1: only the first place counts
        ("12", ["12"], 1),
        ("132", ["12"], 1 / 2),
        ("1", ["12"], 1 / 2),  # fewer pages than R: still divided by R
        ("113", ["14"], 1 / 2),  # a page named again counts once,
        ("221", ["13"], 1 / 2),  # and does not use up one of the first R places
        ("21", ["13", "2"], 1),  # the best of the sets
        ("1", ["11"], 1),
        ("", ["1"], 0),
        ("1", [], 0),
        ("1", [""], 0),
    ],
)
def test_r_precision(pages: str, evidence: list[str], expected: float) -> None:
    assert r_precision(list(pages), [list(wanted) for wanted in evidence]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("pages", "evidence", "hits", "sets"),
    [
        ("12", ["1"], [True, False], 1),
        ("112", ["1"], [True, False], 1),
        ("31", ["1", "2"], [False, True], 2),
        ("132", ["12"], [False, True], 1),  # 1 waits for 2: the place of a set is that of its last page
        ("12", ["12"], [True], 1),  # two pages, one place
        ("1", ["12"], [False], 1),
        ("12", ["1", "1", "2"], [True, True], 2),  # the same set twice is one set
        ("12", ["12", "21"], [True], 1),
        ("1", ["1", "12"], [True, False], 2),  # one page has a place for each of its sets
        ("132", ["1", "12"], [True, False, True], 2),
        ("1", ["1", ""], [True], 2),  # an empty set counts and is never found
        ("", ["1"], [], 1),
        ("1", [], [False], 0),
    ],
)
def test_ranks(pages: str, evidence: list[str], hits: list[bool], sets: int) -> None:
    ranking = rank_evidence(pages, [list(wanted) for wanted in evidence])
    assert (list(ranking.hits), ranking.sets) == (hits, sets)


@pytest.mark.parametrize(
    ("k", "precision", "recall", "success"),
    [(1, 0, 0, 0), (2, 1 / 2, 1 / 3, 1), (4, 2 / 4, 2 / 3, 1), (8, 2 / 8, 2 / 3, 1)],
)
def test_scores_at_k(k: int, precision: float, recall: float, success: float) -> None:
    ranking = rank_evidence("9172", ["1", "2", "5"])
    found = (ranking.precision(k), ranking.recall(k), ranking.success(k))
    assert found == pytest.approx((precision, recall, success), abs=1e-12)


def test_scores_without_evidence_are_zero() -> None:
    ranking = rank_evidence("12", [])
    assert (ranking.precision(1), ranking.recall(1), ranking.success(1)) == (0, 0, 0)
