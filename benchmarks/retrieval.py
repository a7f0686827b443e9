"""Retrieval: our BM25 (Tantivy) against bm25s over the same passages and questions.

The two split words differently (ours stems; bm25s has no stemmer of its own), so their results differ, and only times
are compared. A question is eight words in a row from a random passage.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s

from benchmarks.common import Options, Report, Subject, ratio, take_turns
from benchmarks.inputs import QUESTION_WORDS, questions_of, read_passages
from memstore.machine import StageTimer
from memstore.passage import Passage
from memstore.retrieve import Hit
from memstore.retrieve.lexical import Bm25Retriever, build_bm25

PASSAGES, QUESTIONS, K = 60_000, 200, 40


def run(options: Options) -> Report:
    """Time building each index. Then time all questions, one at a time, in turns."""
    passages = read_passages(options, 300 if options.quick else PASSAGES)
    questions = questions_of(random.Random(0).sample(passages, 10 if options.quick else QUESTIONS))
    ids = [p.id for p in passages]
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        folder = Path(name) / "lexical"
        builds: dict[str, Subject] = {
            "bm25s": lambda _: _build_bm25s(passages),
            "memstore": lambda _: build_bm25(folder, passages),
        }
        built = take_turns(builds, rounds=1, warm_ups=0)
        ours, theirs = Bm25Retriever(folder, lambda found: [Hit(ids[r], s) for r, s in found]), _build_bm25s(passages)
        searches = {"bm25s": _search_bm25s(theirs, questions), "memstore": _search_ours(ours, questions)}
        times = take_turns(searches, rounds=2 if options.quick else 5)
    return Report(
        name="retrieval",
        claim="bm25s over our BM25 (Tantivy), the same passages and questions",
        settings={
            "passages": len(passages),
            "questions": len(questions),
            "question_words": QUESTION_WORDS,
            "k": K,
            "corpus": options.corpus.name if options.corpus else "generated",
        },
        ratios=[
            ratio(f"{len(questions)} questions, one at a time", times["bm25s"].of(), times["memstore"].of()),
            ratio("building the index", built["bm25s"].of(), built["memstore"].of()),
        ],
        times={name: t.summary() for name, t in times.items()}
        | {f"{name}, building": t.summary() for name, t in built.items()},
        figures={f"ms per question, {name}": t.median() / len(questions) for name, t in times.items()},
    )


def _build_bm25s(passages: Sequence[Passage]) -> Any:
    texts = [f"{p.title} {p.text}" for p in passages]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    return index


def _search_ours(retriever: Bm25Retriever, questions: Sequence[str]) -> Subject:
    def work(_: StageTimer) -> None:
        for question in questions:
            retriever.search([question], K)

    return work


def _search_bm25s(index: Any, questions: Sequence[str]) -> Subject:
    def work(_: StageTimer) -> None:
        for question in questions:
            index.retrieve(bm25s.tokenize([question], show_progress=False), k=K, show_progress=False)

    return work
