"""Filtered searches, by every retriever: exactly what passes is found, k of it where there are k, scores as without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.errors import RequestError
from memstore.metadata import MetadataValue
from memstore.retrieve import Hit, Retriever, dense, dense_parts
from memstore.retrieve.dense import DenseRetriever, build_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.filters import Filter
from memstore.retrieve.hybrid import HybridRetriever
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from memstore.retrieve.lexical_settings import read_bm25_settings
from tests.retrieve.retrieve_cases import WordEncoder, corpus, hits_of, passes

LANGUAGES = ["en", "de", "fr", "e", "EN", "ä ö", ""]


def metadata(row: int) -> dict[str, MetadataValue]:
    made: dict[str, MetadataValue] = {"row": row, "half": row / 2 - 10, "lang": LANGUAGES[row % len(LANGUAGES)]}
    if row % 3 == 0:
        made["tags"] = [f"t{i}" for i in range(row % 4)]  # now and then without any
    if row % 5 == 0:
        made |= {"even": row % 2 == 0, "date": f"20{row:02d}-01-0{row % 7 + 1}"}
    if row % 10 == 0:
        made |= {"mixed": row if row % 20 else f"x{row}", 'a.b:c [d]\\ "e" ü': "odd name", "long": "y" * 1024}
    return made


PASSAGES = [replace(p, metadata=metadata(row)) for row, p in enumerate(corpus(80))]
QUESTIONS = ["river Nile", "the mountain of year 1917", "Curie the chemist", "city"]
FILTERS: list[dict[str, Any]] = [
    {},
    {"lang": "en"},
    {"lang": ""},
    {"lang": "ä ö"},
    {"lang": {"in": ["en", "fr"]}},
    {"lang": {"in": []}},
    {"row": {"in": list(range(0, 80, 2))}},  # many
    {"row": 7},
    {"row": 7.0},
    {"row": {"gte": 20}},
    {"row": {"gt": 20, "lt": 23}},
    {"row": {"lte": 0}},
    {"row": {"lt": 0}},
    {"half": {"gte": -9.5, "lte": 0}},
    {"half": -10},
    {"lang": {"gte": "e", "lt": "f"}},
    {"lang": {"lt": "a"}},
    {"date": {"gte": "2015-01-02", "lte": "2040"}},
    {"tags": "t0"},
    {"tags": {"in": ["t1", "t2"]}},
    {"tags": {"gte": "t1"}},
    {"tags": {"exists": True}},
    {"tags": {"exists": False}},
    {"tags": {"not": "t0"}},
    {"lang": {"not": {"in": ["en", "de"]}}},
    {"row": {"not": {"gte": 10, "lt": 70}}},
    {"date": {"not": {"exists": True}}},
    {"even": True},
    {"even": {"not": True, "exists": True}},
    {"mixed": 10},
    {"mixed": "x20"},
    {"mixed": {"gte": 0}},
    {"mixed": {"gte": "x"}},
    {'a.b:c [d]\\ "e" ü': "odd name"},
    {"long": "y" * 1024},
    {"lang": "en", "row": {"gte": 20}, "tags": {"exists": True}},
    {"lang": "en", "row": {"gte": 20}, "tags": {"exists": False}},
]


def lexical(folder: Path) -> Bm25Retriever:
    build_bm25(folder / "lexical", PASSAGES)
    return Bm25Retriever(folder / "lexical", hits_of(PASSAGES))


def vectors(folder: Path, flat_limit: int = 1000) -> DenseRetriever:
    encoder, beside = WordEncoder(), lexical(folder)
    made = [encoder.encode_passages(PASSAGES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "FLAT_LIMIT", flat_limit)
        build_dense(folder / "dense", made, count=len(PASSAGES), dim=encoder.dim, encoder=EncoderRef(kind="memory"))
    retriever = DenseRetriever(folder / "dense", encoder, hits_of(PASSAGES), passing=beside.rows)
    for part in retriever._parts:
        if hasattr(part.index, "nlist"):
            part.index.nprobe = part.index.nlist  # so that nothing is missed without a filter
    return retriever


def many(folder: Path, flat_limit: int) -> DenseRetriever:
    """Chooses by bits, as where a filter leaves many rows."""
    retriever = vectors(folder, flat_limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_parts, "FEW_ROWS", -1)
        for where in FILTERS:
            retriever.search(["x"], 1, [Filter.of(where)])
    return retriever


MAKERS = {
    "bm25": lexical,
    "flat": vectors,
    "flat, by bits": lambda folder: many(folder, 1000),
    "ivf": lambda folder: vectors(folder, 20),
    "ivf, by bits": lambda folder: many(folder, 20),
    "hybrid": lambda folder: HybridRetriever([lexical(folder), vectors(folder)], hits_of(PASSAGES)),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def retriever(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "FILTERS_KEPT", 100)
        return MAKERS[request.param](tmp_path_factory.mktemp("filtered"))


@pytest.mark.parametrize("where", FILTERS, ids=lambda where: str(where)[:40])
def test_what_passes_is_found_and_nothing_else(retriever: Retriever, where: dict[str, Any]) -> None:
    passing = {p.id for p in PASSAGES if passes(p.metadata, where)}
    for question in QUESTIONS:
        [whole] = retriever.search([question], len(PASSAGES))
        [found] = retriever.search([question], len(PASSAGES), [Filter.of(where)])
        if retriever.kind == "hybrid":  # ranks among what passes
            assert {h.passage_id for h in found} == passing
            continue
        left = [hit for hit in whole if hit.passage_id in passing]
        if left or retriever.kind != "bm25":
            assert _rounded(found) == _rounded(left)
        else:  # then the question's commonest words count: a store of what passes would have no others
            assert {h.passage_id for h in found} <= passing
        for k in (1, 5):
            assert retriever.search([question], k, [Filter.of(where)])[0] == found[:k]


def _rounded(hits: list[Hit]) -> list[tuple[str, float]]:
    """Names and scores, but for the rounding of sums: equal scores are in the order of rows."""
    rounded = [(hit.passage_id, round(hit.score, 4)) for hit in hits]
    return sorted(rounded, key=lambda pair: (-pair[1], int(pair[0][1:])))


@pytest.mark.parametrize("few", [-1, 100])
def test_what_passes_is_found_in_whichever_cluster_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(dense_parts, "FEW_ROWS", few)
    retriever = vectors(tmp_path, 20)
    retriever._parts[0].index.nprobe = 1
    assert len(retriever.search(["river Nile"], 40)[0]) < 40
    found = retriever.search(["river Nile"], 40, [Filter.of({"row": {"gte": 10, "lt": 50}})])[0]
    assert {hit.passage_id for hit in found} == {f"p{row}" for row in range(10, 50)}


def test_questions_of_a_batch_have_filters_of_their_own(retriever: Retriever) -> None:
    filters = [Filter.of({"lang": "en"}), None, Filter.of({"row": {"lt": 9}}), Filter.of({})]
    alone = [retriever.search([q], 7, [f])[0] for q, f in zip(QUESTIONS, filters, strict=True)]
    assert retriever.search(QUESTIONS, 7, filters) == alone
    assert alone[1] == retriever.search(QUESTIONS[1:2], 7)[0]
    assert alone[3] == retriever.search(QUESTIONS[3:], 7)[0]


def test_several_threads_may_filter_at_once(retriever: Retriever) -> None:
    filters = [Filter.of(where) for where in FILTERS]
    alone = [retriever.search(["river Nile"], 5, [f]) for f in filters]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda f: retriever.search(["river Nile"], 5, [f]), filters * 3)) == alone * 3


@pytest.mark.parametrize("where", [{"yaer": 1}, {"lang": 1}, {"lang": "en", "row": {"gte": "1"}}])
def test_other_fields_and_kinds_are_refused(retriever: Retriever, where: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"there are .*lang \(strings\).* row \(numbers\)"):
        retriever.search(["river"], 5, [Filter.of(where)])


def test_words_of_what_does_not_pass_count_for_nothing(tmp_path: Path) -> None:
    """As in a store of what passes: where it holds no rarer word, the question's commonest words count."""
    found = lexical(tmp_path).search(["the Mozart"], 9, [Filter.of({"row": {"in": [0, 1]}})])[0]
    assert {hit.passage_id for hit in found} == {"p0", "p1"}


