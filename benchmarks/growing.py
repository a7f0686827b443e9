"""Growing: a store that is added to, deleted from and compacted, against one built at once from the same documents.

A store of all documents but the last `ADDED` is built. Those are added, `DELETED` random ones are deleted, and the
store is compacted; then one is built at once from the documents that are left. Each step has its time, the bytes that
it wrote, and what the store takes afterwards (a file with several names counts once). In the end both stores must hold
the same passages and memories, find the same, and answer the same.

The documents are those of `--corpus`, at most `--limit` of them, or made of the bundled sample's sentences. Of fewer
than `WHOLE` documents, as many in proportion are added and deleted. The disk needs room for three stores (TMPDIR).

Stores are compared here, not models: a very small random one writes the memories, unless `--model` names another. It
has vectors, so that both indexes change; a model without them gets BM25's alone.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.common import TOTAL, Options, Report, ratio, summary
from benchmarks.growth import small_model
from benchmarks.inputs import corpus_file, questions_of
from memstore import checkpoint
from memstore.answer import Answerer, Question
from memstore.errors import ConfigError
from memstore.passage import Document
from memstore.retrieve import Retriever
from memstore.store import Store
from memstore_builders.add import AddOptions, add
from memstore_builders.build import BuildReport, build
from memstore_builders.change import ChangeReport, delete
from memstore_builders.compact import CompactReport, compact
from memstore_builders.corpus import detect_format
from memstore_builders.formats import FORMATS
from memstore_builders.job import BuildOptions, RetrieverKind
from memstore_builders.streams import RowError, numbered_lines

WHOLE, ADDED, DELETED = 171_896, 896, 5000  # documents of Simple English Wikipedia; of them added, and deleted
MADE_UP, QUICK = 20_000, 80  # documents without a corpus
SEARCHES, K = 500, 40
ANSWERS, NEW_TOKENS, BATCH = 200, 16, 8
DIM = 32  # width of the small model's vectors
_COMPARED = 2048  # memories compared at a time


@dataclass(frozen=True, slots=True)
class Parts:
    """Files of documents: those of the first build, those added, and those left in the end; and ids deleted."""

    first: Path
    added: Path
    left: Path
    deleted: list[str]
    documents: int
    added_documents: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a step took: seconds, also by its own stages, bytes of new files, and bytes of all files afterwards."""

    name: str
    seconds: float
    stages: Mapping[str, float]
    written: int
    on_disk: int


def run(options: Options) -> Report:
    """Change a store step by step, build the other one, and compare them."""
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        folder = Path(name)
        model = options.model or str(small_model(folder / "model", embedding_dim=DIM))
        retriever: RetrieverKind = (
            "hybrid" if checkpoint.read_config(checkpoint.resolve(model)).embedding_dim else "bm25"
        )
        corpus = corpus_file(options, folder, documents=QUICK if options.quick else options.limit or MADE_UP)
        parts = split_corpus(corpus, folder, limit=options.limit)
        store, other = folder / "store", folder / "at-once"

        def built(source: Path, out: Path) -> BuildReport:
            return build(BuildOptions(corpus=(source,), out=out, model=model, retriever=retriever))

        steps = [
            _step("build the first", store, lambda: built(parts.first, store)),
            _step("add", store, lambda: add(AddOptions(store=store, corpus=(parts.added,)))),
            _step("add again, unchanged", store, lambda: add(AddOptions(store=store, corpus=(parts.added,)))),
            _step("delete", store, lambda: delete(store, parts.deleted)),
            _step("compact", store, lambda: compact(store)),
            _step("build at once", other, lambda: built(parts.left, other)),
        ]
        searches, answers = (20, 3) if options.quick else (SEARCHES, ANSWERS)
        figures = compared(store, other, searches=searches, answers=answers)
    at_once = [steps[-1].seconds * 1e3]
    return Report(
        name="growing",
        claim="building a store again over changing it",
        settings={
            "documents": parts.documents,
            "added": parts.added_documents,
            "deleted": len(parts.deleted),
            "retriever": retriever,
            "model": options.model or "very small, random",
            "corpus": corpus.name,
        },
        ratios=[ratio(s.name, at_once, [s.seconds * 1e3]) for s in steps[1:-1]],
        times={s.name: {TOTAL: summary([s.seconds * 1e3])} for s in steps},
        figures=figures
        | {f"{s.name}, s": ", ".join(f"{name} {spent:.2f}" for name, spent in s.stages.items()) for s in steps},
        rows=[
            {"step": s.name, "seconds": s.seconds, "written, MB": s.written / 1e6, "on disk, MB": s.on_disk / 1e6}
            for s in steps
        ],
    )


# --- documents ------------------------------------------------------------------------------------------------


