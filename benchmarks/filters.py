"""Filters: searches that only passages with some metadata pass, against the same searches without, and against indexes
of those passages alone.

Passages have made-up metadata, of which 0.1%, 1%, 10% and half pass a filter. Questions are about passages that pass
the filter of 0.1%: for BM25 eight words in a row of one; for vectors, which are made up, around centres, one near it.
Results are compared with those of an index of only the passages that pass: one that BM25 searches without a filter, and
for vectors every inner product, by numpy.

BM25 weighs words by the whole collection, with a filter too, so its order may differ from that of the small index; what
is found, and for vectors nearly the order too, must be the same. Times are the processor's: a search is the work of one
process, and other processes lengthen it by more than filters do.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.common import Options, Report, Subject, ratio, take_turns
from benchmarks.inputs import questions_of, read_passages
from memstore.errors import ConfigError
from memstore.machine import StageTimer
from memstore.passage import Passage
from memstore.retrieve import Retriever, numbered
from memstore.retrieve.dense import DenseRetriever, build_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.filters import Filter
from memstore.retrieve.lexical import Bm25Retriever, build_bm25

PASSAGES, LARGE, LEAST, QUESTIONS, K = 60_000, 350_000, 1000, 100, 40
SHARES = {"0.1%": 0.001, "1%": 0.01, "10%": 0.1, "50%": 0.5}
FEW = "0.1%"
DIM, CENTRES = 128, 1000
PROCESSOR = "processor"
AIM = 0.5  # a filter that 0.1% pass costs at most twice the search without it

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Given:
    """An encoder of questions that are numbers of vectors."""

    vectors: Vectors
    dim: int = DIM

    def encode_questions(self, texts: Sequence[str]) -> Vectors:
        """The vectors `(N, dim)` of the numbers."""
        return self.vectors[[int(text) for text in texts]]

    def ref(self) -> EncoderRef:
        """Stands for no model."""
        return EncoderRef(kind="memory")


def run(options: Options) -> Report:
    """Build both indexes and those of what passes. Then search with every filter and without, in turns."""
    count = options.passages or (2_000 if options.quick else LARGE if options.large else PASSAGES)
    if count < LEAST:
        raise ConfigError(f"--passages must be at least {LEAST:,}, so that one in a thousand is one, not {count:,}")
    questions = 5 if options.quick else QUESTIONS
    passages = _with_metadata(read_passages(options, count))
    few = [row for row, p in enumerate(passages) if p.metadata["share"] < SHARES[FEW]]  # type: ignore[operator]
    vectors = _vectors(len(passages))
    rng = random.Random(1)
    chosen = [rng.choice(few) for _ in range(questions)]
    texts = questions_of([passages[row] for row in chosen])
    near = vectors[chosen] + 0.3 * np.random.default_rng(1).standard_normal((questions, DIM)).astype(np.float32) / 11
    numbers = [str(i) for i in range(questions)]
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        folder = Path(name)
        bm25, alone = (_bm25(folder / n, p) for n, p in (("bm25", passages), ("few", [passages[r] for r in few])))
        build_dense(folder / "dense", [vectors], count=count, dim=DIM, encoder=EncoderRef(kind="memory"))
        dense = DenseRetriever(folder / "dense", _Given(near), numbered, passing=bm25.rows)
        subjects = {**_subjects("BM25", bm25, texts), **_subjects("dense", dense, numbers),
                    "BM25, only what passes": _search(alone, texts, None)}  # fmt: skip
        times = take_turns(subjects, rounds=2 if options.quick else 5)
        agreed = _agreement(bm25, alone, dense, texts, numbers, few, vectors[few] @ near.T)
    return Report(
        name="filters",
        claim="processor time of a search without a filter over that with one, by the share of passages that pass",
        settings={"passages": count, "questions": questions, "k": K, "pass the rarest": len(few),
                  "corpus": options.corpus.name if options.corpus else "generated", "vectors": f"made up, width {DIM}",
                  "dense index": dense.settings.kind},
        ratios=[ratio(f"{kind}, {share} pass", times[kind].of(PROCESSOR), times[f"{kind}, {share}"].of(PROCESSOR),
                      aim=AIM if share == FEW else None) for kind in ("BM25", "dense") for share in (*SHARES, "range")],
        times={name: t.summary() for name, t in times.items()},
        figures={f"ms per question, {name}": t.median(PROCESSOR) / questions for name, t in times.items()} | agreed,
    )  # fmt: skip


def _with_metadata(passages: Sequence[Passage]) -> list[Passage]:
    """The passages, each with a place in a random order, as a share of them, and the names of the groups it is in."""
    order = np.random.default_rng(0).permutation(len(passages)) / len(passages)
    made = []
    for passage, share in zip(passages, order.tolist(), strict=True):
        groups = [name for name, most in SHARES.items() if share < most]
        made.append(replace(passage, metadata={"groups": groups, "share": share, "lang": "en"}))
    return made


def _vectors(count: int) -> Vectors:
    """Unit vectors `(count, DIM)` around centres."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((CENTRES, DIM)).astype(np.float32)
    made = np.empty((count, DIM), dtype=np.float32)
    for first in range(0, count, 16_384):
        part = made[first : first + 16_384]
        noise = rng.standard_normal(part.shape).astype(np.float32)
        part[:] = centres[rng.integers(0, CENTRES, len(part))] + 0.5 * noise
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def _bm25(folder: Path, passages: Sequence[Passage]) -> Bm25Retriever:
    build_bm25(folder, passages)
    return Bm25Retriever(folder, numbered)


