"""A fake engine small enough to read: answers at once, or when a gate opens, and notes what it was asked."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from memstore.answer import Answer, Citation, Listener, NobodyListens, Question, RankedPassage, Usage
from memstore.errors import ChecksumMismatch, PassageNotFound, RequestError
from memstore.passage import Passage
from memstore.retrieve import Filters
from memstore.retrieve.encoders import Vectors
from memstore.retrieve.filters import Filter
from memstore_server.admission import Admission
from memstore_server.costs import CostModel
from memstore_server.logs import request_id

PATIENCE = 10.0  # seconds until a test that would hang fails instead

OTTERS = Passage("7:0", "7", "Otter", "Otters hold hands.", "https://example.org/otter", 0, 18)
SLASH = Passage("a/b:1", "a/b", "Slash", "An id with a slash.", "", 20, 39, {"tags": ["a"], "year": 1, "new": True})


def admission(*, costs=None, queue_size=10, queue_seconds=math.inf, max_batch=8, max_batch_tokens=10**6) -> Admission:
    return Admission(
        costs or CostModel(), queue_size=queue_size, queue_seconds=queue_seconds, max_batch=max_batch,
        max_batch_tokens=max_batch_tokens,
    )  # fmt: skip


class FakeEngine:
    """A question's text says what happens: "impossible" and "broken" fail at once, "damaged" when passages are read,
    "halfway" in the middle of the text; others are answered, and heard word by word.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.ids: list[str] = []  # the request id in force during each batch
        self.questions: list[Question] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.scoring, self.pause = (
            threading.Event(),
            threading.Event(),
        )  # before passages are ranked; each piece of text
        self.scoring.set()
        self.pause.set()
        self.cut_short = threading.Semaphore(0)  # answers that nobody wanted more of
        self.left: list[list[str]] = []  # batches that nobody waited for when the gate opened
        self.trained = True
        self.filters: list[Filter | None] = []  # of what was retrieved
        self.stored: tuple[Passage, ...] = (OTTERS, SLASH)
        self.generation, self.newest = 4, 4
        self.closed = False

    def answer(self, questions: Sequence[Question], listeners: Sequence[Listener | None] = ()) -> list[Answer]:
        self.batches.append([q.text for q in questions])
        self.ids.append(request_id.get())
        self.questions += questions
        self.begun.release()
        assert self.gate.wait(PATIENCE), "nobody opened the gate"
        if listeners and not any(listener is None or listener.wanted() for listener in listeners):
            self.left.append([q.text for q in questions])
            raise NobodyListens("nobody waits for these answers any more")
        for text in [q.text for q in questions]:
            if text.startswith("impossible"):
                raise RequestError("the model knows no task 'juggling'")
            if text.startswith("broken"):
                raise RuntimeError("secret path /srv/model")
        answers = [self._answer(q, len(questions)) for q in questions]
        for answer, listener in zip(answers, listeners or [None] * len(questions), strict=True):
            self._let_hear(answer, listener)
        return answers

    def _let_hear(self, answer: Answer, listener: Listener | None) -> None:
        text = answer.text or ""
        if listener:
            found = [replace(one, rerank_score=None, kept=False) for one in answer.passages]
            listener.retrieved(found)
        if text.startswith("damaged"):
            raise ChecksumMismatch("secret path /srv/store")
        if listener:
            assert self.scoring.wait(PATIENCE), "nobody let it score"
            listener.ranked(answer.passages)
        for piece in re.findall(r"\s*\S+", text):
            assert self.pause.wait(PATIENCE), "nobody let it go on"
            if listener and not listener.wrote(piece):
                self.cut_short.release()
                break
            if text.startswith("halfway"):
                raise RuntimeError("secret path /srv/model")

    def _answer(self, question: Question, batch: int) -> Answer:
        passages = question.passages or self.stored
        ranked = tuple(
            RankedPassage(
                passage=p,
                retrieval_rank=at + 1,
                retrieval_score=2.5 - at,
                rerank_score=-0.5 - at,
                kept=at == 0,
                attention=0.75 if question.attention and at == 0 else None,
            )
            for at, p in enumerate(passages)
        )
        usage = Usage(
            milliseconds={"live_a": 1.5}, bytes_read=64, flops={"live_a": 10.0}, fid_flops=100.0,
            questions_in_batch=batch, retrieve_k=question.retrieve_k, keep_k=question.keep_k,
        )  # fmt: skip
        known, share = question.min_confidence <= 0.5, 0.75 if question.attention else None
        return Answer(
            text=question.text + "!" if known else None,
            score=-1.25,
            passages=ranked,
            usage=usage,
            confidence=0.5,
            calibrated=True,
            reason=None if known else "not sure enough",
            citations=tuple(Citation(passage_id=p.id, start=0, end=6, attention=share) for p in passages[:1] if known),
            lowered=question.lowered,
            cut=question.max_new_tokens == 1,
        )

    def afford(self, question: Question) -> Question:
        """A passage found costs a billion operations, and reading one costs nothing."""
        if question.max_gflop is None or question.retrieve_k <= question.max_gflop:
            return question
        if question.max_gflop < 1:
            raise RequestError("max_gflop must be at least 1 here")
        most = int(question.max_gflop)
        return question.lower(most, min(most, question.keep_k), reason="max_gflop")

    def retrieve(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[RankedPassage]]:
        self.filters += filters or ()
        found = [
            RankedPassage(passage=OTTERS, retrieval_rank=1, retrieval_score=2.5),
            RankedPassage(passage=SLASH, retrieval_rank=2, retrieval_score=1.5),
        ]
        return [found[:k] if any(map(str.isalnum, question)) else [] for question in questions]

    def rerank(self, question: str, passages: Sequence[Passage], *, task: str | None = None) -> list[RankedPassage]:
        return [RankedPassage(passage=p, rerank_score=float(-at)) for at, p in enumerate(reversed(passages))]

    def embed(self, texts: Sequence[str], *, as_questions: bool) -> Vectors:
        if texts[0] == "none":
            raise RequestError("there are no vectors here")
        return np.array([[float(as_questions), len(text)] for text in texts], dtype=np.float32)

    def passage(self, passage_id: str) -> Passage:
        for one in self.stored:
            if one.id == passage_id:
                return one
        raise PassageNotFound(passage_id)

    def spread(self, most: int) -> list[Passage]:
        return list(self.stored[:most])

    def info(self) -> dict[str, object]:
        return {
            "model": {
                "name": "fake", "trained": self.trained, "system": "glimmer", "alpha": 0.5, "beta": 0.25,
                "dtype": "float32", "parameters": 3, "tasks": ["nq"], "fingerprint": "f00d",
            },
            "store": {
                "path": "/srv/store", "generation": self.generation, "passages": 2, "codec": "int8",
                "retriever": "bm25",
            },
        }  # fmt: skip

    def reopened(self, *, try_with: str) -> FakeEngine | None:
        """One of generation `newest`, which notes in the same lists; a negative one is damaged."""
        if self.newest < 0:
            raise ChecksumMismatch("/srv/store/generations/000005.json is damaged")
        if self.newest == self.generation:
            return None
        other = copy(self)
        other.generation = self.newest
        return other

    def close(self) -> None:
        self.closed = True
