"""Indexes made from earlier ones: more passages, dead ones never found, earlier files untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tantivy

from memstore.passage import Passage
from memstore.retrieve import dense, lexical, numbered
from memstore.retrieve.dense import DenseRetriever, build_dense
from memstore.retrieve.dense_change import change_dense
from memstore.retrieve.encoders import EncoderRef, Vectors
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from memstore.retrieve.lexical_change import change_bm25
from memstore.retrieve.terms import ANALYZER
from tests import tiny

DIM = 8


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def found_by(retriever: Bm25Retriever | DenseRetriever, question: str, k: int) -> list[int]:
    return [int(hit.passage_id) for hit in retriever.search([question], k)[0]]


@pytest.fixture
def passages() -> list[Passage]:
    return [Passage(f"{i}", f"{i}", "", f"river common w{i}") for i in range(40)]


def test_bm25_finds_what_is_new_and_never_what_is_dead(tmp_path: Path, passages: list[Passage]) -> None:
    build_bm25(tmp_path / "1", passages[:30])
    before = bytes_of(tmp_path / "1")
    count = change_bm25(
        tmp_path / "2", tmp_path / "1", dead=[3, 4, 7], passages=passages[30:], start=30, skipped=frozenset([31])
    )
    assert count == 40
    retriever = Bm25Retriever(tmp_path / "2", numbered)
    assert (len(retriever), retriever.deleted) == (40, 4)
    assert sorted(found_by(retriever, "river", 40)) == [r for r in range(40) if r not in (3, 4, 7, 31)]
    assert found_by(retriever, "w35", 5) == [35]
    for gone in (3, 31):
        assert found_by(retriever, f"w{gone}", 5) == []
    assert bytes_of(tmp_path / "1") == before
    shared = {name for name, digest in before.items() if bytes_of(tmp_path / "2").get(name) == digest}
    assert all((tmp_path / "2" / name).samefile(tmp_path / "1" / name) for name in shared - {"meta.json"})
    assert any(name.endswith(".idx") for name in shared)


def test_a_word_of_dead_passages_alone_does_not_hide_what_stop_words_find(tmp_path: Path) -> None:
    build_bm25(tmp_path / "1", [Passage(f"{i}", f"{i}", "", said) for i, said in enumerate(["the lake", "the city"])])
    change_bm25(tmp_path / "2", tmp_path / "1", dead=[0], passages=[], start=2, skipped=frozenset())
    retriever = Bm25Retriever(tmp_path / "2", numbered)
    assert found_by(retriever, "the lake", 5) == [1]
    assert found_by(retriever, "the city", 5) == [1]
    assert found_by(retriever, "lake", 5) == []


def test_bm25_of_the_first_indexes_whose_rows_are_only_a_column(
    tmp_path: Path, passages: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def schema() -> tantivy.Schema:
        builder = tantivy.SchemaBuilder()
        for name in ("title", "text"):
            builder.add_text_field(name, tokenizer_name=ANALYZER, index_option="freq")
        builder.add_unsigned_field("row", fast=True)
        return builder.build()

    with monkeypatch.context() as patch:
        patch.setattr(lexical, "_schema", schema)
        build_bm25(tmp_path / "1", passages[:30])
    change_bm25(
        tmp_path / "2", tmp_path / "1", dead=[0, 1, 2, 9], passages=passages[30:], start=30, skipped=frozenset()
    )
    retriever = Bm25Retriever(tmp_path / "2", numbered)
    assert sorted(found_by(retriever, "common", 40)) == [r for r in range(40) if r not in (0, 1, 2, 9)]


def test_bm25_with_nine_of_ten_dead_and_with_all(tmp_path: Path, passages: list[Passage]) -> None:
    build_bm25(tmp_path / "1", passages)
    dead = [r for r in range(40) if r % 10]
    change_bm25(tmp_path / "2", tmp_path / "1", dead=dead, passages=[], start=40, skipped=frozenset())
    assert sorted(found_by(Bm25Retriever(tmp_path / "2", numbered), "river", 4)) == [0, 10, 20, 30]
    change_bm25(tmp_path / "3", tmp_path / "2", dead=[0, 10, 20, 30], passages=[], start=40, skipped=frozenset())
    assert found_by(Bm25Retriever(tmp_path / "3", numbered), "river", 4) == []


def test_many_small_additions_leave_few_bm25_segments_and_only_their_files(tmp_path: Path) -> None:
    build_bm25(tmp_path / "0", [Passage("0", "0", "", "river")])
    for i in range(1, 30):
        change_bm25(
            tmp_path / f"{i}", tmp_path / f"{i - 1}", dead=[], passages=[Passage(f"{i}", f"{i}", "", f"river w{i}")],
            start=i, skipped=frozenset(),
        )  # fmt: skip
    names = [p.name for p in (tmp_path / "29").iterdir()]
    assert len({name.split(".")[0] for name in names if name.endswith(".idx")}) < 9
    assert {name.split(".")[0] for name in names} - {"meta", "settings"} == {
        name.split(".")[0] for name in names if name.endswith(".idx")
    }
    assert sorted(found_by(Bm25Retriever(tmp_path / "29", numbered), "river", 40)) == list(range(30))


class Encoder:
    """The vector of a question is the one whose number it names."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors, self.dim = vectors, vectors.shape[1]

    def encode_questions(self, texts: Sequence[str]) -> Vectors:
        return self.vectors[[int(text) for text in texts]]

    def ref(self) -> EncoderRef:
        return EncoderRef(kind="memory")


