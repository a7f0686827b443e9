"""Filters that many rows pass, and are used again: what is found is the same as by the condition in the query."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.passage import Passage
from memstore.retrieve import broad, dense_parts, numbered
from memstore.retrieve.broad import Broad, BroadFilters
from memstore.retrieve.dense import DenseRetriever, build_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.filters import Filter
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from tests.retrieve.retrieve_cases import WordEncoder, corpus, hits_of

ROWS = 400
DEAD = frozenset(range(0, ROWS, 7))
QUESTIONS = ["river Nile", "the mountain of year 1917", "Curie the chemist", "the city of the river", "the"]
WHERE = Filter.of({"share": {"lt": 0.5}})


def passages() -> list[Passage]:
    """Each text eight times or so, so that many scores are equal; half of them pass, in no order."""
    shares = np.random.default_rng(0).permutation(ROWS) / ROWS
    few = corpus(50)
    return [
        replace(few[row % len(few)], id=f"p{row}", document_id=f"p{row}", metadata={"share": float(shares[row])})
        for row in range(ROWS)
    ]


@pytest.fixture
def lexical(tmp_path: Path) -> Bm25Retriever:
    build_bm25(tmp_path / "lexical", passages(), dead=DEAD)
    return Bm25Retriever(tmp_path / "lexical", hits_of(passages()))


def searches_of(retriever: Bm25Retriever, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hits each search of Tantivy asks for, from now on."""
    asked: list[int] = []
    searcher = retriever._searcher

    class Noted:
        def __getattr__(self, name: str) -> Any:
            return getattr(searcher, name)

        def search(self, query: Any, *, limit: int, count: bool) -> Any:
            asked.append(limit)
            return searcher.search(query, limit=limit, count=count)

    monkeypatch.setattr(retriever, "_searcher", Noted())
    return asked


@pytest.mark.parametrize("k", [1, 3, 20, 150, 300])
def test_the_second_use_finds_what_the_first_does(lexical: Bm25Retriever, k: int, monkeypatch) -> None:
    monkeypatch.setattr(broad, "LEAST_SHARE", 2.0)
    by_query = [lexical.search([question], k, [WHERE])[0] for question in QUESTIONS]
    monkeypatch.setattr(broad, "LEAST_SHARE", 0.25)
    lexical._broad = BroadFilters(total=ROWS, live=ROWS - len(DEAD))
    lexical.search(["x"], 1, [WHERE])
    assert lexical._broad.of(WHERE, lexical.rows) is not None
    assert [lexical.search([question], k, [WHERE])[0] for question in QUESTIONS] == by_query


def test_which_rows_pass_is_asked_at_the_second_use_and_only_then(lexical: Bm25Retriever, monkeypatch) -> None:
    asked = searches_of(lexical, monkeypatch)
    found = [lexical.search(["river Nile"], 2, [WHERE]) for _ in range(4)]
    assert found == [found[0]] * 4
    live = ROWS - len(DEAD)
    assert asked.count(live) == 1  # all that pass
    assert asked.index(live) >= 1
    assert len(asked) >= 5


