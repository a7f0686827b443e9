"""Scores of predictions as KILT's own evaluation computes them, with intervals. Knows texts and page names, no model.

The names are KILT's: `downstream` scores the answers, `retrieval` the pages. In `kilt` an answer counts only where its
R-precision is 1: the right answer for the right reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memstore.errors import ConfigError
from memstore.evaluate.bootstrap import CONFIDENCE, RESAMPLES, SEED, Estimate, estimates
from memstore.evaluate.pages import r_precision, rank_evidence
from memstore.questions.files import GoldQuestion, PageKey, Prediction, align, read_gold, read_predictions
from memstore.questions.metrics import accuracy, exact_match, f1, rouge_l

DOWNSTREAM = {"accuracy": accuracy, "em": exact_match, "f1": f1, "rougel": rouge_l}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionScores:
    """The values of all metrics for every question.

    Attributes:
        ids: of the questions.
        metrics: names of the columns.
        values: `(questions, metrics)`, each from 0 to 1.
        with_evidence: `(questions,)`, whether the gold file names pages. If not, KILT scores retrieval as 0.
    """

    ids: tuple[str, ...]
    metrics: tuple[str, ...]
    values: NDArray[np.float64]
    with_evidence: NDArray[np.bool_]

    def select(self, questions: NDArray[np.bool_]) -> QuestionScores:
        """The scores of the questions where the mask `(questions,)` is true."""
        ids = tuple(name for name, kept in zip(self.ids, questions, strict=True) if kept)
        return QuestionScores(
            ids=ids, metrics=self.metrics, values=self.values[questions], with_evidence=self.with_evidence[questions]
        )

    def means(self) -> dict[str, Estimate]:
        """Each metric's mean with its interval, by name; nothing without questions."""
        return dict(zip(self.metrics, estimates(self.values), strict=True)) if self.ids else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """Means over all questions, each from 0 to 1 with its bootstrap interval.

    Attributes:
        gold, predictions: the files.
        page_key: the key by which pages were compared.
        questions: how many.
        questions_with_evidence: how many of them name the pages that prove the answer. The others count as 0 in
            `kilt` and `retrieval`, as in KILT.
        kilt, downstream, retrieval: estimates by KILT's names of the metrics.
        notes: why all page scores are 0, if they are; see `page_notes`.
    """

    gold: Path
    predictions: Path
    page_key: PageKey
    questions: int
    questions_with_evidence: int
    kilt: dict[str, Estimate]
    downstream: dict[str, Estimate]
    retrieval: dict[str, Estimate]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, and how the intervals were made."""
        bootstrap = {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED}
        return asdict(self) | {"gold": str(self.gold), "predictions": str(self.predictions), "bootstrap": bootstrap}


def score_files(
    gold: Path, predictions: Path, *, ks: Sequence[int] = (1, 5), page_key: PageKey | None = None
) -> ScoreReport:
    """The scores of a file of predictions in KILT's format, against a file of questions.

    Args:
        gold: questions with their answers: JSON lines, plain or compressed by gzip or zstd.
        predictions: the same format, one answer to each question.
        ks: ranks at which to compute precision; for those above 1 also recall and success rate.
        page_key: the key that names a page; by default the one of the gold file (`read_gold`).

    Raises:
        DataNotFound, DataUnreadable, DataError: a file or a row of it cannot be used.
        PredictionMismatch: a question has no prediction, or a prediction no question.
        ConfigError: a `k` is below 1.
    """
    asked = read_gold(gold, page_key=page_key)
    proven = any(any(question.evidence) for question in asked.questions)
    read = read_predictions(predictions, page_key=asked.page_key, with_evidence=proven)
    given = align(asked, read, path=predictions)
    scores = score_questions(asked.questions, given, ks=ks)
    means = scores.means()
    return ScoreReport(
        gold=gold,
        predictions=predictions,
        page_key=asked.page_key,
        questions=len(scores.ids),
        questions_with_evidence=int(scores.with_evidence.sum()),
        kilt={name: mean for name, mean in means.items() if name.startswith("KILT-")},
        downstream={name: means[name] for name in DOWNSTREAM},
        retrieval={name: means[name] for name in _retrieval_names(_checked(ks))},
        notes=page_notes(asked.questions, given, key=asked.page_key),
    )


def page_notes(gold: Sequence[GoldQuestion], predictions: Sequence[Prediction], *, key: PageKey) -> tuple[str, ...]:
    """The reason why all pages are wrong, if they are: none is named, or the two files name them differently."""
    wanted = {page: question.line for question in reversed(gold) for pages in question.evidence for page in pages}
    if not wanted:
        return ()
    found = {page: guess.line for guess in reversed(predictions) for page in guess.pages}
    if not found:
        return ("no prediction names a page, so every score of pages is 0",)
    if wanted.keys() & found.keys():
        return ()
    return (
        f"no page of the predictions is one of the questions' pages, so every score of pages is 0: by `{key}` they are "
        f"{_first(found)} there, and {_first(wanted)} in the questions. Do both name pages in the same way?",
    )


def _first(pages: Mapping[str, int]) -> str:
    """The page of the first line that names one, and that line if there is a file."""
    line, page = min((line, page) for page, line in pages.items())
    return f"{page!r} (line {line})" if line else repr(page)


def score_questions(
    gold: Sequence[GoldQuestion], predictions: Sequence[Prediction], *, ks: Sequence[int] = (1, 5)
) -> QuestionScores:
    """The scores of predictions, which must be in the order of their questions, one for each.

    Raises:
        ConfigError: a `k` is below 1, or predictions and questions are not the same, in the same order.
    """
    if [question.id for question in gold] != [prediction.id for prediction in predictions]:
        raise ConfigError("predictions must be in the order of their questions, one for each; see `align`")
    ranks = _checked(ks)
    names = (*(f"KILT-{name}" for name in DOWNSTREAM), *DOWNSTREAM, *_retrieval_names(ranks))
    values = [_scores(question, guess, ranks) for question, guess in zip(gold, predictions, strict=True)]
    return QuestionScores(
        ids=tuple(question.id for question in gold),
        metrics=names,
        values=np.array(values, dtype=np.float64).reshape(len(gold), len(names)),
        with_evidence=np.array([any(question.evidence) for question in gold], dtype=np.bool_),
    )


def _scores(question: GoldQuestion, prediction: Prediction, ks: Sequence[int]) -> list[float]:
    """The values of one question, in the order of `names` in `score_questions`."""
    answer = [metric(prediction.answer, question.answers) for metric in DOWNSTREAM.values()]
    first = r_precision(prediction.pages, question.evidence)
    ranking = rank_evidence(prediction.pages, question.evidence)
    retrieval = [first]
    for k in ks:
        retrieval.append(ranking.precision(k))
        if k > 1:
            retrieval += [ranking.recall(k), ranking.success(k)]
    return [*(value * (first == 1) for value in answer), *answer, *retrieval]  # KILT-..., downstream, retrieval


def _retrieval_names(ks: Sequence[int]) -> list[str]:
    names = ["Rprec"]
    for k in ks:
        names.append(f"precision@{k}")
        if k > 1:
            names += [f"recall@{k}", f"success_rate@{k}"]
    return names


def _checked(ks: Sequence[int]) -> list[int]:
    wrong = [k for k in ks if k < 1]
    if wrong:
        raise ConfigError(f"ranks to score at must be at least 1, not {wrong[0]}")
    return sorted(set(ks))
