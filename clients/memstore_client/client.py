"""The two clients: one blocks, one is awaited. They differ in how they send and wait; the rest is their base.

Refuses to know the engine: nothing of memstore is imported but the wire.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from memstore_client import errors, served, wire
from memstore_client.base import BETWEEN_LOOKS, READY_WITHIN, WITHOUT_PROXY, Call, server_url, undecodable, unusable
from memstore_client.changing import AsyncChangingClient, ChangingClient
from memstore_client.filters import Filter
from memstore_client.options import AnswerOptions
from memstore_client.streaming import AsyncStreamingClient, StreamingClient

R = TypeVar("R", bound=BaseModel)

DEFAULT_TIMEOUT = 60.0  # seconds; an answer of a large model on a busy CPU takes several


class Client(ChangingClient, StreamingClient):
    """Asks a memstore server; blocks until the reply. Use it as a context manager, or `close` it.

    Args:
        base_url: where the server is, as `memstore serve` prints it. One on this machine is asked without a proxy.
        timeout: seconds to wait for a connection and for a reply, each; None waits for ever.
        retries: how often a request is sent again, if that is safe: when no connection was made, when the
            server is overloaded or not ready (after the time it advises), and for what is only looked up. An
            answer that was too late is not asked for again.
        write_key: the server's, for what changes its store; sent with nothing else.
        api_key: one of the server's, where it wants to know who asks; sent with all that has no write key. By default
            the variable `MEMSTORE_API_KEY`, if there is one; an empty one sends none.
        transport: how httpx sends; by default over the network.

    Raises:
        MemstoreClientError: every method raises one of its subclasses, see `memstore_client.errors`.
        BadRequest: `base_url` is no URL of HTTP, or has a query or a fragment.
        ValueError: `timeout` is not above 0, `retries` is below, or `write_key` cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        retries: int = 2,
        write_key: str | None = None,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(retries=retries, timeout=timeout, write_key=write_key, api_key=api_key)
        self._http = httpx.Client(
            base_url=server_url(base_url), timeout=timeout, transport=transport, mounts=WITHOUT_PROXY
        )

    def answer(self, question: str, **options: Unpack[AnswerOptions]) -> wire.AnswerReply:
        """Answers a question from the server's store, or from `passages` of the caller's own.

        Args:
            question: at most 2,000 characters.
            options: see `AnswerOptions`. One that is none of them is a TypeError.
        """
        return self._send(self._answer(question, **options))

    def answer_batch(
        self,
        questions: Sequence[str | wire.QuestionInput],
        *,
        deadline_ms: int | None = None,
        collection: str | None = None,
    ) -> wire.AnswerBatchReply:
        """Answers several questions in one request; each item is an answer or a problem of its own. `collection` is of
        those that name none.
        """
        return self._send(self._answer_batch(questions, deadline_ms, collection))

    def retrieve(
        self,
        question: str,
        *,
        retrieve_k: int | None = None,
        deadline_ms: int | None = None,
        filter: Filter | None = None,
        collection: str | None = None,
    ) -> wire.RetrieveReply:
        """Finds passages, best first; fewer than `retrieve_k` if no more match.

        `filter` and `collection` are as in `answer`.
        """
        call = self._retrieve(
            question, retrieve_k=retrieve_k, deadline_ms=deadline_ms, filter=filter, collection=collection
        )
        return self._send(call)

    def rerank(
        self,
        question: str,
        passages: Sequence[wire.PassageInput],
        *,
        task: str | None = None,
        deadline_ms: int | None = None,
        collection: str | None = None,
    ) -> wire.RerankReply:
        """Scores passages of the caller's own for a question, best first, with the model of a collection."""
        call = self._rerank(
            question, passages=_list(passages), task=task, deadline_ms=deadline_ms, collection=collection
        )
        return self._send(call)

    def passage(self, passage_id: str, *, collection: str | None = None) -> wire.PassageReply:
        """A passage of the store by its id. Raises NotFound if there is none."""
        return self._send(self._passage(passage_id, collection))

    def health(self) -> served.HealthReply:
        """Whether the server's process is alive: replies, or raises (NotReady when only a restart helps)."""
        return self._send(self._health())

    def ready(self) -> bool:
        """Whether the server can answer questions now. Raises ConnectionFailed if nobody is there."""
        try:
            self._send(self._ready())
        except errors.NotReady:
            return False
        return True

    def wait_until_ready(self, *, timeout: float = READY_WITHIN) -> None:
        """Waits until the server can answer, also while nobody listens there yet.

        Raises:
            Timeout: it could not after so many seconds; the message says how far it was.
        """
        late = time.monotonic() + timeout
        while (still := self._unready()) is not None:
            if time.monotonic() >= late:
                raise errors.Timeout(f"not ready after {timeout} s: {still}") from still
            self._pause(BETWEEN_LOOKS)

    def _unready(self) -> errors.MemstoreClientError | None:
        try:
            self._send(self._ready())
        except (errors.NotReady, errors.ConnectionFailed) as error:
            return error
        return None

    def info(self, *, collection: str | None = None) -> served.InfoReply:
        """A collection's model and store, the limits and defaults of its requests, and what others there are."""
        return self._send(self._info(collection))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call[R]) -> R:
        return self._read(call, self._response(call))

    def _response(self, call: Call[R]) -> httpx.Response:
        attempt = 0
        while True:
            try:
                headers = self._headers(call)
                request = self._http.build_request(call.method, call.path, content=call.body, headers=headers)
                response = self._http.send(request, stream=call.streamed)
                if not response.is_success:
                    response.read()
            except (httpx.InvalidURL, UnicodeError) as error:
                raise unusable(f"{str(self._http.base_url).rstrip('/')}{call.path}", error) from error
            except httpx.DecodingError as error:
                raise undecodable(call, error) from error
            except httpx.TransportError as failure:
                delay: float | None = self._delay_after_failure(call, attempt, failure)
            else:
                delay = self._delay_after(call, attempt, response)
                if delay is None:
                    return response
            self._pause(delay or 0.0)
            attempt += 1


