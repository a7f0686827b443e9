"""Hearing of answers while they are made: passages when they are found and ranked, text when it is certain.

Refuses to know models, and how what is heard gets anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from memstore.errors import MemstoreError
from memstore.model.tokens import TextTokenizer
from memstore.passage import RankedPassage

_UNFINISHED = "\ufffd"  # a character of which not all bytes have come
Stages = Callable[[str], AbstractContextManager[None]]
"""What is done within `stages(name)` is the stage of that name."""


class NobodyListens(MemstoreError):  # noqa: N818 - reads as the fact it states
    """All who listened to a batch have gone: its answers are not made."""


class Listener(Protocol):
    """Hears of one question's answer while it is being made, in the thread that makes it: must not block, nor raise."""

    def retrieved(self, passages: Sequence[RankedPassage]) -> None:
        """The passages, in the retriever's order, before anything of them is read."""
        ...

    def ranked(self, passages: Sequence[RankedPassage]) -> None:
        """The passages, best first, with their scores; those that are kept will be read."""
        ...

    def wrote(self, text: str) -> bool:
        """A piece of the answer, after those before. False ends the answer there: nobody wants more."""
        ...

    def wanted(self) -> bool:
        """Whether anybody still wants the answer. Asked between stages."""
        ...


class Waits:
    """Hears nothing of an answer before it is whole, and only says whether it is `wanted` still."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted

    def retrieved(self, passages: Sequence[RankedPassage]) -> None:
        """Nothing."""

    def ranked(self, passages: Sequence[RankedPassage]) -> None:
        """Nothing."""

    def wrote(self, text: str) -> bool:  # noqa: ARG002 - it is not for this one
        """Whether to go on."""
        return self.wanted()


class Heard:
    """Those who listen to a batch of B questions, and what they have heard of their answers."""

    def __init__(
        self, listeners: Sequence[Listener | None], tokenizer: TextTokenizer, *, wait: Sequence[bool] = ()
    ) -> None:
        """`wait` says for which questions nothing is heard before the end: there may be no answer after all."""
        self.listeners, self._wait = listeners, wait or [False] * len(listeners)
        # Spelling looks at the whole answer: what folds case, or comes after an unknown letter, waits for the end.
        self._texts = None if tokenizer.folds_case else [GrowingText(_known_text(tokenizer)) for _ in listeners]
        self.token = self._token if any(listeners) else None

    def unless_gone(self, stages: Stages) -> Stages:
        """The same stages, each of which begins only if somebody still wants an answer of the batch.

        A stage raises NobodyListens if each question has a listener, and none of them wants its answer.
        """

        def begin(name: str) -> AbstractContextManager[None]:
            if not any(listener is None or listener.wanted() for listener in self.listeners):
                raise NobodyListens(f"nobody waits for these answers any more: they end before {name}")
            return stages(name)

        return begin

    def retrieved(self, passages: Sequence[Sequence[RankedPassage]]) -> None:
        """Hands each question's passages on, as the retriever found them."""
        for listener, own in zip(self.listeners, passages, strict=True):
            if listener is not None:
                listener.retrieved(own)

    def ranked(self, passages: Sequence[Sequence[RankedPassage]]) -> None:
        """Hands each question's passages on, best first."""
        for listener, own in zip(self.listeners, passages, strict=True):
            if listener is not None:
                listener.ranked(own)

    def ended(self, question: int, text: str | None) -> None:
        """Gives out what is left of an answer; None where there is none after all."""
        listener = self.listeners[question]
        if listener is None or text is None:
            return
        if rest := text if self._texts is None else self._texts[question].rest(text):
            listener.wrote(rest)

    def _token(self, question: int, token: int) -> bool:
        listener = self.listeners[question]
        if listener is None:
            return True
        if isinstance(listener, Waits):  # no text is made for it
            return listener.wanted()
        piece = "" if self._texts is None or self._wait[question] else self._texts[question].add(token)
        return listener.wrote(piece)


def _known_text(tokenizer: TextTokenizer) -> Callable[[Sequence[int]], str]:
    return lambda ids: tokenizer.decode(tokenizer.known(ids))


class GrowingText:
    """The text of some ids, piece by piece. All pieces together are the text of all ids.

    >>> text = GrowingText(lambda ids: " ".join("abc"[i] for i in ids))
    >>> text.add(0), text.add(2), text.rest("a c.")
    ('a', ' c', '.')
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Of ids that `decode` turns into text."""
        self._decode, self._ids, self._given = decode, list[int](), ""

    def add(self, token: int) -> str:
        """The text that one more token makes certain; may be empty."""
        self._ids.append(token)
        return self.rest(self._decode(self._ids).rstrip(_UNFINISHED))

    def rest(self, text: str) -> str:
        """What the text has beyond what was given out; empty if it goes on otherwise, until it does not."""
        if not text.startswith(self._given):
            return ""
        new, self._given = text[len(self._given) :], text
        return new