def test_a_dense_index_alone_has_nothing_to_filter_by(tmp_path: Path) -> None:
    vectors(tmp_path)
    alone = DenseRetriever(tmp_path / "dense", WordEncoder(), hits_of(PASSAGES))
    with pytest.raises(RequestError, match="its documents have no metadata"):
        alone.search(["river"], 5, [Filter.of({"lang": "en"})])
    assert alone.search(["river"], 5, [Filter.of({})]) == alone.search(["river"], 5)


def test_only_the_latest_filters_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "FILTERS_KEPT", 2)
    asked, retriever = list[Filter](), vectors(tmp_path)
    rows = retriever._passing
    assert rows is not None
    retriever._passing = lambda where: [asked.append(where), rows(where)][1]  # type: ignore[func-returns-value]
    a, b, c = (Filter.of({"row": row}) for row in (1, 2, 3))
    for where in (a, b, a, c, a, b):
        retriever.search(["river"], 5, [where])
    assert asked == [a, b, c, b]


def test_equal_vectors_have_equal_scores_and_come_in_the_order_of_rows(tmp_path: Path) -> None:
    made = np.tile(np.random.default_rng(0).standard_normal((1, 7)).astype(np.float32), (40, 1))

    class Given(WordEncoder):
        dim = 7

        def encode_questions(self, texts: Any) -> Any:
            return made[: len(texts)] + 1

    build_dense(tmp_path / "d", [made], count=40, dim=7, encoder=EncoderRef(kind="memory"))
    chosen = np.arange(3, 40, 3)
    retriever = DenseRetriever(tmp_path / "d", Given(), hits_of(PASSAGES), passing=lambda _: chosen)
    [found] = retriever.search(["x"], 5, [Filter.of({})])
    assert [h.passage_id for h in found] == ["p3", "p6", "p9", "p12", "p15"]
    assert len({h.score for h in found}) == 1


def test_the_same_documents_give_the_same_bytes_and_list_their_fields(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_bm25(tmp_path / name, PASSAGES)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    fields = read_bm25_settings(tmp_path / "a").fields
    assert fields is not None
    assert list(fields.fields)[:4] == ["row", "half", "lang", "tags"]
    assert fields.fields["mixed"] == ("number", "string")
