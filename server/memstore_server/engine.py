"""What the server needs of whatever answers. Refuses to know who calls it, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from memstore.answer import Answer, Listener, Question, RankedPassage
from memstore.passage import Passage
from memstore.retrieve import Filters
from memstore.retrieve.encoders import Vectors


class Engine(Protocol):
    """What the server needs of `memstore.answer.Answerer`. Called from one thread only, but `afford`, `reopened` and
    `close`.
    """

    def answer(self, questions: Sequence[Question], listeners: Sequence[Listener | None] = ()) -> Sequence[Answer]:
        """One answer per question, heard by its listener. Raises RequestError for options that are impossible."""
        ...

    def afford(self, question: Question) -> Question:
        """The question, with fewer passages where its `max_gflop` asks for it. Raises RequestError for none at all."""
        ...

    def retrieve(
        self, questions: Sequence[str], k: int, filters: Filters | None = None
    ) -> Sequence[Sequence[RankedPassage]]:
        """At most `k` passages per question, best first. Raises RequestError for filters that are impossible."""
        ...

    def rerank(self, question: str, passages: Sequence[Passage], *, task: str | None = None) -> Sequence[RankedPassage]:
        """The passages with their scores, best first. Raises RequestError for a model without a scorer."""
        ...

    def embed(self, texts: Sequence[str], *, as_questions: bool) -> Vectors:
        """`(N, dim)` float32 of unit length. Raises RequestError where there are no vectors."""
        ...

    def passage(self, passage_id: str) -> Passage:
        """Raises PassageNotFound."""
        ...

    def spread(self, most: int) -> list[Passage]:
        """At most so many passages from all over the collection, always the same ones."""
        ...

    def info(self) -> Mapping[str, object]:
        """What answers: `model` and `store`, each a mapping."""
        ...

    def reopened(self, *, try_with: str) -> Self | None:
        """One over the generation that is in force now, ready to answer; None if that is open here."""
        ...

    def close(self) -> None:
        """Lets go of the store; nothing is asked from then on."""
        ...
