"""The outcome of a question: its answer, and the passages it comes from, in both orders. Knows no model and no file.

A question is *answerable* if one of the retrieved passages holds an accepted answer. `memstore.questions.answers`
decides that, as in training. A verdict such as SUPPORTS does not occur in passages: there the passage must be of a page
that proves it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from memstore.answer import Answer
from memstore.confidence.features import Features
from memstore.passage import Passage
from memstore.questions.answers import holds, normalise, same_title, searchable_answers
from memstore.questions.files import GoldQuestion, PageKey, Prediction
from memstore.questions.metrics import normalise_answer

Order = Literal["retrieved", "reranked"]
ORDERS: tuple[Order, ...] = ("retrieved", "reranked")
NO_ANSWER = "unanswered"
"""Written where the answer is empty or nothing but full stops, on which KILT's script fails. It scores 0 too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A retrieved passage.

    Attributes:
        document_id, title: of its page.
        rank: its place in retrieval, from 1.
        kept: whether it was read after reranking.
        holds: whether it holds an accepted answer.
        on_page: whether it is of a page that proves the answer.
    """

    document_id: str
    title: str
    rank: int
    kept: bool
    holds: bool
    on_page: bool

    def page(self, key: PageKey) -> str:
        """The page's name, as a file of predictions gives it."""
        return (self.document_id if key == "wikipedia_id" else self.title).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A question, the answer given, and the passages it comes from.

    Attributes:
        answer: as it is scored and written: `NO_ANSWER` where the model's was not sure enough.
        guess: what the model said, however sure, in the same form.
        score: sum of the answer tokens' log-probabilities.
        confidence: in the guess, from 0 to 1.
        calibrated: whether that is by a calibration.
        features: what it is from.
        reranked: the passages, best first after reranking; those that were read come first.
    """

    question: GoldQuestion
    answer: str
    score: float
    reranked: tuple[Seen, ...]
    guess: str = ""
    confidence: float = 0.0
    calibrated: bool = False
    features: Features = field(default_factory=dict)

    def order(self, order: Order) -> tuple[Seen, ...]:
        """The passages before or after reranking, best first."""
        return self.reranked if order == "reranked" else tuple(sorted(self.reranked, key=lambda seen: seen.rank))

    def rank(self, order: Order) -> int | None:
        """Place (from 1) of the first passage that holds an answer."""
        return next((place for place, seen in enumerate(self.order(order), start=1) if seen.holds), None)

    @property
    def answerable(self) -> bool:
        """Whether any passage holds an answer."""
        return any(seen.holds for seen in self.reranked)

    def prediction(self, key: PageKey, *, order: Order = "reranked", answer: str | None = None) -> Prediction:
        """The prediction that `kilt_line` writes; on request with the pages in the other order, or another answer."""
        pages = tuple(dict.fromkeys(seen.page(key) for seen in self.order(order)))
        return Prediction(id=self.question.id, answer=self.answer if answer is None else answer, pages=pages)

    def kilt_line(self) -> str:
        """A line for a file of predictions. It names each page once, best first, by KILT's id and by title."""
        pages = dict.fromkeys((seen.document_id, seen.title) for seen in self.reranked)
        provenance = [{"wikipedia_id": document, "title": title} for document, title in pages]
        output: dict[str, Any] = {"answer": self.answer, "provenance": provenance}
        return json.dumps({"id": self.question.id, "input": self.question.input, "output": [output]}) + "\n"


def outcome(question: GoldQuestion, answer: Answer, *, min_confidence: float = 0.0) -> Outcome:
    """The outcome of one question: each passage of the answer is checked against the accepted answers.

    An answer below `min_confidence` counts as none. The model is asked without it, so that it can be said how right its
    other answers would have been.
    """
    wanted = searchable_answers(question.answers)
    seen = []
    for ranked in answer.passages:
        passage = ranked.passage
        on_page = _proves(question, passage)
        found = holds(normalise(passage.text), wanted) if wanted else on_page
        seen.append(_seen(passage, ranked.retrieval_rank or 0, kept=ranked.kept, holds=found, on_page=on_page))
    guess = _scored(answer.text or "")
    return Outcome(
        question=question,
        answer=guess if answer.confidence >= min_confidence else NO_ANSWER,
        score=answer.score,
        reranked=tuple(seen),
        guess=guess,
        confidence=answer.confidence,
        calibrated=answer.calibrated,
        features=answer.features,
    )


def majority_answer(questions: Iterable[GoldQuestion]) -> str:
    """The most frequent accepted answer, in its most frequent spelling; of equals, the first.

    Answers are counted by normalised form, each at most once a question.
    """
    spellings: dict[str, Counter[str]] = {}
    forms: Counter[str] = Counter()
    for question in questions:
        accepted: dict[str, str] = {}
        for answer in question.answers:
            accepted.setdefault(normalise_answer(answer), answer)
        for form, spelling in accepted.items():
            forms[form] += 1
            spellings.setdefault(form, Counter())[spelling] += 1
    [(form, _)] = forms.most_common(1)
    return spellings[form].most_common(1)[0][0]


def first_title(outcome: Outcome) -> str:
    """The title of the first passage retrieved; empty if there is none."""
    retrieved: Sequence[Seen] = outcome.order("retrieved")
    return retrieved[0].title if retrieved else ""


def _proves(question: GoldQuestion, passage: Passage) -> bool:
    """Whether a passage is of a page that proves the answer. Compares titles; page ids where no title is given."""
    if question.titles:
        return any(same_title(title, passage.title) for title in question.titles)
    return any(passage.document_id.strip() in pages for pages in question.evidence)


def _seen(passage: Passage, rank: int, *, kept: bool, holds: bool, on_page: bool) -> Seen:
    return Seen(
        document_id=passage.document_id, title=passage.title, rank=rank, kept=kept, holds=holds, on_page=on_page
    )


def _scored(text: str) -> str:
    text = text.strip()
    return text if text.strip(". ") else NO_ANSWER
