"""What every retriever promises, run by every retriever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memstore.errors import RequestError
from memstore.retrieve import Retriever, dense
from memstore.retrieve.dense import DenseRetriever, EncoderRef, build_dense
from memstore.retrieve.hybrid import HybridRetriever
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from tests.retrieve.retrieve_cases import WordEncoder, corpus, hits_of

PASSAGES = corpus()
QUESTIONS = [
    "Which river is the Nile?",
    "composer of year 1931",
    "Curie chemist",
    "number7",
    "Москва",
    "東京",
]
ODD = {
    "empty": "",
    "space": " \n\t",
    "punctuation": "?!... --- \"'()[]{}:;^~*\\/",
    "2000 characters": ("river Nile and mountain " * 100)[:2000],
    "one word of 2000": "x" * 2000,
    "Cyrillic": "Где находится Москва?",
    "Arabic": "أين يقع نهر النيل؟",
    "Japanese": "東京はどこですか",
    "NUL": "Nile\0river\0",
    "lone surrogate": "Nile \ud800 river",
    "emoji": "🏔️ Everest 👩‍🔬",
    "field": "title:Nile AND text:(river OR",
    "100,000 characters": "Nile river " * 10_000,
}


def lexical(folder: Path) -> Bm25Retriever:
    build_bm25(folder / "lexical", PASSAGES)
    return Bm25Retriever(folder / "lexical", hits_of(PASSAGES))


def flat(folder: Path) -> DenseRetriever:
    encoder = WordEncoder()
    vectors = [encoder.encode_passages(PASSAGES[:25]), encoder.encode_passages(PASSAGES[25:])]
    build_dense(folder / "dense", vectors, count=len(PASSAGES), dim=encoder.dim, encoder=EncoderRef(kind="memory"))
    return DenseRetriever(folder / "dense", encoder, hits_of(PASSAGES))


def ivf(folder: Path) -> DenseRetriever:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "FLAT_LIMIT", 20)
        return flat(folder)


@pytest.fixture(scope="module", params=["bm25", "flat", "ivf", "hybrid"])
def retriever(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp(request.param)
    match request.param:
        case "bm25":
            return lexical(folder)
        case "flat":
            return flat(folder)
        case "ivf":
            return ivf(folder)
        case _:
            return HybridRetriever([lexical(folder), flat(folder)], hits_of(PASSAGES))


def test_names_its_kind(retriever: Retriever) -> None:
    assert retriever.kind in ("bm25", "dense", "hybrid")


def test_hits_are_best_first_and_distinct_and_of_the_corpus(retriever: Retriever) -> None:
    known = {p.id for p in PASSAGES}
    for hits in retriever.search(QUESTIONS, 12):
        assert 1 <= len(hits) <= 12
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        found = [hit.passage_id for hit in hits]
        assert len(set(found)) == len(found)
        assert set(found) <= known


def test_finds_the_passage_that_is_asked_for(retriever: Retriever) -> None:
    for row in (0, 17, 42):
        [hits] = retriever.search([f"{PASSAGES[row].title} {PASSAGES[row].text}"], 3)
        assert hits[0].passage_id == PASSAGES[row].id


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_fewer_are_the_first_of_more(retriever: Retriever, k: int) -> None:
    more = retriever.search(QUESTIONS, 60)
    assert retriever.search(QUESTIONS, k) == [hits[:k] for hits in more]


def test_k_may_exceed_the_corpus(retriever: Retriever) -> None:
    for hits in retriever.search(QUESTIONS, 10_000):
        assert 1 <= len(hits) <= len(PASSAGES)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(retriever: Retriever, k: int) -> None:
    with pytest.raises(RequestError, match=f"at least 1, not {k}"):
        retriever.search(["Nile"], k)


def test_batch_equals_singles(retriever: Retriever) -> None:
    """Scores too, to the bit: a retriever searches one by one, so that ties fall alike."""
    questions = [*QUESTIONS, *ODD.values(), *QUESTIONS]
    assert retriever.search(questions, 7) == [retriever.search([q], 7)[0] for q in questions]


def test_no_questions_no_answers(retriever: Retriever) -> None:
    assert retriever.search([], 5) == []


@pytest.mark.parametrize("question", ODD.values(), ids=ODD)
def test_odd_questions_do_not_fail(retriever: Retriever, question: str) -> None:
    [hits] = retriever.search([question], 5)
    assert len(hits) <= 5


def test_threads_find_what_one_finds(retriever: Retriever) -> None:
    alone = retriever.search(QUESTIONS, 9)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: retriever.search(QUESTIONS, 9), range(20))) == [alone] * 20