def test_too_few_that_pass_are_looked_for_with_the_condition(lexical: Bm25Retriever) -> None:
    """The rows are said to be the worst ones: none of them is among the few that are found."""
    [ranking] = lexical.search_rows(["river Nile"], ROWS)
    worst = np.sort(np.asarray([row for row, _ in ranking[len(ranking) // 2 :]]))
    query = lexical._query(lexical.terms("river Nile"))
    assert lexical._best_of_broad(query, 3, Broad.of(worst, total=ROWS, live=len(ranking))) == []
    best = np.sort(np.asarray([row for row, _ in ranking[: len(ranking) // 2]]))
    found = lexical._best_of_broad(query, 3, Broad.of(best, total=ROWS, live=len(ranking)))
    assert found == ranking[:3]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broad, "KEPT", 2)
    asked: list[Filter] = []

    def rows_of(where: Filter) -> np.ndarray:
        asked.append(where)
        return np.arange(0, 10, 2)

    filters = BroadFilters(total=11, live=10)
    a, b, c = (Filter.of({"n": n}) for n in range(3))
    assert [filters.of(where, rows_of) is None for where in (a, a, a, b, b)] == [True, False, False, True, False]
    assert asked == [a, b]
    filters.of(c, rows_of)  # forgets a
    assert filters.of(a, rows_of) is None
    assert filters.of(a, rows_of) is not None
    assert asked == [a, b, a]
    assert len(filters._known) == 2
    assert filters._asked <= set(filters._known)


def test_a_narrow_filter_and_a_large_index_keep_their_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Filter] = []

    def rows_of(where: Filter) -> np.ndarray:
        asked.append(where)
        return np.arange(2)

    filters = BroadFilters(total=100, live=100)
    assert [filters.of(WHERE, rows_of) for _ in range(4)] == [None] * 4
    assert asked == [WHERE]
    monkeypatch.setattr(broad, "MOST_ROWS", 99)
    large = BroadFilters(total=100, live=100)
    assert [large.of(WHERE, rows_of) for _ in range(4)] == [None] * 4
    assert asked == [WHERE]


def test_bits_say_which_rows_pass() -> None:
    made = Broad.of(np.asarray([0, 7, 8, 20]), total=21, live=8)
    assert made.passes(list(range(21))).nonzero()[0].tolist() == [0, 7, 8, 20]
    assert (made.share, made.bits.nbytes, made.passes([]).tolist()) == (0.5, 3, [])
    assert made.wanted(40) > 80


# --- vectors -----------------------------------------------------------------------------------------------------


def flat(folder: Path, vectors: np.ndarray, rows: np.ndarray, dead: np.ndarray) -> DenseRetriever:
    class Given(WordEncoder):
        dim = vectors.shape[1]

        def encode_questions(self, texts: Any) -> Any:
            return vectors[[int(text) for text in texts]] + 0.01

    encoder = EncoderRef(kind="memory")
    build_dense(folder, [vectors], count=len(vectors), dim=vectors.shape[1], encoder=encoder)
    live = np.setdiff1d(rows, dead)
    return DenseRetriever(folder, Given(), numbered, dead=dead, passing=lambda _: live)


@pytest.mark.parametrize("tied", [False, True])
def test_a_flat_index_finds_the_nearest_that_pass(tmp_path: Path, tied: bool, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 7)).astype(np.float32)
    if tied:
        vectors[:] = vectors[np.arange(300) % 5]
    rows, dead = np.sort(rng.permutation(300)[:160]), np.arange(0, 300, 11)
    found = {}
    for name, few, least in (("one by one", 1000, 0.25), ("dropped", -1, 0.25), ("chosen", -1, 2.0)):
        monkeypatch.setattr(dense_parts, "FEW_ROWS", few)
        monkeypatch.setattr(dense_parts, "LEAST_SHARE", least)
        retriever = flat(tmp_path / name, vectors, rows, dead)
        asked = itertools.product(("0", "8"), (1, 5, 60, 400), ([None], [WHERE]))
        found[name] = [
            [(hit.passage_id, pytest.approx(hit.score, abs=1e-5)) for hit in retriever.search([q], k, where)[0]]
            for q, k, where in asked
        ]
    assert found["dropped"] == found["one by one"] == found["chosen"]


def test_the_vectors_of_few_rows_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 7)).astype(np.float32)
    retriever = flat(tmp_path / "d", vectors, np.arange(0, 300, 30), np.empty(0, np.int64))
    retriever.search(["1"], 5, [WHERE])
    (part,) = retriever._filtered[WHERE]
    assert part.vectors is not None
    assert part.bytes_kept == 10 * 8 + 10 * 7 * 4
    monkeypatch.setattr(retriever._parts[0].index, "reconstruct_batch", None)
    assert len(retriever.search(["1"], 5, [WHERE])[0]) == 5


def test_filters_that_take_much_memory_are_forgotten_sooner(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("memstore.retrieve.dense.FILTER_BYTES", 1000)
    vectors = np.random.default_rng(0).standard_normal((300, 7)).astype(np.float32)
    retriever = flat(tmp_path / "d", vectors, np.arange(0, 300, 30), np.empty(0, np.int64))  # 360 bytes each
    filters = [Filter.of({"n": n}) for n in range(4)]
    for where in filters:
        retriever.search(["1"], 5, [where])
    assert list(retriever._filtered) == filters[2:]
