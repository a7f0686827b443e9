"""The retriever and the tool for LangChain, used as LangChain uses them, against a live server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, ToolException

from memstore.retrieve.filters import Filter
from memstore_client import AnswerReply, AsyncClient, Client, NotFound
from memstore_client.langchain import MemstoreAnswerTool, MemstoreRetriever, content
from tests.server.fakes import FakeEngine
from tests.server.live import live_server

CALL = {"name": "memstore_answer", "args": {"question": "why?"}, "id": "1", "type": "tool_call"}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def url(engine: FakeEngine) -> Iterator[str]:
    with live_server(engine) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, retries=0) as client:
        yield client


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, retries=0) as client:
        yield client


def test_documents_hold_the_passages(client: Client, engine: FakeEngine) -> None:
    retriever = MemstoreRetriever(client=client, k=2, filter={"lang": "en"})
    assert isinstance(retriever, BaseRetriever)
    otter, slash = retriever.invoke("otters")
    assert (otter.id, otter.page_content) == ("7:0", "Otters hold hands.")
    assert otter.metadata == {
        "title": "Otter", "url": "https://example.org/otter", "retrieval_rank": 1, "retrieval_score": 2.5,
        "rerank_score": None,
    }  # fmt: skip
    assert slash.metadata["tags"] == ["a"]
    assert engine.filters[-1] == Filter.of({"lang": "en"})
    assert len(MemstoreRetriever(client=client, k=1).invoke("otters")) == 1
    with pytest.raises(NotFound, match="old"):
        MemstoreRetriever(client=client, collection="old").invoke("otters")


def test_it_is_a_part_of_a_chain(client: Client) -> None:
    def titles(documents: list[Document]) -> list[str]:
        return [one.metadata["title"] for one in documents]

    chain = MemstoreRetriever(client=client) | RunnableLambda(titles)
    assert chain.invoke("otters") == ["Otter", "Slash"]
    assert chain.batch(["otters", "why"]) == [["Otter", "Slash"]] * 2


@pytest.mark.anyio
async def test_awaited_it_finds_the_same(client: Client, async_client: AsyncClient) -> None:
    expected = MemstoreRetriever(client=client).invoke("otters")
    assert await MemstoreRetriever(client=client, async_client=async_client).ainvoke("otters") == expected
    assert await MemstoreRetriever(client=client).ainvoke("otters") == expected  # in a thread


def test_the_tool_answers_a_model(client: Client, engine: FakeEngine) -> None:
    tool = MemstoreAnswerTool(client=client, retrieve_k=5, keep_k=1, task="nq", filter={"lang": "en"})
    assert isinstance(tool, BaseTool)
    assert set(tool.args) == {"question"}
    message = tool.invoke(CALL)
    assert isinstance(message, ToolMessage)
    assert message.content == "why?!\n\nRead from:\n[7:0] Otter (https://example.org/otter)"
    assert isinstance(message.artifact, AnswerReply)
    assert len(message.artifact.passages) == 2
    question = engine.questions[-1]
    assert (question.retrieve_k, question.keep_k, question.task) == (5, 1, "nq")
    assert question.filter == Filter.of({"lang": "en"})


@pytest.mark.anyio
async def test_awaited_the_tool_answers_the_same(client: Client, async_client: AsyncClient) -> None:
    expected = MemstoreAnswerTool(client=client).invoke("why?")
    assert expected.startswith("why?!")
    assert await MemstoreAnswerTool(client=client, async_client=async_client).ainvoke("why?") == expected
    assert await MemstoreAnswerTool(client=client).ainvoke("why?") == expected


@pytest.mark.anyio
async def test_a_refusal_is_said_in_langchains_way(client: Client, async_client: AsyncClient) -> None:
    tool = MemstoreAnswerTool(client=client, async_client=async_client, retrieve_k=999)
    with pytest.raises(ToolException, match="999 is more than 200"):
        tool.invoke("why?")
    with pytest.raises(ToolException, match="999 is more than 200"):
        await tool.ainvoke("why?")
    told = MemstoreAnswerTool(client=client, retrieve_k=999, handle_tool_error=True).invoke(CALL)
    assert told.status == "error"
    assert "999 is more than 200" in told.content


def test_what_was_not_read_anywhere_is_called_a_guess(client: Client) -> None:
    reply = client.answer("why?")
    assert content(reply.model_copy(update={"passages": []})).endswith("No passage was found: this is a guess.")
    unsure = content(reply.model_copy(update={"answer": None}))
    assert unsure.startswith("No answer: the server is not sure enough of any.\n\nRead from:")