@pytest.fixture
def vectors() -> Vectors:
    return np.random.default_rng(0).standard_normal((600, DIM)).astype(np.float32)


def nearest(vectors: Vectors, question: int, alive: np.ndarray, k: int) -> list[int]:
    rows = dense.unit(vectors)
    scores = rows @ rows[question]
    return [int(r) for r in np.argsort(-scores, kind="stable") if alive[r]][:k]


def build(folder: Path, vectors: Vectors) -> None:
    build_dense(folder, [vectors], count=len(vectors), dim=DIM, encoder=EncoderRef(kind="memory"))


@pytest.mark.parametrize("flat_limit", [100_000, 150])
def test_dense_finds_the_nearest_that_live(
    tmp_path: Path, vectors: Vectors, flat_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "FLAT_LIMIT", flat_limit)
    build(tmp_path / "1", vectors[:200])
    before = bytes_of(tmp_path / "1")
    settings = change_dense(
        tmp_path / "2", tmp_path / "1", vectors=lambda start: [vectors[start:230]], count=230, flat_limit=flat_limit
    )
    assert (settings.kind, settings.more) == ("ivf" if flat_limit == 150 else "flat", (30,))
    assert (tmp_path / "2" / dense.INDEX).samefile(tmp_path / "1" / dense.INDEX)
    alive = np.arange(230) % 10 == 0
    retriever = DenseRetriever(tmp_path / "2", Encoder(vectors), numbered, dead=np.flatnonzero(~alive))
    for question in (0, 5, 210, 229):
        got = found_by(retriever, f"{question}", 23)
        assert len(got) == 23
        assert set(got) == set(np.flatnonzero(alive).tolist())  # nine of ten are dead, and all that live are found
        if flat_limit > 150:
            assert got == nearest(vectors[:230], question, alive, 23)
            assert found_by(retriever, f"{question}", 5) == got[:5]
    assert bytes_of(tmp_path / "1") == before


def test_dense_parts_stay_few_and_the_index_is_built_again_when_they_hold_too_much(
    tmp_path: Path, vectors: Vectors
) -> None:
    build(tmp_path / "0", vectors[:100])
    parts = []
    for i in range(1, 103):
        settings = change_dense(
            tmp_path / f"{i}",
            tmp_path / f"{i - 1}",
            vectors=lambda start, i=i: [vectors[start : 100 + i]],
            count=100 + i,
        )
        parts.append(len(settings.more))
        assert settings.passages == 100 + i
    assert max(parts) <= 5
    assert settings.more == (1,)  # built again at 201
    retriever = DenseRetriever(tmp_path / "102", Encoder(vectors), numbered)
    assert found_by(retriever, "3", 9) == nearest(vectors[:202], 3, np.ones(202, bool), 9)


def test_a_dense_change_without_vectors_links_all(tmp_path: Path, vectors: Vectors) -> None:
    build(tmp_path / "1", vectors[:50])
    change_dense(tmp_path / "2", tmp_path / "1", vectors=lambda start: [vectors[start:60]], count=60)
    settings = change_dense(tmp_path / "3", tmp_path / "2", vectors=lambda start: [], count=60)
    assert settings.more == (10,)
    assert all(p.samefile(tmp_path / "2" / p.name) for p in (tmp_path / "3").glob("*.faiss"))


def test_tiny_words_are_found_after_a_change(tmp_path: Path) -> None:
    made = tiny.passages(30)
    build_bm25(tmp_path / "1", made[:20])
    change_bm25(tmp_path / "2", tmp_path / "1", dead=[], passages=made[20:], start=20, skipped=frozenset())
    build_bm25(tmp_path / "whole", made)
    for question in ("river city", "Paris"):
        whole = Bm25Retriever(tmp_path / "whole", numbered).search([question], 30)
        assert Bm25Retriever(tmp_path / "2", numbered).search([question], 30) == whole
