"""What parts of a usual question's time are: the first guess of the server's cost model (`memstore_server.costs`).

    python -m benchmarks shares

Batches that differ in one thing each (questions, passages found, passages read, beams) are answered in turns, in this
process. Least squares then divide the time of the usual question into the batch itself, the question, scoring and
reading. On a quiet machine the last line is what `_SHARES` there should be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Options, Ratio, Report, Subject, Times, ratio, take_turns
from benchmarks.inputs import corpus_file, questions_of
from benchmarks.serving import built_store
from memstore.answer import Answerer, Question
from memstore.machine import StageTimer
from memstore_server.costs import Work, total, work_of

PASSAGES, ROUNDS, NEW_TOKENS = 2000, 9, 16
PARTS = ("the batch", "the question", "scoring", "reading")
USUAL = (1, 40, 10, 1)
BATCHES = (USUAL, (4, 40, 10, 1), (8, 40, 10, 1), (1, 10, 10, 1), (1, 40, 2, 1), (1, 40, 10, 4), (4, 10, 2, 1))
"""Questions, passages found, passages read, beams."""


def run(options: Options) -> Report:
    """Time the batches in turns, and fit."""
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        limit = 64 if options.quick else PASSAGES
        store = options.store or built_store(corpus_file(options, Path(name), limit), Path(name) / "s", limit=limit)
        answerer = Answerer.open(store)
        texts = questions_of(answerer.spread(max(size for size, *_ in BATCHES)))
        asked = {_name(batch): _questions(texts, batch) for batch in BATCHES}
        subjects = {name: _answering(answerer, questions) for name, questions in asked.items()}
        times = take_turns(subjects, rounds=2 if options.quick else ROUNDS)
    works = {name: total(map(work_of, questions)) for name, questions in asked.items()}
    parts = fitted(list(works.values()), [times[name].median() for name in works])
    spent = parts * _features(works[_name(USUAL)])
    shares = spent / spent.sum()
    return Report(
        name="shares",
        claim="time of a batch over what the fit says",
        settings={"passages": len(answerer.store), "new_tokens": NEW_TOKENS, "model": str(answerer.model.config.name)},
        ratios=[_off(name, times[name], float(parts @ _features(works[name]))) for name in works],
        times={name: t.summary() for name, t in times.items()},
        figures={f"share of {part}": float(share) for part, share in zip(PARTS, shares, strict=True)}
        | {"_SHARES": "(" + ", ".join(f"{share:.2f}" for share in shares) + ")"},
    )


def fitted(works: Sequence[Work], milliseconds: Sequence[float]) -> NDArray[np.float64]:
    """Milliseconds of a batch, a question, a thousand tokens scored and a thousand read, `(4,)`, none below 0.

    By least squares of relative errors, as the server's own fit. A part that would be below 0 counts as nothing.
    """
    features = np.array([_features(work) for work in works]) / np.array(milliseconds)[:, None]
    parts = np.zeros(len(PARTS))
    left = list(range(len(PARTS)))
    while left:
        found = np.linalg.lstsq(features[:, left], np.ones(len(works)), rcond=None)[0]
        if (found >= 0).all():
            parts[left] = found
            break
        left.pop(int(found.argmin()))
    return parts


def _features(work: Work) -> NDArray[np.float64]:
    return np.array([1.0, work.questions, work.scored / 1000, work.read / 1000])


def _name(batch: tuple[int, int, int, int]) -> str:
    questions, found, read, beams = batch
    return f"{questions} x {found} found, {read} read, beams {beams}"


def _questions(texts: Sequence[str], batch: tuple[int, int, int, int]) -> list[Question]:
    size, found, read, beams = batch
    return [
        Question(text, retrieve_k=found, keep_k=read, max_new_tokens=NEW_TOKENS, num_beams=beams)
        for text in texts[:size]
    ]


def _answering(answerer: Answerer, questions: Sequence[Question]) -> Subject:
    def work(_: StageTimer) -> None:
        answerer.answer(questions)

    return work


def _off(name: str, times: Times, predicted: float) -> Ratio:
    return ratio(name, times.of(), [predicted] * len(times.rounds))
