"""memstore for LangChain: a retriever, and a tool that answers questions. Needs `langchain-core`.

from memstore_client import Client
from memstore_client.langchain import MemstoreAnswerTool, MemstoreRetriever

client = Client("http://127.0.0.1:8080")
documents = MemstoreRetriever(client=client, k=5).invoke("who discovered radium")
print(MemstoreAnswerTool(client=client).invoke("Who discovered radium?"))

Both ask through clients that are the caller's, to share and to close; a client has the server's `api_key`. Without an
`async_client`, what is awaited runs in a thread.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import run_in_executor
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field

from memstore_client.client import AsyncClient, Client
from memstore_client.errors import MemstoreClientError
from memstore_client.wire import AnswerReply, KeptCount, RankedPassageReply

NOT_SURE = "No answer: the server is not sure enough of any."


class MemstoreRetriever(BaseRetriever):
    """Finds passages for a question, best first.

    A document's `id` is the passage's, its `metadata` are the metadata of the passage's document with `title`, `url`,
    `retrieval_rank`, `retrieval_score` and `rerank_score` beside them; a field of the same name gives way to these.

    Raises:
        MemstoreClientError: from `invoke` and its kin, one of its subclasses.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    async_client: AsyncClient | None = None
    k: int | None = Field(default=None, ge=1, description="Passages wanted; by default as many as the server says.")
    filter: dict[str, Any] | None = Field(default=None, description="As of `Client.retrieve`.")

    collection: str | None = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's signature
    ) -> list[Document]:
        reply = self.client.retrieve(query, **self._options)
        return [document(one) for one in reply.passages]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        reply = await self.async_client.retrieve(query, **self._options)
        return [document(one) for one in reply.passages]

    @property
    def _options(self) -> dict[str, Any]:
        return {"retrieve_k": self.k, "filter": self.filter, "collection": self.collection}


class Asked(BaseModel):
    """What a model gives the tool."""

    question: str = Field(description="A question in plain words, at most 2,000 characters.")


class MemstoreAnswerTool(BaseTool):
    """Answers a question. The content is the answer and the titles of the passages read, the artifact the whole reply.

    Raises:
        ToolException: from `invoke` and its kin, when the server refuses or cannot be reached; with
            `handle_tool_error=True` LangChain gives its message to the model instead.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    OPTIONS: ClassVar = (
        "retrieve_k", "keep_k", "keep_mass", "max_gflop", "degrade", "task", "filter", "deadline_ms", "collection",
        "min_confidence",
    )  # fmt: skip

    name: str = "memstore_answer"
    description: str = (
        "Answers a question with a short factual answer from a collection of texts, and names the passages it was read "
        "from. Without passages, the answer is a guess."
    )
    args_schema: type[BaseModel] = Asked
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"

    client: Client
    async_client: AsyncClient | None = None
    retrieve_k: int | None = Field(default=None, ge=1, description="As of `Client.answer`, like those that follow.")
    keep_k: KeptCount | None = None
    task: str | None = None
    filter: dict[str, Any] | None = None
    deadline_ms: int | None = Field(default=None, ge=1)
    collection: str | None = None
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    keep_mass: float | None = Field(default=None, gt=0, le=1)
    max_gflop: float | None = Field(default=None, gt=0)
    degrade: bool | None = None

    def _run(self, question: str) -> tuple[str, AnswerReply]:
        try:
            reply = self.client.answer(question, **self._options)
        except MemstoreClientError as error:
            raise ToolException(str(error)) from error
        return content(reply), reply

    async def _arun(self, question: str) -> tuple[str, AnswerReply]:
        if self.async_client is None:
            return await run_in_executor(None, self._run, question)
        try:
            reply = await self.async_client.answer(question, **self._options)
        except MemstoreClientError as error:
            raise ToolException(str(error)) from error
        return content(reply), reply

    @property
    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.OPTIONS}


def document(one: RankedPassageReply) -> Document:
    """A passage as LangChain's document."""
    own = {name: getattr(one, name) for name in ("title", "url", "retrieval_rank", "retrieval_score", "rerank_score")}
    return Document(page_content=one.text, id=one.id, metadata={**one.metadata, **own})


def content(reply: AnswerReply) -> str:
    """An answer for a model to read: the answer, then a line for each passage that was read."""
    read = [f"[{one.id}] {one.title}{f' ({one.url})' if one.url else ''}" for one in reply.passages if one.kept]
    sources = "\n".join(["Read from:", *read]) if read else "No passage was found: this is a guess."
    return f"{NOT_SURE if reply.answer is None else reply.answer}\n\n{sources}"