class AsyncClient(AsyncChangingClient, AsyncStreamingClient):
    """`Client` for asyncio: the same methods, awaited. Use it as an async context manager, or `close` it.

    Args:
        base_url: where the server is, as `memstore serve` prints it. One on this machine is asked without a proxy.
        timeout: seconds to wait for a connection and for a reply, each; None waits for ever.
        retries: how often a request is sent again, if that is safe; as for `Client`.
        write_key: the server's, for what changes its store; sent with nothing else.
        api_key: one of the server's, where it wants to know who asks; sent with all that has no write key. By default
            the variable `MEMSTORE_API_KEY`, if there is one; an empty one sends none.
        transport: how httpx sends; by default over the network.

    Raises:
        MemstoreClientError: every method raises one of its subclasses, see `memstore_client.errors`.
        BadRequest: `base_url` is no URL of HTTP, or has a query or a fragment.
        ValueError: `timeout` is not above 0, `retries` is below, or `write_key` cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        retries: int = 2,
        write_key: str | None = None,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(retries=retries, timeout=timeout, write_key=write_key, api_key=api_key)
        self._http = httpx.AsyncClient(
            base_url=server_url(base_url), timeout=timeout, transport=transport, mounts=WITHOUT_PROXY
        )

    async def answer(self, question: str, **options: Unpack[AnswerOptions]) -> wire.AnswerReply:
        """Answers a question; see `Client.answer`."""
        return await self._send(self._answer(question, **options))

    async def answer_batch(
        self,
        questions: Sequence[str | wire.QuestionInput],
        *,
        deadline_ms: int | None = None,
        collection: str | None = None,
    ) -> wire.AnswerBatchReply:
        """Answers several questions in one request; each item is an answer or a problem of its own. `collection` is of
        those that name none.
        """
        return await self._send(self._answer_batch(questions, deadline_ms, collection))

    async def retrieve(
        self,
        question: str,
        *,
        retrieve_k: int | None = None,
        deadline_ms: int | None = None,
        filter: Filter | None = None,
        collection: str | None = None,
    ) -> wire.RetrieveReply:
        """Finds passages, best first; fewer than `retrieve_k` if no more match.

        `filter` and `collection` are as in `answer`.
        """
        call = self._retrieve(
            question, retrieve_k=retrieve_k, deadline_ms=deadline_ms, filter=filter, collection=collection
        )
        return await self._send(call)

    async def rerank(
        self,
        question: str,
        passages: Sequence[wire.PassageInput],
        *,
        task: str | None = None,
        deadline_ms: int | None = None,
        collection: str | None = None,
    ) -> wire.RerankReply:
        """Scores passages of the caller's own for a question, best first, with the model of a collection."""
        call = self._rerank(
            question, passages=_list(passages), task=task, deadline_ms=deadline_ms, collection=collection
        )
        return await self._send(call)

    async def passage(self, passage_id: str, *, collection: str | None = None) -> wire.PassageReply:
        """A passage of the store by its id. Raises NotFound if there is none."""
        return await self._send(self._passage(passage_id, collection))

    async def health(self) -> served.HealthReply:
        """Whether the server's process is alive: replies, or raises (NotReady when only a restart helps)."""
        return await self._send(self._health())

    async def ready(self) -> bool:
        """Whether the server can answer questions now. Raises ConnectionFailed if nobody is there."""
        try:
            await self._send(self._ready())
        except errors.NotReady:
            return False
        return True

    async def wait_until_ready(self, *, timeout: float = READY_WITHIN) -> None:  # noqa: ASYNC109
        """Waits until the server can answer; see `Client.wait_until_ready`."""
        late = time.monotonic() + timeout
        while (still := await self._unready()) is not None:
            if time.monotonic() >= late:
                raise errors.Timeout(f"not ready after {timeout} s: {still}") from still
            await self._pause(BETWEEN_LOOKS)

    async def _unready(self) -> errors.MemstoreClientError | None:
        try:
            await self._send(self._ready())
        except (errors.NotReady, errors.ConnectionFailed) as error:
            return error
        return None

    async def info(self, *, collection: str | None = None) -> served.InfoReply:
        """A collection's model and store, the limits and defaults of its requests, and what others there are."""
        return await self._send(self._info(collection))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[R]) -> R:
        return self._read(call, await self._response(call))

    async def _response(self, call: Call[R]) -> httpx.Response:
        attempt = 0
        while True:
            try:
                headers = self._headers(call)
                request = self._http.build_request(call.method, call.path, content=call.body, headers=headers)
                response = await self._http.send(request, stream=call.streamed)
                if not response.is_success:
                    await response.aread()
            except (httpx.InvalidURL, UnicodeError) as error:
                raise unusable(f"{str(self._http.base_url).rstrip('/')}{call.path}", error) from error
            except httpx.DecodingError as error:
                raise undecodable(call, error) from error
            except httpx.TransportError as failure:
                delay: float | None = self._delay_after_failure(call, attempt, failure)
            else:
                delay = self._delay_after(call, attempt, response)
                if delay is None:
                    return response
            await self._pause(delay or 0.0)
            attempt += 1


def _list(passages: Sequence[wire.PassageInput] | None) -> list[wire.PassageInput] | None:
    return None if passages is None else list(passages)
