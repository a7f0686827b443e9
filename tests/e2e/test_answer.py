"""A question's whole way over a real little store: precomputed equals computed, and a batch equals its singles."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore import checkpoint
from memstore.answer import Answer, Answerer, Question, RankedPassage
from memstore.decode.prepared import PreparedDecoder
from memstore.errors import ChecksumMismatch, FingerprintMismatch, PassageNotFound, RequestError
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny

QUESTIONS = ["which river is the longest", "who was born in Paris", "the lake in Germany", "Nile", "where is Everest"]
SYSTEMS: dict[str, dict[str, Any]] = {
    "glimmer": {}, "glimmer with a copy head": {"copy_head": True}, "lumen": {"system": "lumen"},
    "fid": {"system": "fid", "alpha": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}", "url": "http://x/y"}
            for i, p in enumerate(tiny.passages(80))]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(
    scope="module", params=[(s, c) for s in SYSTEMS for c in ("int8", "bf16")], ids=lambda p: f"{p[0]}, {p[1]}"
)
def answerer(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    system, codec = request.param
    folder = tmp_path_factory.mktemp("store")
    changes = {"tasks": {"fever": "claim: {question}"}} | SYSTEMS[system]
    model = tiny.save_checkpoint(folder / "model", **changes)
    out = folder / "store"
    build(BuildOptions(corpus=(corpus,), out=out, model=str(model), codec=codec, dtype="float32"))
    return Answerer.open(out)


def same(a: Answer, b: Answer) -> None:
    """Equal up to float tolerance: text, score, and each passage's place and scores."""
    assert a.text == b.text
    assert a.score == pytest.approx(b.score, abs=2e-3)
    assert [p.kept for p in a.passages] == [p.kept for p in b.passages]
    scores_a = {p.passage.id: p.rerank_score for p in a.passages}
    scores_b = {p.passage.id: p.rerank_score for p in b.passages}
    assert scores_a.keys() == scores_b.keys()
    for key, score in scores_a.items():
        assert score == (None if score is None else pytest.approx(scores_b[key], abs=1e-3))


def test_precomputed_equals_computed(answerer: Answerer) -> None:
    """From the store, or the same passages brought along and encoded now: the same answer and scores."""
    for text in QUESTIONS:
        stored = answerer.answer([Question(text=text, retrieve_k=12, keep_k=4, max_new_tokens=8)])[0]
        in_order = sorted(stored.passages, key=lambda p: p.retrieval_rank or 0)
        own = tuple(p.passage for p in in_order)
        live = answerer.answer([Question(text=text, keep_k=4, max_new_tokens=8, passages=own)])[0]
        same(stored, live)
        assert stored.usage.bytes_read > 0
        assert live.usage.bytes_read == 0
        if answerer.model.config.num_memory_layers:
            assert live.usage.flops["question"] > stored.usage.flops["question"]