def split_corpus(corpus: Path, folder: Path, *, limit: int | None) -> Parts:
    """The corpus cut into files of documents. Reads it twice; holds ids alone.

    Raises:
        ConfigError: it has too few documents, or rows that are none.
    """
    ids = [document.id for document in itertools.islice(documents_of(corpus), limit)]
    if len(ids) < 40:
        raise ConfigError(f"{corpus} has {len(ids)} documents to grow a store of: at least 40 are needed")
    share = min(1.0, len(ids) / WHOLE)
    last = len(ids) - max(2, round(ADDED * share))
    deleted = random.Random(0).sample(ids, max(2, round(DELETED * share)))
    gone = set(deleted)
    parts = Parts(
        *(folder / f"{name}.jsonl" for name in ("first", "added", "left")), deleted, len(ids), len(ids) - last
    )
    with parts.first.open("w") as first, parts.added.open("w") as added, parts.left.open("w") as left:
        for place, document in enumerate(itertools.islice(documents_of(corpus), limit)):
            line = json.dumps({key: value for key, value in asdict(document).items() if value}) + "\n"
            (first if place < last else added).write(line)
            if document.id not in gone:
                left.write(line)
    return parts


def documents_of(corpus: Path) -> Iterator[Document]:
    """The documents of a file that have text.

    Raises:
        ConfigError: a row cannot be read, or is a ready passage.
    """
    with closing(numbered_lines(corpus)) as lines:
        for number, row in FORMATS[detect_format(corpus)].read(lines):
            if isinstance(row, RowError) or not isinstance(row, Document):
                raise ConfigError(f"{corpus}, line {number}: {row if isinstance(row, RowError) else 'no document'}")
            if row.text.strip():
                yield row


# --- steps ----------------------------------------------------------------------------------------------------


def _step(name: str, store: Path, work: Callable[[], BuildReport | ChangeReport | CompactReport]) -> Step:
    before = _files(store)
    begin = time.perf_counter()
    report = work()
    seconds = time.perf_counter() - begin
    after = _files(store)
    print(f"{name}: {seconds:.1f} s", flush=True)
    written = sum(size for key, size in after.items() if key not in before)
    return Step(name, seconds, report.seconds, written, sum(after.values()))


def _files(folder: Path) -> dict[tuple[int, int], int]:
    """Bytes of each file below a folder, by what identifies it and when it was written."""
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return {(s.st_ino, s.st_mtime_ns): s.st_size for s in found}


# --- comparing ------------------------------------------------------------------------------------------------


def compared(mine: Path, theirs: Path, *, searches: int, answers: int) -> dict[str, float | int | str]:
    """How much of two stores is the same: passages in their order, memories, what searches find, and answers."""
    ours, at_once = Answerer.open(mine), Answerer.open(theirs)
    rows = random.Random(1).sample(range(len(at_once.store)), min(searches, len(at_once.store)))
    questions = questions_of([at_once.store.passage_at(row) for row in rows])
    return (
        _memories(ours.store, at_once.store)
        | _searched(ours.retriever, at_once.retriever, questions)
        | _answered(ours, at_once, questions[:answers])
    )


def _memories(ours: Store, at_once: Store) -> dict[str, float | int | str]:
    equal_passages, equal_tokens, values, equal_values, largest = 0, 0, 0, 0, 0.0
    pairs = zip(ours.iter_passages(), at_once.iter_passages(), strict=False)
    while some := list(itertools.islice(pairs, _COMPARED)):
        same = [a.id for a, b in some if a == b]
        equal_passages += len(same)
        a, b = (store.load(same, dtype=torch.float32) for store in (ours, at_once))
        if a.states.shape != b.states.shape:
            continue
        equal_tokens += int((a.token_ids == b.token_ids).sum())
        values += a.states.numel()
        equal_values += int((a.states == b.states).sum())
        largest = max(largest, float((a.states - b.states).norm() / b.states.norm().clamp_min(1e-12)))
    return {
        "passages": f"{len(ours)} and {len(at_once)}, {equal_passages} the same in the same place",
        "token ids that are the same": f"{equal_tokens} of {at_once.generation.tokens}",
        "memory values that are the same, %": 100 * equal_values / max(1, values),
        f"largest difference of {_COMPARED} memories (relative norm)": largest,
    }


def _searched(ours: Retriever, at_once: Retriever, questions: Sequence[str]) -> dict[str, float | int | str]:
    """Questions whose passages are the same, in the same order, and those whose scores are, too."""
    found = ([[(h.passage_id, h.score) for h in hits] for hits in retriever.search(questions, K)]
             for retriever in (ours, at_once))  # fmt: skip
    pairs = list(zip(*found, strict=True))
    same = [[i for i, _ in a] == [i for i, _ in b] for a, b in pairs]
    both = [len({i for i, _ in a} & {i for i, _ in b}) for a, b in pairs]
    return {
        "searches with the same passages": f"{sum(same)} of {len(questions)}",
        "searches with the same scores, too": f"{sum(a == b for a, b in pairs)} of {len(questions)}",
        "passages found by both, %": 100 * sum(both) / max(1, sum(len(b) for _, b in pairs)),
    }


def _answered(ours: Answerer, at_once: Answerer, questions: Sequence[str]) -> dict[str, float | int | str]:
    """Answers of the same words, and the largest difference of the scores of these."""
    asked = [Question(text, max_new_tokens=NEW_TOKENS) for text in questions]
    batches = [asked[first : first + BATCH] for first in range(0, len(asked), BATCH)]
    pairs = [pair for some in batches for pair in zip(ours.answer(some), at_once.answer(some), strict=True)]
    same = [abs(a.score - b.score) for a, b in pairs if a.text == b.text]
    return {
        "answers that are the same": f"{len(same)} of {len(pairs)}",
        "largest difference of their scores": max(same, default=0.0),
    }
