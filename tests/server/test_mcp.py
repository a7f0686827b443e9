"""MCP, asked by the client of the official package: tools, resources, and how failures are said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent, TextResourceContents

from memstore.passage import Passage
from memstore.retrieve.filters import Filter
from memstore_client import AsyncClient
from memstore_server.mcp import in_process, mcp_server, passage_uri
from memstore_server.settings import Settings
from tests.server.fakes import OTTERS, SLASH, FakeEngine

pytestmark = pytest.mark.anyio
Asking = Callable[[], AbstractAsyncContextManager[Client]]


@pytest.fixture
def asking(engine: FakeEngine) -> Asking:
    @asynccontextmanager
    async def ask() -> AsyncIterator[Client]:
        settings = Settings.load(store="store", write_key="a-key-of-sixteen!")
        async with in_process(engine, settings) as client, Client(mcp_server(client)) as asked:
            yield asked

    return ask


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def resource(asked: Client, uri: str) -> dict[str, Any]:
    (content,) = (await asked.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "application/json"
    values: dict[str, Any] = json.loads(content.text)
    return values


async def test_what_is_offered_is_described(asking: Asking) -> None:
    async with asking() as asked:
        tools = {tool.name: tool for tool in (await asked.list_tools()).tools}
        templates = (await asked.list_resource_templates()).resource_templates
        resources = (await asked.list_resources()).resources
    assert set(tools) == {"answer", "search"}
    for tool in tools.values():
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.output_schema is not None
        assert tool.input_schema["required"] == ["question"]
        assert all(one.get("description") for one in tool.input_schema["properties"].values())
    assert [template.uri_template for template in templates] == ["memstore://passages/{passage_id}{?collection}"]
    assert [one.uri for one in resources] == ["memstore://info"]


async def test_an_answer_comes_with_the_passages_that_were_read(asking: Asking, engine: FakeEngine) -> None:
    wanted = {"lang": "en", "year": {"gte": 2000}}
    async with asking() as asked:
        options = {"retrieve_k": 5, "keep_k": 1, "task": "nq", "filter": wanted}
        result = await asked.call_tool("answer", {"question": "why?", **options})
    assert not result.is_error
    assert result.structured_content == json.loads(text_of(result)) == {
        "answer": "why?!", "reason": None, "confidence": 0.5, "calibrated": True, "score": -1.25,
        "retrieved": 2, "trained": True, "generation": 4, "lowered": None, "cut": False,
        "passages": [{
            "id": "7:0", "uri": "memstore://passages/7%3A0", "title": "Otter", "text": "Otters hold hands.",
            "url": "https://example.org/otter", "score": -0.5, "metadata": {},
        }],
    }  # fmt: skip
    question = engine.questions[-1]
    assert (question.retrieve_k, question.keep_k, question.task) == (5, 1, "nq")
    assert question.filter == Filter.of(wanted)


async def test_a_search_finds_passages_without_answering(asking: Asking, engine: FakeEngine) -> None:
    async with asking() as asked:
        engine.batches.clear()
        result = await asked.call_tool("search", {"question": "otters", "k": 2, "filter": {"lang": "en"}})
        fewer = await asked.call_tool("search", {"question": "otters", "k": 1})
    assert result.structured_content is not None
    assert fewer.structured_content is not None
    found = result.structured_content["passages"]
    assert [(one["id"], one["score"]) for one in found] == [("7:0", 2.5), ("a/b:1", 1.5)]
    assert found[1]["metadata"] == {"tags": ["a"], "year": 1, "new": True}
    assert len(fewer.structured_content["passages"]) == 1
    assert engine.batches == []
    assert engine.filters == [Filter.of({"lang": "en"}), None]


async def test_a_passage_that_was_found_can_be_read(asking: Asking) -> None:
    async with asking() as asked:
        result = await asked.call_tool("search", {"question": "otters"})
        assert result.structured_content is not None
        for one, passage in zip(result.structured_content["passages"], (OTTERS, SLASH), strict=True):
            read = await resource(asked, one["uri"])
            assert (read["id"], read["text"], read["document_id"]) == (passage.id, passage.text, passage.document_id)
        info = await resource(asked, "memstore://info")
    assert (info["model"]["name"], info["store"]["generation"]) == ("fake", 4)


@pytest.mark.parametrize(
    "passage_id", ["..", "/etc/passwd", "a b", "é", "%2F", "?x=1#y", "a\nb", "a,b", "\\..\\c", "🦦"]
)
async def test_odd_ids_are_ids_as_good_as_others(asking: Asking, engine: FakeEngine, passage_id: str) -> None:
    engine.stored = (Passage(passage_id, "odd", "Odd", "An odd id.", "", 0, 10),)
    async with asking() as asked:
        assert (await resource(asked, passage_uri(passage_id)))["id"] == passage_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "   "}, "question"),
        ({"question": "a" * 2_001}, "2000"),
        ({"question": "why?", "retrieve_k": 999}, "retrieve_k: 999 is more than 200"),
        ({"question": "why?", "retrieve_k": 0}, "greater than or equal to 1"),
        ({"question": "why?", "filter": {"lang": {"equals": "en"}}}, "equals"),
        ({"question": "impossible"}, "the model knows no task 'juggling'"),
        ({}, "question"),
    ],
)
async def test_what_the_model_can_mend_is_said_in_the_result(asking: Asking, arguments: dict, message: str) -> None:
    async with asking() as asked:
        result = await asked.call_tool("answer", arguments)
    assert result.is_error
    assert message in text_of(result)


@pytest.mark.parametrize("question", ["broken", "damaged"])
async def test_a_failure_names_its_request_and_nothing_inside(asking: Asking, question: str) -> None:
    async with asking() as asked:
        result = await asked.call_tool("answer", {"question": question})
    assert result.is_error
    assert "secret" not in text_of(result)
    assert "500" in text_of(result) or "log" in text_of(result)


async def test_a_resource_that_is_not_there_is_the_protocols_error(asking: Asking) -> None:
    async with asking() as asked:
        with pytest.raises(MCPError, match="no passage with id 'nope'") as missing:
            await asked.read_resource(passage_uri("nope"))
        with pytest.raises(MCPError) as elsewhere:
            await asked.read_resource("memstore://nowhere")
    assert missing.value.code == elsewhere.value.code == -32602


async def test_a_server_that_cannot_be_reached_is_an_error_of_each_call() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    client = AsyncClient("http://nowhere.test", retries=0, transport=httpx.MockTransport(refuse))
    async with client, Client(mcp_server(client)) as asked:
        assert len((await asked.list_tools()).tools) == 2
        for tool in ("answer", "search"):
            result = await asked.call_tool(tool, {"question": "why?"})
            assert result.is_error
            assert "nowhere.test" in text_of(result)
        with pytest.raises(MCPError, match=r"nowhere\.test") as unreadable:
            await asked.read_resource(passage_uri("7:0"))
    assert unreadable.value.code == -32603


async def test_the_store_cannot_be_changed_from_here(engine: FakeEngine) -> None:
    settings = Settings.load(store="store", write_key="a-key-of-sixteen!")
    async with in_process(engine, settings) as client:
        assert (await client.info()).limits.write_bytes is None