def test_the_prepared_decoder_answers_as_the_plain_one(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answerer.prepared is not None
    questions = [Question(text=t, retrieve_k=10, keep_k=3, max_new_tokens=6) for t in QUESTIONS]
    prepared = answerer.answer(questions)
    monkeypatch.setattr(answerer, "prepared", None)
    for a, b in zip(prepared, answerer.answer(questions), strict=True):
        same(a, b)


@torch.no_grad()
def test_no_answer_holds_padding(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all tokens are as probable, the first one that may come is eos, not the padding before it."""
    model = copy.deepcopy(answerer.model)
    assert model.head is not None
    model.head.weight.zero_()
    if model.copy_head is not None:
        model.copy_head.gate.bias.fill_(1e9)  # the vocabulary alone
    monkeypatch.setattr(answerer, "model", model)
    for prepared in (None, PreparedDecoder(model)):
        monkeypatch.setattr(answerer, "prepared", prepared)
        (answer,) = answerer.answer([Question(text="river", retrieve_k=3, keep_k=1, max_new_tokens=4)])
        assert (answer.text, answer.score) == ("", pytest.approx(-math.log(tiny.VOCAB_SIZE), abs=1e-4))


def test_a_model_answers_by_its_own_beams(corpus: Path, tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model", num_beams=3)
    build(BuildOptions(corpus=(corpus,), out=tmp_path / "store", model=str(model), dtype="float32"))
    answerer = Answerer.open(tmp_path / "store")
    for text in QUESTIONS:
        question = Question(text=text, retrieve_k=8, keep_k=3, max_new_tokens=12)
        (found,) = answerer.answer([question])
        assert answerer.answer([replace(question, num_beams=3)])[0].score == pytest.approx(found.score, abs=1e-4)
        greedy = answerer.answer([replace(question, num_beams=1)])[0].usage.flops["decode"]
        assert found.usage.flops["decode"] > greedy
    assert answerer.info()["model"]["num_beams"] == 3  # type: ignore[index]


def test_a_reader_that_heeds_scores_answers_and_counts_its_operations(corpus: Path, tmp_path: Path) -> None:
    """FiD, whose operations stand beside, has no scores to heed."""
    model = tiny.save_checkpoint(tmp_path / "model", score_bias=1.0)
    build(BuildOptions(corpus=(corpus,), out=tmp_path / "store", model=str(model), dtype="float32"))
    answerer = Answerer.open(tmp_path / "store")
    answer = answerer.ask(Question(text=QUESTIONS[0], retrieve_k=8, keep_k=3, max_new_tokens=2))
    assert answer.usage.fid_flops > sum(answer.usage.flops.values()) > 0


def test_the_retrievers_order_counts_in_what_it_found_and_not_in_what_was_brought(corpus: Path, tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model", retrieval_prior=3.0)
    build(BuildOptions(corpus=(corpus,), out=tmp_path / "store", model=str(model), dtype="float32"))
    answerer = Answerer.open(tmp_path / "store")
    asked = Question(text=QUESTIONS[0], retrieve_k=8, keep_k=3, max_new_tokens=2)
    own = tuple(p.passage for p in answerer.retrieve([asked.text], 5)[0])
    brought, found = answerer.answer([replace(asked, passages=own), asked])
    for answer in (brought, found):
        alone = {
            p.passage.id: p.rerank_score for p in answerer.rerank(asked.text, [p.passage for p in answer.passages])
        }
        less = [(alone[p.passage.id] or 0.0) - (p.rerank_score or 0.0) for p in answer.passages]
        assert less == pytest.approx([3 * math.log(p.retrieval_rank or 1) for p in answer.passages], abs=1e-3)
        assert [p.rerank_score for p in answer.passages] == sorted(
            (p.rerank_score for p in answer.passages), reverse=True
        )


def test_a_batch_equals_singles_whatever_its_questions(answerer: Answerer) -> None:
    own = (Passage(id="o", document_id="o", title="Nile", text="the longest river"),)
    questions = [
        *(Question(text=t, retrieve_k=10, keep_k=3, max_new_tokens=6) for t in QUESTIONS),
        Question(text="river", retrieve_k=3, keep_k=1, max_new_tokens=2),
        Question(text="?!", max_new_tokens=4),
        Question(text="what is it", passages=own, keep_k=1, max_new_tokens=5),
        Question(text="lake", num_beams=3, retrieve_k=6, keep_k=2, max_new_tokens=5),
        Question(text="Paris is the capital of France", task="fever", retrieve_k=6, keep_k=2, max_new_tokens=5),
    ]
    for together, question in zip(answerer.answer(questions), questions, strict=True):
        same(together, answerer.answer([question])[0])


def test_asking_is_answering_one_question(answerer: Answerer) -> None:
    same(answerer.ask("the longest river"), answerer.answer([Question(text="the longest river")])[0])
    asked = Question("lake", retrieve_k=6, keep_k=2, max_new_tokens=5)
    same(answerer.ask(asked), answerer.answer([asked])[0])


def test_kept_passages_are_the_best_scored_or_without_a_scorer_the_first_retrieved(answerer: Answerer) -> None:
    answer = answerer.answer([Question(text="the river in Africa", retrieve_k=10, keep_k=4)])[0]
    kept = [p for p in answer.passages if p.kept]
    assert len(answer.passages) == 10
    assert len(kept) == 4
    assert list(answer.passages[:4]) == kept
    if answerer.model.config.has_scorer:
        scores = [p.rerank_score or 0.0 for p in answer.passages]
        assert scores == sorted(scores, reverse=True)
    else:
        assert [p.retrieval_rank for p in kept] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "text", ["?!...", "\x00 \ud800", "Где находится река", "川はどこ", "river " * 330, 'title:(lake) AND "x']
)
def test_no_question_fails(answerer: Answerer, text: str) -> None:
    answer = answerer.answer([Question(text=text, retrieve_k=5, keep_k=2, max_new_tokens=3)])[0]
    assert isinstance(answer.text, str)
    assert len(answer.passages) <= 5


def test_the_bill_adds_up(answerer: Answerer) -> None:
    usage = answerer.answer([Question(text="the longest river", retrieve_k=10, keep_k=3, max_new_tokens=4)])[0].usage
    assert set(usage.milliseconds) == {"retrieve", "load", "question", "live_a", "live_b", "decode"}
    assert all(ms >= 0 for ms in usage.milliseconds.values())
    assert usage.questions_in_batch == 1
    if answerer.model.config.system == "fid":
        assert sum(usage.flops.values()) < usage.fid_flops  # it read 3 of the 10
    else:
        assert 0 < sum(usage.flops.values()) < usage.fid_flops


def test_an_answer_is_spelled_as_in_what_was_read_or_as_the_config_says(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passage(title: str, text: str, *, kept: bool) -> RankedPassage:
        return RankedPassage(passage=Passage(id=title, document_id=title, title=title, text=text), kept=kept)

    ranked = [
        passage("a", "NILE", kept=False),
        passage("nilE", "the Rhine", kept=True),
        passage("b", "Nile", kept=True),
    ]
    config = answerer.model.config.replace(spellings={"nile": "NiLe"})
    ids = answerer.tokenizer.encode_answers(["nile"], max_tokens=9)[0].tolist()
    monkeypatch.setattr(answerer, "tokenizer", TextTokenizer(tiny.tokenizer(), answerer.model.config))
    assert answerer._text(ids, ranked) == "nile"
    monkeypatch.setattr(answerer.tokenizer, "folds_case", True)
    assert answerer._text(ids, ranked) == "Nile"  # what was kept, texts first
    assert answerer._text(ids, ranked[:2]) == "nilE"
    monkeypatch.setattr(answerer.tokenizer, "config", config)
    monkeypatch.setattr(answerer.model, "config", config)
    assert answerer._text(ids, ranked) == "NiLe"


def test_questions_of_a_batch_share_the_bytes_that_were_read(answerer: Answerer) -> None:
    answers = answerer.answer(
        [Question(text=t, retrieve_k=k, keep_k=1, max_new_tokens=1) for t, k in (("river", 8), ("lake", 2))]
    )
    ids = [p.passage.id for a in answers for p in a.passages]
    read = answerer.store.load(ids, dtype=torch.float32, device="cpu").bytes_read
    assert sum(a.usage.bytes_read for a in answers) == pytest.approx(read, abs=2)  # each is rounded
    assert answers[0].usage.bytes_read > answers[1].usage.bytes_read > 0


def test_rerank_scores_as_answering_does(answerer: Answerer) -> None:
    if not answerer.model.config.has_scorer:
        with pytest.raises(RequestError, match="no scorer"):
            answerer.rerank("river", [answerer.passage("d0:0")])
        return
    answer = answerer.answer([Question(text="river", retrieve_k=6, keep_k=6)])[0]
    ranked = answerer.rerank("river", [p.passage for p in answer.passages])
    assert [p.passage.id for p in ranked] == [p.passage.id for p in answer.passages]
    assert answerer.rerank("river", []) == []


def test_impossible_requests(answerer: Answerer) -> None:
    for options, message in [
        ({"text": "  "}, "empty"),
        ({"text": "a", "retrieve_k": 0}, "retrieve_k must be at least 1, not 0"),
        ({"text": "a", "retrieve_k": 2, "keep_k": 3}, r"keep_k \(3\) must not exceed retrieve_k \(2\)"),
        ({"text": "a", "num_beams": 0}, "num_beams must be at least 1"),
    ]:
        with pytest.raises(RequestError, match=message):
            Question(**options)
    with pytest.raises(RequestError, match="no task 'chess'"):
        answerer.answer([Question(text="a", task="chess")])
    with pytest.raises(PassageNotFound, match="nothing"):
        answerer.passage("nothing")


def test_another_model_is_refused_and_the_difference_named(answerer: Answerer, tmp_path: Path) -> None:
    changes = {"max_passage_tokens": 47, "tasks": {}}
    model = replace(answerer.model.config, **changes)
    other = tiny.save_checkpoint(tmp_path / "other", **{"system": model.system, "alpha": model.alpha} | changes)
    with pytest.raises(FingerprintMismatch, match="max_passage_tokens: store has 48, model has 47"):
        Answerer.open(answerer.store.path, model=str(other))


def test_a_damaged_memory_is_an_error_not_an_answer(corpus: Path, tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    out = tmp_path / "store"
    build(BuildOptions(corpus=(corpus,), out=out, model=str(model), dtype="float32"))
    for shard in (out / "segments").rglob("states/c/*/0/0"):
        data = bytearray(shard.read_bytes())
        for at in range(0, len(data) - 2000, 50):  # every chunk; the shard's index, at the end, stays
            data[at] ^= 0xFF
        shard.write_bytes(bytes(data))
    answerer = Answerer.open(out)
    with pytest.raises(ChecksumMismatch):
        answerer.answer([Question(text="river", retrieve_k=10)])


def test_the_default_model_loads_and_is_trained() -> None:
    model, tokenizer = checkpoint.load("default", dtype=torch.float32)
    again, _ = checkpoint.load("default", dtype=torch.float32)
    assert model.config.trained
    assert checkpoint.fingerprint(model, tokenizer) == checkpoint.fingerprint(again, tokenizer)
    for text in ("In 1945, Zürich (北京) 🙂.", "Brasília"):  # any script: letters that it lacks come from passages
        ids = tokenizer.encode_answers([text], max_tokens=99)[0].tolist()[:-1]
        said = tokenizer.decode_from([f"It was there. {text} So it was."], ids)
        assert said.replace(" ", "").lower() == text.lower().replace(" ", "")
