"""The components for Haystack, in its own pipelines, against a live server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported: it would report home

from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.errors import FilterError

from memstore.retrieve.filters import Filter
from memstore_client import Client, NotFound
from memstore_client.haystack import MemstoreAnswerer, MemstoreRetriever, answers, memstore_filter
from tests.server.fakes import FakeEngine
from tests.server.live import live_server

ENGLISH = {"field": "meta.lang", "operator": "==", "value": "en"}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def url(engine: FakeEngine) -> Iterator[str]:
    with live_server(engine) as address:
        yield address


def test_documents_hold_the_passages(url: str, engine: FakeEngine) -> None:
    otter, slash = MemstoreRetriever(url, top_k=2, filters=ENGLISH).run("otters")["documents"]
    assert (otter.id, otter.content, otter.score) == ("7:0", "Otters hold hands.", 2.5)
    assert otter.meta == {"title": "Otter", "url": "https://example.org/otter"}
    assert slash.meta["tags"] == ["a"]
    assert engine.filters[-1] == Filter.of({"lang": "en"})
    assert len(MemstoreRetriever(url).run("otters", top_k=1, filters={"lang": "de"})["documents"]) == 1
    assert engine.filters[-1] == Filter.of({"lang": "de"})
    with pytest.raises(NotFound, match="old"):
        MemstoreRetriever(url, collection="old").run("otters")


def test_an_answer_names_the_passages_that_were_read(url: str, engine: FakeEngine) -> None:
    (answer,) = MemstoreAnswerer(url, retrieve_k=5, keep_k=1, filters=ENGLISH).run("why?")["answers"]
    assert (answer.data, answer.query) == ("why?!", "why?")
    assert [(one.id, one.score) for one in answer.documents] == [("7:0", -0.5)]
    assert (answer.meta["score"], answer.meta["retrieved"], answer.meta["generation"]) == (-1.25, 2, 4)
    assert (engine.questions[-1].retrieve_k, engine.questions[-1].keep_k) == (5, 1)


def test_it_is_not_sure(url: str) -> None:
    with Client(url) as client:
        unsure = client.answer("why?").model_copy(update={"answer": None})
    assert answers("why?", unsure) == []


def pipeline(url: str) -> Pipeline:
    made = Pipeline()
    made.add_component("retriever", MemstoreRetriever(url, top_k=2))
    made.add_component("more", DocumentJoiner())
    made.add_component("answerer", MemstoreAnswerer(url, keep_k=10))
    made.connect("retriever.documents", "more.documents")
    made.connect("more.documents", "answerer.documents")
    return made


INPUTS = {"retriever": {"query": "otters"}, "answerer": {"query": "why?"}}


def test_in_a_pipeline_an_answer_is_read_from_other_components_documents(url: str, engine: FakeEngine) -> None:
    written = pipeline(url).dumps()
    made = Pipeline.loads(written, allowed_modules=["memstore_client.haystack"])  # as Haystack asks for all but its own
    (answer,) = made.run(INPUTS)["answerer"]["answers"]
    assert answer.data == "why?!"
    own = engine.questions[-1].passages
    assert own is not None
    assert sorted((one.id, one.title) for one in own) == [("7:0", "Otter"), ("a/b:1", "Slash")]


@pytest.mark.anyio
async def test_awaited_it_gives_the_same(url: str) -> None:
    (answer,) = (await pipeline(url).run_async(INPUTS))["answerer"]["answers"]
    assert answer.data == "why?!"


def test_documents_without_a_text_are_left_out(url: str, engine: FakeEngine) -> None:
    given = [Document(content="A text."), Document(content=" "), Document(content=None, meta={"title": "Empty"})]
    MemstoreAnswerer(url).run("why?", documents=given)
    own = engine.questions[-1].passages
    assert own is not None
    assert [one.text for one in own] == ["A text."]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, None),
        ({"lang": "en"}, {"lang": "en"}),
        (ENGLISH, {"lang": {"in": ["en"]}}),
        ({"field": "lang", "operator": "!=", "value": "en"}, {"lang": {"not": "en"}}),
        ({"field": "lang", "operator": "==", "value": None}, {"lang": {"exists": False}}),
        ({"field": "lang", "operator": "!=", "value": None}, {"lang": {"exists": True}}),
        ({"field": "meta.year", "operator": "in", "value": [1, 2]}, {"year": {"in": [1, 2]}}),
        ({"field": "meta.year", "operator": "not in", "value": [1, 2]}, {"year": {"not": {"in": [1, 2]}}}),
        (
            {"operator": "AND", "conditions": [
                ENGLISH,
                {"operator": "AND", "conditions": [
                    {"field": "meta.year", "operator": ">=", "value": 2000},
                    {"field": "meta.year", "operator": "<", "value": 2010},
                ]},
            ]},
            {"lang": {"in": ["en"]}, "year": {"gte": 2000, "lt": 2010}},
        ),
    ],
)  # fmt: skip
def test_filters_in_haystacks_form(given: Any, expected: Any) -> None:
    made = memstore_filter(given)
    assert made == expected
    if made is not None:
        Filter.of(made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"operator": "OR", "conditions": [ENGLISH]}, "by AND only, not by 'OR'"),
        ({"operator": "NOT", "conditions": [ENGLISH]}, "by AND only, not by 'NOT'"),
        ({"operator": "AND", "conditions": [ENGLISH, ENGLISH]}, "'lang' has two conditions"),
        ({"field": "meta.lang", "operator": "~", "value": "en"}, "no operator '~'"),
    ],
)
def test_what_memstore_has_no_words_for(given: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        memstore_filter(given)
