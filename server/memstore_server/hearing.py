"""An answer as it arrives: what is heard of it in the engine's thread, as events in the event loop.

Knows both threads, and asyncio. Refuses to know HTTP, and how an answer is made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from memstore.passage import RankedPassage
from memstore_client.events import AnswerEvent, RankedEvent, RetrievedEvent, TokenEvent
from memstore_server import translate
from memstore_server.batching import DeadlineExceeded

KEEP_ALIVE = 15.0  # seconds without an event after which that is reported: proxies close what is silent for long

Events = AsyncGenerator[AnswerEvent | None, None]
"""Of one answer; None says that nothing has happened for `KEEP_ALIVE` seconds. The last one is the whole reply."""

_Heard = tuple[type[RetrievedEvent] | type[RankedEvent], Sequence[RankedPassage]] | str
_END = ""  # no piece of text is empty


class Hearing:
    """Listens to one question's answer in the engine's thread, for the event loop in which it was made.

    A question whose batch failed is answered again, by itself, and heard from its beginning: what was handed on before
    is left out then.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[_Heard] = asyncio.Queue()
        self._passages: set[type] = set()  # events that were handed on
        self._text = ""  # handed on
        self._written = ""  # since the question was last begun
        self._wanted = True

    # --- in the engine's thread ---

    def retrieved(self, passages: Sequence[RankedPassage]) -> None:
        """The question is begun."""
        self._written = ""
        self._hand_on_once(RetrievedEvent, passages)

    def ranked(self, passages: Sequence[RankedPassage]) -> None:
        """Its passages are scored."""
        self._hand_on_once(RankedEvent, passages)

    def wrote(self, text: str) -> bool:
        """A piece of the answer. Whether anybody wants more."""
        self._written += text
        if self._written.startswith(self._text) and (new := self._written[len(self._text) :]):
            self._text = self._written
            self._hand_on(new)
        return self._wanted

    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._wanted

    def _hand_on_once(self, kind: type[RetrievedEvent | RankedEvent], passages: Sequence[RankedPassage]) -> None:
        if kind not in self._passages:
            self._passages.add(kind)
            self._hand_on((kind, passages))

    def _hand_on(self, heard: _Heard) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, heard)

    # --- in the event loop ---

    def stop(self) -> None:
        """Nobody listens any more: an answer that is being made ends as soon as it can."""
        self._wanted = False

    async def until(self, done: asyncio.Future[Any], deadline: float | None) -> AsyncIterator[AnswerEvent | None]:
        """What is heard until the answer is done, well or with an error.

        Args:
            done: the answer to come.
            deadline: on the monotonic clock.

        Raises:
            DeadlineExceeded: the deadline passed first.
        """
        done.add_done_callback(lambda _: self._queue.put_nowait(_END))
        while True:
            left = KEEP_ALIVE if deadline is None else deadline - time.monotonic()
            try:
                heard = await asyncio.wait_for(self._queue.get(), min(KEEP_ALIVE, left))
            except TimeoutError:
                if left <= KEEP_ALIVE and deadline is not None:
                    raise DeadlineExceeded("the deadline passed before the model had finished") from None
                yield None
                continue
            if heard == _END:
                return
            yield TokenEvent(text=heard) if isinstance(heard, str) else heard[0](passages=translate.ranked(heard[1]))
