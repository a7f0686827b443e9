"""The summary of one file's outcomes: plain numbers, each a mean with its interval. Knows no model and no file.

There are two groups: `all` questions, and the `answerable` ones. `downstream`, `kilt` and `retrieval` are what
`memstore score` gives for the predictions. `orders` scores the same passages as retrieved, as reranked, and the
difference (`gain`): `answers` over the group's questions, `pages` over those whose file names the pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memstore.evaluate.outcome import ORDERS, Order, Outcome, first_title
from memstore.evaluate.score import DOWNSTREAM, QuestionScores, page_notes, score_questions
from memstore.questions.files import PageKey

RANKS = (1, 5, 10, 20)
Mask = NDArray[np.bool_]


def summarise(outcomes: Sequence[Outcome], *, page_key: PageKey, majority: str, retrieve_k: int) -> dict[str, Any]:
    """Shares and scores of the answers, the floors to compare them with, and both orders of the passages.

    Args:
        outcomes: of at least one question.
        page_key: the key by which pages are compared.
        majority: the answer that the first floor gives to every question.
        retrieve_k: how many passages were retrieved. Higher ranks are not scored.
    """
    answerable = np.array([outcome.answerable for outcome in outcomes], dtype=np.bool_)
    tables = _Tables(outcomes, page_key, majority, [k for k in RANKS if k <= retrieve_k])
    share = replace(tables.scores, metrics=("answerable",), values=answerable[:, None].astype(np.float64))
    return {
        "questions": len(outcomes),
        "questions_with_evidence": int(tables.scores.with_evidence.sum()),
        "answerable": means(share)["answerable"],
        "groups": {
            "all": tables.group(np.ones(len(outcomes), dtype=np.bool_)),
            "answerable": tables.group(answerable),
        },
        "notes": list(page_notes(tables.gold, tables.given, key=page_key)),
    }


class _Tables:
    """All scores of all questions, before averaging."""

    def __init__(self, outcomes: Sequence[Outcome], key: PageKey, majority: str, ranks: Sequence[int]) -> None:
        self.gold = gold = [outcome.question for outcome in outcomes]

        def given(answer: Callable[[Outcome], str | None], order: Order = "reranked") -> list[Any]:
            return [outcome.prediction(key, order=order, answer=answer(outcome)) for outcome in outcomes]

        self.given = given(lambda _: None)
        self.scores = score_questions(gold, self.given)
        floors = {
            "majority_answer": score_questions(gold, given(lambda _: majority)),
            "first_title": score_questions(gold, given(first_title)),
        }
        self.floors = {name: _columns(table, lambda metric: metric in DOWNSTREAM) for name, table in floors.items()}
        paged = {order: score_questions(gold, given(lambda _: "", order), ks=ranks) for order in ORDERS}
        self.pages = _with_gain({order: _columns(table, _is_retrieval) for order, table in paged.items()})
        self.answers = _with_gain({order: _answers_found(outcomes, self.scores, order, ranks) for order in ORDERS})

    def group(self, chosen: Mask) -> dict[str, Any]:
        """Plain values of the chosen questions. A table without any of them is empty."""
        scores = self.scores.select(chosen)
        found = means(scores)
        paged = self.scores.with_evidence & chosen
        proven = bool(paged.any())
        return {
            "questions": len(scores.ids),
            "questions_with_evidence": int(paged.sum()),
            "downstream": {name: value for name, value in found.items() if name in DOWNSTREAM},
            "kilt": {name: value for name, value in found.items() if name.startswith("KILT-") and proven},
            "retrieval": {name: value for name, value in found.items() if _is_retrieval(name) and proven},
            "floors": {name: means(table.select(chosen)) for name, table in self.floors.items()},
            "orders": {
                order: {
                    "answers": means(self.answers[order].select(chosen)),
                    "pages": means(self.pages[order].select(paged)),
                }
                for order in self.answers
            },
        }


def means(scores: QuestionScores) -> dict[str, Any]:
    """Each metric's mean and interval as plain values, by name; empty without questions."""
    return {name: asdict(estimate) for name, estimate in scores.means().items()}


def _answers_found(
    outcomes: Sequence[Outcome], like: QuestionScores, order: Order, ranks: Sequence[int]
) -> QuestionScores:
    """Recall (whether the first k passages hold an answer) and MRR (1 / the place of the first that holds one)."""
    places = [outcome.rank(order) for outcome in outcomes]
    values = [[*(float(p is not None and p <= k) for k in ranks), 1 / p if p else 0.0] for p in places]
    return replace(like, metrics=(*(f"recall@{k}" for k in ranks), "mrr"), values=np.array(values, dtype=np.float64))


def _with_gain(tables: Mapping[Order, QuestionScores]) -> dict[str, QuestionScores]:
    before, after = tables["retrieved"], tables["reranked"]
    gain = replace(after, values=after.values - before.values)
    return {"retrieved": before, "reranked": after, "gain": gain}


def _columns(scores: QuestionScores, wanted: Callable[[str], bool]) -> QuestionScores:
    chosen = [i for i, name in enumerate(scores.metrics) if wanted(name)]
    return replace(scores, metrics=tuple(scores.metrics[i] for i in chosen), values=scores.values[:, chosen])


def _is_retrieval(metric: str) -> bool:
    return metric not in DOWNSTREAM and not metric.startswith("KILT-")
