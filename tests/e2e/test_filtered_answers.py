"""Filters from the question to the answer: in process, in batches, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import memstore_client
from memstore.answer import Answerer, Question
from memstore.cli import app
from memstore.errors import MemstoreError, RequestError
from memstore.retrieve.filters import Filter
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_client.wire import AnswerReply
from tests import tiny

QUESTION = "the river in Paris"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filtered")
    rows = [
        {"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} river",
         "metadata": {"n": i, "lang": "en" if i % 2 else "de", "code": f"{i:03d}", "even": i % 2 == 0}}
        for i, p in enumerate(tiny.passages(30))
    ]  # fmt: skip
    corpus = folder / "passages.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny.save_checkpoint(folder / "model", embedding_dim=8)
    out = folder / "store"
    build(BuildOptions(corpus=(corpus,), out=out, model=str(model), retriever="hybrid", dtype="float32"))
    return out


@pytest.fixture(scope="module")
def answerer(store: Path) -> Answerer:
    return Answerer.open(store)


def asked(where: dict[str, Any] | None, **options: Any) -> Question:
    given = {"retrieve_k": 6, "keep_k": 2, "max_new_tokens": 2} | options
    return Question(QUESTION, filter=None if where is None else Filter.of(where), **given)


def test_only_what_passes_is_read(answerer: Answerer) -> None:
    answer = answerer.ask(asked({"lang": "en", "n": {"lt": 9}}))
    assert sorted(p.passage.metadata["n"] for p in answer.passages) == [1, 3, 5, 7]  # all that there are
    assert len(answerer.ask(asked({"lang": "en"})).passages) == 6
    (found,) = answerer.retrieve([QUESTION], 3, [Filter.of({"even": True})])
    assert [p.passage.metadata["even"] for p in found] == [True] * 3


def test_a_question_whose_filter_nothing_passes_is_answered_from_nothing(answerer: Answerer) -> None:
    answer = answerer.ask(asked({"n": {"gt": 1000}}))
    assert answer.passages == ()


def test_a_batch_with_other_filters_equals_its_singles(answerer: Answerer) -> None:
    questions = [asked({"lang": "en"}), asked(None), asked({"n": 3}), asked({"n": {"gt": 1000}}), asked({})]
    for one, alone in zip(answerer.answer(questions), [answerer.ask(q) for q in questions], strict=True):
        assert [p.passage.id for p in one.passages] == [p.passage.id for p in alone.passages]
        assert one.text == alone.text


def test_unknown_fields_are_refused_with_those_that_there_are(answerer: Answerer) -> None:
    known = "there are code (strings), even (booleans), lang (strings), n (numbers)"
    with pytest.raises(RequestError) as caught:
        answerer.ask(asked({"language": "en"}))
    assert known in str(caught.value)
    assert answerer.info()["store"]["metadata"]["n"] == ["number"]  # type: ignore[index]


def test_a_filter_has_no_meaning_with_passages_of_ones_own() -> None:
    with pytest.raises(RequestError, match="a filter has no meaning with passages of your own"):
        Question("x", passages=(), filter=Filter.of({}))


def test_the_command_line_filters_by_words(store: Path) -> None:
    words = ["--filter", "lang=en", "--filter", "n>=4"]
    command = ["ask", QUESTION, "--store", str(store), "--json", "--retrieve-k", "5", "--max-new-tokens", "2"]
    reply = json.loads(CliRunner().invoke(app, [*command, *words]).stdout)
    assert all(p["metadata"]["lang"] == "en" and p["metadata"]["n"] >= 4 for p in reply["passages"])
    assert len(reply["passages"]) == 5
    by_code = json.loads(CliRunner().invoke(app, [*command, "--filter", "code=007"]).stdout)  # a string there
    assert [p["metadata"]["n"] for p in by_code["passages"]] == [7]
    for wrong, message in [("lang", "is not understood"), ("year=2000", "no metadata field 'year'")]:
        result = CliRunner().invoke(app, [*command, "--filter", wrong])
        assert isinstance(result.exception, MemstoreError)  # exit code 2, in `main`
        assert message in str(result.exception)


def test_the_command_line_asks_a_server_in_the_kinds_that_it_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Reported:
        metadata = {"code": ["string"], "n": ["number"]}  # noqa: RUF012
        store: Any = None

    class Fake:
        def __init__(self, url: str, **_: object) -> None:
            self.url = url

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def info(self, collection: str | None = None) -> Any:
            reported = Reported()
            reported.store = reported
            return reported

        def answer(self, question: str, **options: Any) -> AnswerReply:
            sent.update(options)
            raise memstore_client.ConnectionFailed("enough")

    monkeypatch.setattr(memstore_client, "Client", Fake)
    CliRunner().invoke(app, ["ask", "x", "--url", "http://h", "--filter", "code=7", "--filter", "n<7"])
    assert sent == {"filter": {"code": "7", "n": {"lt": 7}}}
