"""Streamed answers, for both clients: server-sent events as typed ones, and the errors that they stand for.

As `client`, which adds sending and waiting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar, Unpack

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError
from pydantic import BaseModel, ValidationError

from memstore_client import errors, wire
from memstore_client.base import BaseClient, Call, raise_problem, undecodable, unreadable
from memstore_client.events import ERROR, KINDS, AnswerEvent
from memstore_client.options import AnswerOptions

R = TypeVar("R", bound=BaseModel)


class StreamingClient(BaseClient):
    """The methods of `Client` that give an answer as it is made."""

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> Generator[AnswerEvent]:
        """Answers a question as `answer` does, event by event: a `RetrievedEvent`, a `RankedEvent`, a `TokenEvent` for
        each piece of text, and the `AnswerReply`. The question is sent, and errors are raised, when events are asked
        for. Closing the generator early (`contextlib.closing`) ends the server's work.
        """
        return self._events(self._stream(question, **options))

    def _events(self, call: Call[wire.AnswerReply]) -> Generator[AnswerEvent]:
        response = self._response(call)
        try:
            if not response.is_success:
                self._read(call, response)
            for sent in EventSource(response).iter_sse():
                event = event_of(call, response, sent)
                if event is not None:
                    yield event
                if isinstance(event, wire.AnswerReply):
                    return
            raise cut_off(call, response)
        except SSEError as error:
            raise no_stream(call, response) from error
        except httpx.DecodingError as error:
            raise undecodable(call, error) from error
        except httpx.TransportError as failure:
            self._delay_after_failure(call, self.retries, failure)  # raises: what has begun is not asked again
        finally:
            response.close()

    @abstractmethod
    def _response(self, call: Call[R]) -> httpx.Response: ...


class AsyncStreamingClient(BaseClient):
    """The methods of `AsyncClient` that give an answer as it is made."""

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> AsyncGenerator[AnswerEvent]:
        """Answers a question event by event; see `Client.stream`. `contextlib.aclosing` ends it early."""
        return self._events(self._stream(question, **options))

    async def _events(self, call: Call[wire.AnswerReply]) -> AsyncGenerator[AnswerEvent]:
        response = await self._response(call)
        try:
            if not response.is_success:
                self._read(call, response)
            async for sent in EventSource(response).aiter_sse():
                event = event_of(call, response, sent)
                if event is not None:
                    yield event
                if isinstance(event, wire.AnswerReply):
                    return
            raise cut_off(call, response)
        except SSEError as error:
            raise no_stream(call, response) from error
        except httpx.DecodingError as error:
            raise undecodable(call, error) from error
        except httpx.TransportError as failure:
            self._delay_after_failure(call, self.retries, failure)  # raises: what has begun is not asked again
        finally:
            await response.aclose()

    @abstractmethod
    async def _response(self, call: Call[R]) -> httpx.Response: ...


# --- what both share ---


def event_of(call: Call[wire.AnswerReply], response: httpx.Response, sent: ServerSentEvent) -> AnswerEvent | None:
    """The typed event; None for one that this release does not know.

    Raises:
        MemstoreClientError: the one that an `error` event stands for.
        UnexpectedReply: the event does not hold what its name says.
    """
    try:
        if sent.event != ERROR:
            kind = KINDS.get(sent.event)
            return None if kind is None else kind.model_validate_json(sent.data)
        problem = wire.Problem.model_validate_json(sent.data)
    except ValidationError as error:
        raise unreadable(call, response, error) from error
    return raise_problem(f"{call.method} {response.url}", problem.status, problem, request_id=problem.request_id)


def no_stream(call: Call[wire.AnswerReply], response: httpx.Response) -> errors.UnexpectedReply:
    """What to raise for a reply that succeeded and is no stream."""
    sent = response.headers.get("Content-Type", "nothing said")
    return errors.UnexpectedReply(f"{call.method} {response.url}: not the stream of a memstore server ({sent})",
                                  status=response.status_code)  # fmt: skip


def cut_off(call: Call[wire.AnswerReply], response: httpx.Response) -> errors.ConnectionFailed:
    """What to raise for a stream that ends without saying that it does."""
    return errors.ConnectionFailed(
        f"{call.method} {response.url}: the stream ended before the answer was complete",
        request_id=response.headers.get(wire.REQUEST_ID_HEADER),
    )
