"""Knowing when it does not know, over a real little store: confidence, no answer below a limit, citations."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from memstore.answer import Answerer, Question
from memstore.checkpoint import weights_mark
from memstore.checkpoint.files import write_calibration
from memstore.confidence import FEATURES, Calibration
from memstore.confidence.calibration import Feature
from memstore.passage import Passage, RankedPassage
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny

ASKED = Question("which river is the longest", retrieve_k=12, keep_k=4, max_new_tokens=6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confidence")
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": p.text} for p in tiny.passages(40)]
    corpus = folder / "passages.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny.save_checkpoint(folder / "model", copy_head=True)
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(model), codec="bf16", dtype="float32"))
    return folder / "store"


@pytest.fixture
def answerer(store: Path) -> Answerer:
    return Answerer.open(store)


def calibrated(answerer: Answerer) -> Calibration:
    """Rises with the mean log-probability of the tokens."""
    feature = Feature(mean=0.0, scale=1.0, low=-30.0, high=0.0, weight=1.0)
    features = {"token_log_probability": feature}
    return Calibration(method="logistic", features=features, bias=0.0, weights=weights_mark(answerer.model))


def with_calibration(answerer: Answerer) -> Answerer:
    return Answerer(
        model=answerer.model, tokenizer=answerer.tokenizer, store=answerer.store, retriever=answerer.retriever,
        calibration=calibrated(answerer),
    )  # fmt: skip


class Ear:
    def __init__(self) -> None:
        self.pieces: list[str] = []

    def retrieved(self, passages: Sequence[RankedPassage]) -> None:
        pass

    def ranked(self, passages: Sequence[RankedPassage]) -> None:
        pass

    def wrote(self, text: str) -> bool:
        self.pieces.append(text)
        return True

    def wanted(self) -> bool:
        return True


def test_without_a_calibration_it_is_the_models_own_probability(answerer: Answerer) -> None:
    answer = answerer.ask(ASKED)
    assert not answer.calibrated
    assert answer.confidence == pytest.approx(math.exp(answer.score))
    assert answerer.info()["model"]["calibration"] is None  # type: ignore[index]


def test_with_one_it_is_what_was_fitted(store: Path, answerer: Answerer) -> None:
    write_calibration(store.parent / "model", calibrated(answerer))
    try:
        opened = Answerer.open(store)
        assert not Answerer.open(store, calibrated=False).ask(ASKED).calibrated
    finally:
        (store.parent / "model" / "calibration.json").unlink()
    answer = opened.ask(ASKED)
    mean = answer.features["token_log_probability"]
    assert mean is not None
    assert answer.calibrated
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-mean)))
    assert opened.info()["model"]["calibration"]["method"] == "logistic"  # type: ignore[index]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_is_as_sure_as_its_questions_alone(answerer: Answerer, beams: int) -> None:
    texts = ["which river is the longest", "who was born in Paris", "Nile", "?!"]
    questions = [Question(text, retrieve_k=9, keep_k=3, max_new_tokens=5, num_beams=beams) for text in texts]
    for together, question in zip(answerer.answer(questions), questions, strict=True):
        alone = answerer.ask(question)
        assert list(together.features) == list(FEATURES)
        for name, value in alone.features.items():
            assert together.features[name] == (None if value is None else pytest.approx(value, abs=5e-3)), name


def test_below_the_limit_there_is_no_answer_and_it_says_why(answerer: Answerer) -> None:
    judge = with_calibration(answerer)
    plain = judge.ask(ASKED)
    asked = Question(ASKED.text, retrieve_k=12, keep_k=4, max_new_tokens=6, min_confidence=plain.confidence + 0.01)
    ear = Ear()
    [none] = judge.answer([asked], [ear])
    assert none.text is None
    assert none.reason is not None
    assert f"{none.confidence:.3f}" in none.reason
    assert (none.confidence, none.citations) == (pytest.approx(plain.confidence, abs=1e-3), ())
    assert [p.passage.id for p in none.passages] == [p.passage.id for p in plain.passages]
    assert "".join(ear.pieces) == ""  # nothing is heard of what is not given


def test_above_the_limit_all_of_the_answer_is_heard(answerer: Answerer) -> None:
    ear = Ear()
    asked = Question(ASKED.text, retrieve_k=12, keep_k=4, max_new_tokens=6, num_beams=1, min_confidence=1e-30)
    [answer] = answerer.answer([asked], [ear])
    assert answer.reason is None
    assert [piece for piece in ear.pieces if piece] == [
        answer.text
    ]  # at the end: it was not certain before that there would be one


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_a_limit_is_a_probability(wrong: float) -> None:
    with pytest.raises(ValueError, match="min_confidence must be from 0 to 1"):
        Question("what", min_confidence=wrong)


def test_the_answer_is_cited_where_it_stands(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answerer, "_text", lambda *_: "nile")
    own = (
        Passage("a", "a", "Lake", "A lake in Africa.", end=17),
        Passage("b", "b", "Nile", "The Nile, longest river; nile.", end=30),
    )
    answer = answerer.ask(Question("which river", passages=own, keep_k=2))
    [first, second] = answer.citations
    assert (first.passage_id, own[1].text[first.start : first.end]) == ("b", "Nile")
    assert own[1].text[second.start : second.end] == "nile"
    assert answer.features["held"] == 1.0
    assert first.attention is None


def test_attention_is_shared_among_what_was_read(answerer: Answerer) -> None:
    asked = Question(ASKED.text, retrieve_k=12, keep_k=4, max_new_tokens=6, attention=True)
    plain, shared = answerer.answer([ASKED, asked])
    assert all(p.attention is None for p in plain.passages)
    shares = [p.attention for p in shared.passages if p.kept]
    assert len(shares) == 4
    assert sum(s or 0.0 for s in shares) == pytest.approx(1, abs=1e-4)
    assert all(p.attention is None for p in shared.passages if not p.kept)
    assert "attention" in shared.usage.milliseconds
    assert shared.usage.flops["attention"] > 0
    assert {**shared.usage.flops, "attention": 0} == {**plain.usage.flops, "attention": 0}
    assert plain.text == shared.text


def test_with_nothing_found_there_is_an_answer_and_no_attention(answerer: Answerer) -> None:
    answer = answerer.ask(Question("?!", max_new_tokens=3, attention=True))
    assert (answer.passages, answer.citations) == ((), ())
    assert 0 <= answer.confidence <= 1
