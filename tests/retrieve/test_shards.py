"""Several indexes searched as one: what is found, and its scores, are those of one index over all passages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from memstore.errors import IndexCorrupt
from memstore.passage import Passage
from memstore.retrieve import Hit, Retriever
from memstore.retrieve.dense import DenseRetriever, build_dense
from memstore.retrieve.dense_shards import DenseShards
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.filters import Filter
from memstore.retrieve.hybrid import HybridRetriever
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from memstore.retrieve.lexical_change import change_bm25
from memstore.retrieve.metadata_terms import IndexedFields
from memstore.store.shard_list import shard_of
from memstore.store.sharded import ShardRows
from tests.retrieve.retrieve_cases import WordEncoder, hits_of

WORDS = ["nile", "flood", "egypt", "lake", "rhine", "the", "of", "vienna", "mozart", "city"]
QUESTIONS = ["nile flood", "the lake of vienna", "mozart", "the of", "rhine city egypt nile", "absent"]
WHERE = Filter.of({"lang": "en"})
SIZE = 90


def random_passages(seed: int) -> list[Passage]:
    """Few words and short texts, so that many passages have one score; metadata for two in three of them."""
    draw = random.Random(seed)
    made = []
    for row in range(SIZE):
        title, text = draw.choice(WORDS), " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        metadata = {"lang": draw.choice(["en", "de"])} if row % 3 else {}
        made.append(Passage(f"p{row}", f"d{row}", title, text, metadata=metadata))
    return made


@dataclass(frozen=True)
class Indexes:
    """One retriever of every kind over all, and over shards of the same passages."""

    passages: Sequence[Passage]
    places: list[list[int]]
    folder: Path

    @classmethod
    def build(cls, folder: Path, passages: Sequence[Passage], count: int) -> Indexes:
        places = [[r for r, p in enumerate(passages) if shard_of(p.document_id, count) == n] for n in range(count)]
        names = ["all", *map(str, range(count))]
        for name, rows in zip(names, [list(range(len(passages))), *places], strict=True):
            own = [passages[row] for row in rows]
            build_bm25(folder / name / "lexical", own)
            vectors = WordEncoder().encode_passages(own)
            build_dense(folder / name / "dense", [vectors], count=len(own), dim=32, encoder=EncoderRef(kind="memory"))
        return cls(passages, places, folder)

    def rows(self, counts: Sequence[int] | None = None) -> ShardRows:
        return ShardRows(counts or [len(p) for p in self.places], [np.asarray(p, np.uint64) for p in self.places])

    def lexical(self, *names: str, rows: ShardRows | None = None) -> Bm25Retriever:
        first, *more = [self.folder / name / "lexical" for name in names]
        hits = hits_of(self.passages)
        return Bm25Retriever(first, hits, more=more, rows_of=rows.of if rows else None)

    def kinds(self) -> list[tuple[Retriever, Retriever]]:
        """(over all, over shards) of BM25, vectors, both."""
        hits, rows = hits_of(self.passages), self.rows()
        names = [str(n) for n in range(len(self.places))]
        whole, several = self.lexical("all"), self.lexical(*names, rows=rows)
        near = self._dense("all")
        nears = DenseShards([self._dense(name) for name in names], rows.of, hits)
        both = HybridRetriever([whole, near], hits, depth=20), HybridRetriever([several, nears], hits, depth=20)
        return [(whole, several), (near, nears), both]

    def _dense(self, name: str) -> DenseRetriever:
        own = self.lexical(name)
        return DenseRetriever(
            self.folder / name / "dense", encoder=WordEncoder(), hits=hits_of(self.passages), passing=own.rows
        )


def ids_and_scores(found: Sequence[Hit]) -> tuple[list[str], list[float]]:
    return [hit.passage_id for hit in found], [hit.score for hit in found]


def assert_same(one: Retriever, other: Retriever, k: int, where: Filter | None = None) -> int:
    """Ids in one order and scores to the last bit. Returns the number of hits."""
    filters = None if where is None else [where] * len(QUESTIONS)
    expected, found = one.search(QUESTIONS, k, filters), other.search(QUESTIONS, k, filters)
    assert [ids_and_scores(f) for f in found] == [ids_and_scores(e) for e in expected]
    return sum(map(len, expected))


@pytest.mark.parametrize(("seed", "count"), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
def test_shards_find_what_one_index_finds(tmp_path: Path, seed: int, count: int) -> None:
    for whole, shards in Indexes.build(tmp_path, random_passages(seed), count).kinds():
        for k in (1, 7, 40, SIZE):
            assert assert_same(whole, shards, k) >= min(3 * k, 90)  # of the questions at least three find some
            assert assert_same(whole, shards, k, WHERE) >= min(k, 10)


def test_scores_within_a_shard_alone_would_differ(tmp_path: Path) -> None:
    """What the joined statistics are for: the same passage has another score in an index of its shard."""
    built = Indexes.build(tmp_path, random_passages(0), 2)
    [alone], [joined] = (
        retriever.search_rows(["nile flood"], 40) for retriever in (built.lexical("0"), built.lexical("all"))
    )
    scores = dict(joined)
    assert any(score != scores.get(built.places[0][row], score) for row, score in alone)


def test_shards_that_were_changed_find_what_one_changed_index_finds(tmp_path: Path) -> None:
    """Dead passages count in BM25's statistics until Tantivy merges their segment; here none is merged."""
    passages, count = random_passages(3), 3
    built = Indexes.build(tmp_path, passages[:80], count)
    dead, later = [4, 5, 11, 30, 79], list(range(80, SIZE))
    change_bm25(tmp_path / "all2" / "lexical", tmp_path / "all" / "lexical", dead=dead,
                passages=passages[80:], start=80, skipped=frozenset())  # fmt: skip
    counts, order = [], []
    for n, places in enumerate(built.places):
        own = [row for row in later if shard_of(passages[row].document_id, count) == n]
        order += own
        change_bm25(tmp_path / f"{n}new" / "lexical", tmp_path / str(n) / "lexical",
                    dead=[places.index(row) for row in dead if row in places],
                    passages=[passages[row] for row in own], start=len(places), skipped=frozenset())  # fmt: skip
        counts.append(len(places) + len(own))
    # Rows that came later follow those of the build, shard by shard.
    named = replace(built, passages=[*passages[:80], *(passages[row] for row in order)])
    whole = replace(built, passages=passages).lexical("all2")
    shards = named.lexical(*(f"{n}new" for n in range(count)), rows=named.rows(counts))
    for question in QUESTIONS:
        [expected], [found] = whole.search([question], SIZE), shards.search([question], SIZE)
        assert dict(zip(*ids_and_scores(found), strict=True)) == dict(zip(*ids_and_scores(expected), strict=True))
        assert not {f"p{row}" for row in dead} & {hit.passage_id for hit in found}