def _subjects(kind: str, retriever: Retriever, questions: Sequence[str]) -> dict[str, Subject]:
    filters = {share: {"groups": share} for share in SHARES} | {"range": {"share": {"lt": SHARES[FEW]}}}
    found = {f"{kind}, {name}": _search(retriever, questions, Filter.of(where)) for name, where in filters.items()}
    return {kind: _search(retriever, questions, None), **found}


def _search(retriever: Retriever, questions: Sequence[str], where: Filter | None) -> Subject:
    filters = None if where is None else [where]

    def work(stages: StageTimer) -> None:
        begin = time.process_time()
        for question in questions:
            retriever.search([question], K, filters)
        stages.milliseconds[PROCESSOR] = (time.process_time() - begin) * 1e3

    return work


def _agreement(
    bm25: Retriever,
    alone: Retriever,
    dense: Retriever,
    texts: Sequence[str],
    numbers: Sequence[str],
    few: Sequence[int],
    products: Vectors,
) -> dict[str, float]:
    """How much of what is found with the rarest filter an index of only those finds too: of all that both find,
    and of their first ten. `products` are `(few, questions)` inner products of vectors that nothing has rounded.
    """
    where = [Filter.of({"groups": FEW})]
    shares: dict[str, list[float]] = {name: [] for name in ("BM25, all", "BM25, first ten", "dense, first ten")}
    for place, (text, number) in enumerate(zip(texts, numbers, strict=True)):
        ours = [int(h.passage_id) for h in bm25.search([text], len(few), where)[0]]
        theirs = [few[int(h.passage_id)] for h in alone.search([text], len(few))[0]]
        nearest = [few[i] for i in np.argsort(-products[:, place], kind="stable")[:10]]
        found = [int(h.passage_id) for h in dense.search([number], 10, where)[0]]
        for name, a, b in (("BM25, all", ours, theirs), ("BM25, first ten", ours[:10], theirs[:10]),
                           ("dense, first ten", found, nearest)):  # fmt: skip
            shares[name].append(len({*a} & {*b}) / max(1, len({*a} | {*b})))
    return {f"share that an index of only those finds too, {name}": float(np.mean(of)) for name, of in shares.items()}
