"""Makes the cache that training reads, from a store with its retriever, question files, and plain passages.

    1. question sets   each question's candidates, each marked if it holds an answer or is of the right page
    2. more passages   for pretraining: of the store, evenly spread, or of a corpus of ready passages
    3. sentences       salient spans of all passages; lexical neighbours of each, by a BM25 index over these passages
    4. files           written in a folder of their own, with checksums; then moved up, the manifest last

The only file of training that knows retrievers, and one of two that know stores: reading the cache needs neither.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memstore import checkpoint
from memstore.checkpoint.files import read_tokenizer
from memstore.checkpoint.loading import model_of
from memstore.errors import CandidatesMismatch
from memstore.model.embedding import MemoryTextEncoder
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore.questions.files import read_questions
from memstore.retrieve import Retriever
from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore.store.format import list_files
from memstore.train.data.cache import (
    MANIFEST,
    CacheFingerprint,
    Candidates,
    Manifest,
    SetReport,
    file_entry,
    read_manifest,
    task_of,
    write_gzip_lines,
)
from memstore.train.data.cache_folder import check_place, is_cache, new_cache
from memstore.train.data.candidate_filter import Rarity, Screen
from memstore.train.data.entity_types import Classes
from memstore.train.data.prepare_options import PrepareOptions, cache_fingerprint
from memstore.train.data.pretrain_table import TableBuilder
from memstore.train.data.question_sets import (
    CHUNK,
    Advance,
    PassageFiles,
    PassageTable,
    QuestionSetBuilder,
    chunks,
    gather_set,
    neighbours,
    spread,
    spread_passages,
    word_rarity,
)
from memstore.train.data.ragged import Ragged, id_type

RARITY_PASSAGES = 20_000  # passages of the store whose words are counted, for `Rarity`
Tick = Callable[[str, int, int], None]
"""Is called with progress: stage, done, total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """What is in the cache, and how long it took to make. `already`: it was there before."""

    out: str
    passages: int
    tokens: int
    bytes: int
    sets: Mapping[str, SetReport]
    pretraining: Mapping[str, Any]
    seconds: Mapping[str, float]
    already: bool = False


def model_tokenizer(path_or_id: str | Path) -> TextTokenizer:
    """A checkpoint's tokenizer with its templates and limits. Reads no weights.

    Raises:
        CheckpointNotFound, CheckpointError, ConfigError: see `memstore.checkpoint.loading.load`.
    """
    folder = checkpoint.resolve(path_or_id)
    config = checkpoint.read_config(folder)
    return TextTokenizer(read_tokenizer(folder), config)


def prepare(options: PrepareOptions, tokenizer: TextTokenizer, *, tick: Tick = lambda *_: None) -> PrepareReport:
    """Make a cache, unless `options.out` has one made from the same already.

    Args:
        options: what to prepare.
        tokenizer: of the model to train.
        tick: is called with progress.

    Raises:
        CandidatesMismatch: `options.out` holds a cache that was made from something else.
        ConfigError, OutputUnwritable: `options.out` holds other files, or may not be written to.
        CorpusError, CorpusNotFound, CorpusUnreadable: a question file or a corpus cannot be used.
        StoreNotFound, StoreCorrupt: the store is missing or damaged.
        CheckpointNotFound, CheckpointError, FingerprintMismatch: the encoder of a dense index cannot be found, or is
            not the one that made its vectors.
    """
    store = None if options.store is None else Store.open(options.store)
    fingerprint = cache_fingerprint(options, tokenizer, store)
    if is_cache(options.out):
        return _already(options.out, fingerprint)
    check_place(options.out)
    retriever = _retriever(store) if store is not None and options.tasks else None
    work = _Work(options, tokenizer, store, retriever, tick)
    with new_cache(options.out) as part:
        manifest = work.write(part, fingerprint)
    return _report(options.out, manifest, work.seconds)


def _retriever(store: Store) -> Retriever:
    """The store's retriever, with the model that built the store if its memory encoder made the vectors."""
    if store.generation.settings.get("encoder") != MemoryTextEncoder.name:
        return open_retriever(store)
    model, tokenizer = model_of(store)
    store.fingerprint.require(checkpoint.fingerprint(model, tokenizer))
    return open_retriever(store, memory_encoder=MemoryTextEncoder(model, tokenizer))


def _already(out: Path, wanted: CacheFingerprint) -> PrepareReport:
    manifest = read_manifest(out)
    if differences := manifest.fingerprint.differences(wanted):
        raise CandidatesMismatch(differences, where=out)
    Candidates.open(out)
    return dataclasses.replace(_report(out, manifest, {}), already=True)


def _report(out: Path, manifest: Manifest, seconds: Mapping[str, float]) -> PrepareReport:
    return PrepareReport(
        out=str(out),
        passages=manifest.passages,
        tokens=manifest.tokens,
        bytes=sum(size for size, _ in manifest.files.values()),
        sets=manifest.sets,
        pretraining=manifest.pretraining,
        seconds=dict(seconds),
    )


