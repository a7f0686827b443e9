"""What a question needs is read once: each passage's line, whatever retriever finds it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from memstore.answer import Answerer, Question
from memstore.passage import Passage
from memstore.retrieve import Filters, Hit
from memstore.store import texts
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny

Kind = Literal["bm25", "dense", "hybrid"]


def opened(folder: Path, retriever: Kind) -> Answerer:
    corpus = folder / "passages.jsonl"
    rows = [{"id": p.id, "title": p.title, "text": f"{p.text} {i}"} for i, p in enumerate(tiny.passages(60))]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny.save_checkpoint(folder / "model", embedding_dim=8)
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(model), dtype="float32", retriever=retriever))
    return Answerer.open(folder / "store")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each passage's line was parsed."""
    count, parse = Counter[str](), texts.from_line

    def counted(line: bytes) -> Passage:
        passage = parse(line)
        count[passage.id] += 1
        return passage

    monkeypatch.setattr(texts, "from_line", counted)
    return count


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_a_passage_is_read_once_a_question(tmp_path: Path, read: Counter[str], kind: Kind) -> None:
    answerer = opened(tmp_path, kind)
    read.clear()
    (answer,) = answerer.answer([Question(text="the river in Paris", retrieve_k=9, keep_k=3, max_new_tokens=2)])
    assert len(answer.passages) == 9
    assert all(read[p.passage.id] == 1 for p in answer.passages)
    if kind == "hybrid":  # passages that tie with the ninth may be read too, but not all that it fuses
        assert max(read.values()) == 1
        assert read.total() < 30
    else:
        assert read.total() == 9


def test_a_retriever_may_know_ids_alone(tmp_path: Path, read: Counter[str]) -> None:
    answerer = opened(tmp_path, "bm25")
    question = Question(text="the river in Paris", retrieve_k=5, keep_k=2, max_new_tokens=2)
    (expected,) = answerer.answer([question])
    bm25 = answerer.retriever

    class Bare:
        kind = "bare"

        def search(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[Hit]]:
            return [[Hit(hit.passage_id, hit.score) for hit in hits] for hits in bm25.search(questions, k, filters)]

    answerer.retriever = Bare()
    read.clear()
    (answer,) = answerer.answer([question])
    assert answer.passages == expected.passages
    assert answer.text == expected.text
    assert max(read.values()) == 2  # once by the retriever within, once more by its id


def test_a_question_is_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer, filled = opened(tmp_path, "bm25"), list[str]()
    encode = answerer.tokenizer._encode

    def noted(texts: Sequence[str]) -> list[list[int]]:
        filled.extend(texts)
        return encode(texts)

    monkeypatch.setattr(answerer.tokenizer, "_encode", noted)
    questions = ["the river in Paris", "Nile"]
    answers = answerer.answer([Question(text=q, retrieve_k=4, keep_k=2, max_new_tokens=2) for q in questions])
    assert filled == [answerer.tokenizer.template_of(None).replace("{question}", q) for q in questions]
    assert answers[0].usage.flops["question"] > answers[1].usage.flops["question"] > 0