def test_rows_of_all_and_of_shards_are_each_others_inverse() -> None:
    places = [np.asarray(p, np.uint64) for p in ([0, 3, 4], [], [1, 2, 5, 6])]
    rows = ShardRows([5, 2, 4], places)
    every: list[npt.NDArray[np.int64]] = [rows.of(n, np.arange(count)) for n, count in enumerate([5, 2, 4])]
    assert [e.tolist() for e in every] == [[0, 3, 4, 7, 8], [9, 10], [1, 2, 5, 6]]
    shards, own = rows.locate(np.concatenate(every))
    assert shards.tolist() == [0] * 5 + [1] * 2 + [2] * 4
    assert own.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]


def test_shards_that_number_their_fields_differently_are_refused(tmp_path: Path) -> None:
    for name, fields in (("0", ("a", "b")), ("1", ("b", "a"))):
        build_bm25(tmp_path / name, [Passage(f"{f}{name}", f, "", "nile", metadata={f: 1}) for f in fields])
    with pytest.raises(IndexCorrupt, match="do not come in one order"):
        Bm25Retriever(tmp_path / "0", hits_of([]), more=[tmp_path / "1"], rows_of=ShardRows([2, 2]).of)


def test_fields_given_to_all_shards_make_them_searchable_together(tmp_path: Path) -> None:
    passages = [Passage(f"p{i}", f"d{i}", "", "nile", metadata={"ab"[i % 2]: i}) for i in range(4)]
    for n in range(2):
        shared = IndexedFields()
        for one in passages:
            shared.indexed(one.metadata)
        build_bm25(tmp_path / str(n), passages[n::2], fields=shared)
    rows = ShardRows([2, 2], [np.asarray(p, np.uint64) for p in ([0, 2], [1, 3])])
    both = Bm25Retriever(tmp_path / "0", hits_of(passages), more=[tmp_path / "1"], rows_of=rows.of)
    wanted: list[tuple[dict[str, object], list[str]]] = [({"a": {"gte": 0}}, ["p0", "p2"]), ({"b": 3}, ["p3"])]
    for where, expected in wanted:
        [hits] = both.search(["nile"], 9, [Filter.of(where)])
        assert [hit.passage_id for hit in hits] == expected