class _Work:
    """One run of `prepare`."""

    def __init__(
        self,
        options: PrepareOptions,
        tokenizer: TextTokenizer,
        store: Store | None,
        retriever: Retriever | None,
        tick: Tick,
    ) -> None:
        self.options, self.tokenizer, self.store, self.retriever = options, tokenizer, store, retriever
        self.table = PassageTable(tokenizer)
        self.seconds: dict[str, float] = {}
        self._tick = tick

    def write(self, folder: Path, fingerprint: CacheFingerprint) -> Manifest:
        """Write all files of the cache, the manifest last."""
        sets = {}
        for name, paths in self.options.tasks.items():
            built = self._set(name, paths)
            _write_set(folder / "sets" / name, built, name, self.tokenizer, self.options.max_answer_tokens)
            sets[name] = built.report()
        self._more_passages()
        pretraining = self._pretraining(folder / "pretrain") if self.options.pretrain else {}
        passages = Ragged.of(self.table.tokens, dtype=id_type(self.tokenizer.config.vocab_size))
        passages.save(folder, "passages")
        write_gzip_lines(folder / "names.jsonl.gz", self.table.names)
        files = {name: file_entry(folder / name) for name in list_files(folder)}
        manifest = Manifest(
            fingerprint=fingerprint,
            vocab_size=self.tokenizer.config.vocab_size,
            passages=len(passages),
            tokens=len(passages.values),
            sets=sets,
            pretraining=pretraining,
            files=files,
        )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return manifest

    def _set(self, name: str, paths: tuple[Path, ...]) -> QuestionSetBuilder:
        assert self.store is not None
        assert self.retriever is not None
        rows = [row for path in paths for row in read_questions(path)]
        o, training = self.options, name.rpartition(".")[2] == "train"
        keep_unanswerable = o.keep_unanswerable if training else 1.0
        with self._stage(name, len(rows)) as advance:
            return gather_set(
                rows,
                k=o.k,
                keep_unanswerable=0.0 if name in o.supported | o.asked else keep_unanswerable,
                retriever=self.retriever,
                store=self.store,
                table=self.table,
                advance=advance,
                screen=self._screen(name),
            )

    def _screen(self, name: str) -> Screen | None:
        """The rule by which candidates of a set are left out; None for a set that keeps all."""
        rule = self.options.screens().get(name)
        if rule is None:
            return None
        return Screen(**rule, rarity=self._rarity if rule["support"] else Rarity())

    @cached_property
    def _rarity(self) -> Rarity:
        assert self.store is not None
        return word_rarity(self.store, passages=RARITY_PASSAGES)

    def _more_passages(self) -> None:
        corpus = PassageFiles(self.options.corpus)
        store, wanted = self.store, self.options.pretrain_passages
        spaced = 0 if store is None else len(spread(len(store), wanted))
        with self._stage("passages", len(corpus) + spaced) as advance:
            for names in chunks(corpus.ids(), CHUNK):
                self.table.add(corpus, corpus.passages(names))
                advance(len(names))
            if store is not None:
                for numbers, passages in spread_passages(store, wanted):
                    self.table.add(store, passages)
                    advance(len(numbers))

    def _pretraining(self, folder: Path) -> dict[str, Any]:
        o = self.options
        classes = Classes(o.class_articles)
        builder = TableBuilder(
            self.tokenizer, most_spans=o.most_spans, most_tokens=o.max_sentence_tokens, classes=classes
        )
        chosen = set(spread(len(self.table), o.pretrain_most or len(self.table)))
        with self._stage("sentences", len(self.table)) as advance:
            for rows, passages in self.table.read():
                classes.learn(passages)
                taken = [i for i, row in enumerate(rows) if row in chosen]
                builder.add([rows[i] for i in taken], [passages[i] for i in taken])
                advance(len(rows))
        with self._stage("neighbours", len(builder.rows)) as advance:
            near = neighbours(self._passages(), builder.rows, builder.queries, count=o.neighbours, advance=advance)
        table = builder.build(near)
        table.save(folder)
        return {
            "passages": len(table),
            "sentences": len(table.spans),
            "spans": len(table.answers),
            "spans_with_class": int((np.diff(table.classes.offsets) > 0).sum()),
            "neighbours": round(float((near >= 0).sum() / max(1, len(near))), 2),
        }

    def _passages(self) -> Iterator[Passage]:
        return (passage for _, passages in self.table.read() for passage in passages)

    @contextmanager
    def _stage(self, stage: str, total: int) -> Iterator[Advance]:
        begin, done = time.perf_counter(), 0

        def advance(items: int) -> None:
            nonlocal done
            done += items
            self._tick(stage, done, total)

        yield advance
        self.seconds[stage] = round(time.perf_counter() - begin, 3)


def _write_set(folder: Path, built: QuestionSetBuilder, name: str, tokenizer: TextTokenizer, most: int) -> None:
    """Write the files of one question set; see `memstore.train.data.cache`."""
    folder.mkdir(parents=True)
    rows, dtype, c = built.kept, id_type(tokenizer.config.vocab_size), tokenizer.config
    template = c.tasks.get(task_of(name), c.question_template)
    Ragged.of(tokenizer.questions([r.input for r in rows], template), dtype=dtype).save(folder, "questions")
    answers = tokenizer.encode_answers([a for r in rows for a in r.answers], max_tokens=most)
    Ragged.of(answers, dtype=dtype).save(folder, "answers")
    np.save(folder / "answers_per_question.npy", np.array([len(r.answers) for r in rows], dtype=np.int32))
    none = np.zeros((0, built.k))
    np.save(folder / "candidates.npy", np.stack(built.candidates) if rows else none.astype(np.int32))
    np.save(folder / "marks.npy", np.stack(built.marks) if rows else none.astype(np.uint8))
    write_gzip_lines(folder / "texts.jsonl.gz", ([r.id, r.input, list(r.answers)] for r in rows))
