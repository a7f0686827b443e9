"""A store under a sequence of changes, and a model of it in plain dictionaries: after each step both say the same.

The operations are methods with plain arguments. `test_random_changes.py` chooses them.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from memstore import checkpoint
from memstore.answer import Answerer, Question
from memstore.metadata import Metadata
from memstore.model.embedding import MemoryTextEncoder
from memstore.passage import Passage
from memstore.retrieve import Retriever
from memstore.retrieve.dense import DenseRetriever
from memstore.retrieve.lexical import Bm25Retriever
from memstore.retrieve.open import DENSE, LEXICAL, hits_of, open_retriever
from memstore.store import Store, index_path, read_generation
from memstore.store.check import check_generation
from memstore.store.check_kept import check_kept, find_present
from memstore.store.history import forget, numbers, rollback, unneeded
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_builders.encode import PassageEncoder
from tests.builders.changing import (
    Bench,
    Documents,
    Said,
    live_passages,
    passages_of,
    put,
    require_filters,
    require_same,
    write_corpus,
)
from tests.builders.dying import Dying

STOP_WORDS = ("the", "of")
SENTENCES = ("the river.", "of a lake.", "a city of Paris.", "the of.", "Nile.", "the capital river.")
TITLES = ("Nile", "Rhine")
METADATA: tuple[Metadata, ...] = ({}, {}, {"n": 1}, {"n": 3, "tags": ["a"]}, {"tags": ["b", "a"]}, {"tags": []})
ASKED = ("river", "the", "of the lake", "Paris capital", "the Nile", "the Everest", "who was born")
"""Questions: content words and stop words, words of titles, and words that no passage has."""
OPERATIONS = {"add": 290, "delete": 110, "compact": 400, "rollback": 8, "forget": 100}
"""About how many operations on files each kind of change has."""
FILES = {"CURRENT", ".lock", "generations", "segments", "index", "lookups", "deletions", "codecs"}


def words(text: str) -> set[str]:
    return set(text.lower().replace(".", " ").split())


def matching(question: str, passages: Sequence[Passage]) -> set[str]:
    """What BM25 finds of passages: those that hold a content word, or any word where none holds a content word."""
    said = {p.id: words(f"{p.title} {p.text}") for p in passages}
    asked = words(question)
    for wanted in (asked - set(STOP_WORDS) - {"a", "was"}, asked):
        if found := {i for i, held in said.items() if held & wanted}:
            return found
    return set()


class Changes:
    """A hybrid store in a folder, and what it must hold. A step is an operation, and then `holds`."""

    def __init__(self, bench: Bench, dying: Dying, *, compare_every: int = 1) -> None:
        self.bench, self.dying, self.compare_every = bench, dying, compare_every
        self.number = self.last = 1
        self.past: dict[int, Documents] = {1: dict(bench.documents)}
        self.steps = self._files = 0
        self._built: tuple[Documents, Path] | None = None
        self.model, self.tokenizer = checkpoint.load(str(bench.model), dtype=torch.float32)
        self._open()

    # --- operations: each changes the store, and the dictionaries as it should -----------------------------------

    def add(self, changed: Mapping[str, Said]) -> None:
        before = self.bench.documents
        report = self.bench.add(changed)
        said = {i: pair for i, pair in changed.items() if pair[1]}
        assert report.added == len(said.keys() - before.keys())
        assert report.unchanged == len([i for i, pair in said.items() if before.get(i) == pair])
        assert report.replaced == len([i for i, pair in changed.items() if i in before and before[i] != pair])
        self._change_made(new=bool(report.added or report.replaced))

    def delete(self, ids: Sequence[str]) -> None:
        before = self.bench.documents
        report = delete(self.bench.path, ids)
        self.bench.documents = {i: said for i, said in before.items() if i not in ids}
        assert report.deleted == len(before) - len(self.bench.documents)
        assert report.not_found == len(set(ids) - before.keys())
        self._change_made(new=bool(report.deleted))

    def compact(self) -> None:
        report = compact(self.bench.path)
        self._change_made(new=not report.already_compact)
        self._forgotten(keep=1)
        assert set(report.in_use) == self.past.keys() - {self.number}
        if self.bench.documents:
            require_same(self.bench, self.bench.path, self._at_once())

    def rollback(self, choice: int) -> None:
        to = sorted(self.past)[choice % len(self.past)]
        assert rollback(self.bench.path, to=to).number == to
        self.number, self.bench.documents = to, dict(self.past[to])

    def forget(self, keep: int) -> None:
        found = forget(self.bench.path, keep=keep)
        self._forgotten(keep=keep)
        assert set(found.kept) == self.past.keys()

    def restart(self) -> None:
        """Open the store anew; until now a reader was open, as a server's is."""
        self.reader.close()
        self._open()
        assert list(check_kept(self.bench.path)) == []

    def crash(self, kind: str, percent: int, changed: Mapping[str, Said], choice: int) -> bool:
        """A change that may die: the former state is in force, or the new one where CURRENT names it. If it died."""
        before = 1 + percent * OPERATIONS[kind] // 100
        documents, number = self.bench.documents, self.number
        gone, keep, to = list(changed), 1 + choice % 3, sorted(self.past)[choice % len(self.past)]
        after = documents
        if kind == "add":
            self._files += 1
            corpus = write_corpus(self.bench.folder / f"crash-{self._files}.jsonl", changed)
            after = put(documents, changed)
            died = self.dying.change(kind, self.bench.path, before=before, corpus=str(corpus))
        elif kind == "delete":
            after = {i: said for i, said in documents.items() if i not in gone}
            died = self.dying.change(kind, self.bench.path, before=before, ids=gone)
        elif kind == "rollback":
            after = dict(self.past[to])
            died = self.dying.change(kind, self.bench.path, before=before, to=to)
        else:
            died = self.dying.change(kind, self.bench.path, before=before, keep=keep)
        in_force = read_generation(self.bench.path).number
        if in_force != number:
            assert in_force == (to if kind == "rollback" else self.last + 1)
            self.bench.documents = after
            self._change_made(new=kind != "rollback")
            self.number = in_force
        elif not died and kind in ("add", "delete"):
            assert after == documents
        if kind in ("compact", "forget"):
            self._some_forgotten(1 if kind == "compact" else keep, all_of_them=not died)
        return died

    # --- the model of generations -------------------------------------------------------------------------------

    def _open(self) -> None:
        self.reader = Store.open(self.bench.path)
        self.read = dict(self.bench.documents)
        self.reads = self._retriever(self.reader)

    def _change_made(self, *, new: bool) -> None:
        if new:
            self.last += 1
            self.number = self.last
        self.past[self.number] = dict(self.bench.documents)

    def _staying(self, keep: int) -> set[int]:
        """Generations that `forget` leaves: the one in force, the latest others, and what a reader holds."""
        others = [n for n in sorted(self.past) if n != self.number]
        return {self.number, self.reader.generation.number, *(others[len(others) - keep + 1 :] if keep > 1 else ())}

    def _forgotten(self, *, keep: int) -> None:
        staying = self._staying(keep)
        self.past = {n: documents for n, documents in self.past.items() if n in staying}
        path = self.bench.path
        assert unneeded(path, [read_generation(path, n) for n in numbers(path)]) == []
        assert {p.name for p in path.iterdir()} <= FILES
        if self.past.keys() == {self.number} and not read_generation(path).dead:
            assert list(find_present(path, [f"d{i}" for i in range(99) if f"d{i}" not in self.bench.documents])) == []

    def _some_forgotten(self, keep: int, *, all_of_them: bool) -> None:
        """A process that died while it removed generations removed none that had to stay."""
        found = set(numbers(self.bench.path))
        assert found <= self.past.keys()
        assert found >= self._staying(keep) & self.past.keys()
        if all_of_them:
            assert found == self._staying(keep)
        self.past = {n: documents for n, documents in self.past.items() if n in found}

    # --- what is compared after each step -------------------------------------------------------------------------

    def holds(self) -> None:
        """Files, generations, passages, searches, memories and answers are what they must be."""
        path = self.bench.path
        assert list(check_generation(path)) == []
        assert numbers(path) == sorted(self.past)
        expected = passages_of(self.bench.documents)
        with_store = Store.open(path)
        assert with_store.generation.number == self.number
        self._require_found(with_store, self._retriever(with_store), expected)
        require_filters(with_store, self._retriever(with_store), expected)
        self._require_searches(with_store, expected)
        self._require_memories(with_store, expected)
        with_store.close()
        self._require_found(self.reader, self.reads, passages_of(self.read))
        if expected and self.steps % self.compare_every == 0:
            self._require_same_answers(len(expected))
        self.steps += 1

    def _retriever(self, store: Store) -> Retriever:
        return open_retriever(store, memory_encoder=MemoryTextEncoder(self.model, self.tokenizer))

    def _require_found(self, store: Store, retriever: Retriever, expected: Sequence[Passage]) -> None:
        """Exactly these passages are there, and are found by a question for more than there are."""
        found = live_passages(store)
        assert store.live == len(found) == len(expected)
        by_id = {p.id: p for p in expected}
        assert {p.id: p for p in found} == by_id
        assert {p.id: p for p in store.passages(list(by_id))} == by_id
        for hits in retriever.search(ASKED[:2], len(expected) + 1):
            assert sorted(h.passage_id for h in hits) == sorted(by_id)

    def _require_searches(self, store: Store, expected: Sequence[Passage]) -> None:
        folder = index_path(store.path, store.generation.number)
        bm25 = Bm25Retriever(folder / LEXICAL, hits_of(store))
        for question, hits in zip(ASKED, bm25.search(ASKED, len(expected) + 1), strict=True):
            assert sorted(h.passage_id for h in hits) == sorted(matching(question, expected)), question
            best = bm25.search([question], 2)[0]
            assert [h.passage_id for h in best] == [h.passage_id for h in hits[:2]]
        encoder = MemoryTextEncoder(self.model, self.tokenizer)
        dense = DenseRetriever(folder / DENSE, encoder, hits_of(store), dead=store.dead_rows())
        for hits in dense.search(ASKED, len(expected) + 1):
            assert sorted(h.passage_id for h in hits) == sorted(p.id for p in expected)

    def _require_memories(self, store: Store, expected: Sequence[Passage]) -> None:
        """Some memories, others each time, are those that the model makes of the passages now."""
        some = [expected[(7 * self.steps + 3 * i) % len(expected)] for i in range(min(3, len(expected)))]
        if not some:
            return
        stored = store.load([p.id for p in some], dtype=torch.float32)
        made = PassageEncoder(self.model, self.tokenizer).encode(some)
        assert stored.token_ids.tolist() == list(itertools.chain(*(ids.tolist() for ids in made.token_ids)))
        for states, new in zip(torch.split(stored.states, stored.lengths.tolist()), made.states, strict=True):
            assert (states - new).norm() < 0.02 * new.norm()  # int8

    def _at_once(self) -> Path:
        """A store built from the documents that there must be."""
        if self._built is None or list(self._built[0].items()) != list(self.bench.documents.items()):
            if self._built is not None:
                shutil.rmtree(self._built[1])
            self._files += 1
            name = f"at-once-{self._files}"
            self._built = (dict(self.bench.documents), self.bench.build_at_once(self.bench.documents, name))
        return self._built[1]

    def _require_same_answers(self, count: int) -> None:
        """Answers that read everything, and the nearest passages, are those of a store built at once."""
        asked = [Question(text, retrieve_k=count, keep_k=count, max_new_tokens=3)
                 for text in (ASKED[self.steps % 7], ASKED[(self.steps + 3) % 7])]  # fmt: skip
        mine, theirs = Answerer.open(self.bench.path), Answerer.open(self._at_once())
        for a, b in zip(mine.answer(asked), theirs.answer(asked), strict=True):
            scores = [{p.passage.id: p.rerank_score for p in found.passages} for found in (a, b)]
            assert scores[0] == pytest.approx(scores[1], abs=0.05)
            assert (a.text, a.score) == (b.text, pytest.approx(b.score, abs=0.05))
        encoder = MemoryTextEncoder(self.model, self.tokenizer)
        best = []
        for store in (mine.store, theirs.store):
            folder = index_path(store.path, store.generation.number) / DENSE
            dense = DenseRetriever(folder, encoder, hits_of(store), dead=store.dead_rows())
            best.append([h.score for h in itertools.chain(*dense.search(ASKED, 3))])
            store.close()
        np.testing.assert_allclose(*best, atol=1e-3)
