"""Stores to change, and what they must hold then: a plain model of the documents, and a build at once from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore import checkpoint
from memstore.errors import RequestError
from memstore.metadata import Metadata, canonical
from memstore.model.embedding import MemoryTextEncoder
from memstore.passage import Document, Passage
from memstore.retrieve import Retriever
from memstore.retrieve.filters import Filter
from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore_builders.add import AddOptions, add
from memstore_builders.build import build
from memstore_builders.change import ChangeReport
from memstore_builders.job import BuildOptions
from memstore_builders.split import split_document
from tests import tiny
from tests.retrieve.retrieve_cases import passes

MAX_WORDS = 6
SEGMENT_PASSAGES = 8
QUESTIONS = [f"{a} {b}" for a in tiny.WORDS[3:18:3] for b in ("river", "Paris", "17", "the")]

FILTERS: list[dict[str, Any]] = [
    {"n": 1},
    {"n": {"gte": 2}},
    {"n": {"exists": False}},
    {"tags": "a"},
    {"tags": {"not": "a"}, "n": {"lt": 3}},
]

Said = tuple[str, str] | tuple[str, str, Metadata]
Documents = dict[str, Said]
"""Title, text, and perhaps metadata by id, in the order in which they were put."""


def write_corpus(path: Path, documents: Mapping[str, Said]) -> Path:
    rows = [
        {"id": i, "title": title, "text": text, "url": f"u/{i}"} | ({"metadata": more[0]} if more else {})
        for i, (title, text, *more) in documents.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def put(documents: Documents, changed: Mapping[str, Said]) -> Documents:
    """What adding does: a document that says something else goes to the end."""
    after = dict(documents)
    for i, said in changed.items():
        if after.get(i) != said:
            after.pop(i, None)
            if said[1].strip():
                after[i] = said
    return after


def passages_of(documents: Documents) -> list[Passage]:
    """What a build keeps of them."""
    made, seen = [], set()
    for i, (title, text, *more) in documents.items():
        for passage in split_document(Document(i, title, text, f"u/{i}", *more), max_words=MAX_WORDS):
            key = (passage.title, passage.text, canonical(passage.metadata))
            if key not in seen:
                seen.add(key)
                made.append(passage)
    return made


class Bench:
    """A folder with a model and a store; `documents` is what it must hold."""

    def __init__(
        self, folder: Path, documents: Documents, *, retriever: str = "bm25", model: Path | None = None
    ) -> None:
        self.folder, self.retriever, self.documents = folder, retriever, documents
        folder.mkdir(parents=True, exist_ok=True)
        self.model = model or tiny.save_checkpoint(folder / "model", embedding_dim=8)
        self.path = self.build_at_once(documents, "store")
        self._corpora = 0

    def options(self, documents: Documents, name: str) -> BuildOptions:
        return BuildOptions(
            corpus=(write_corpus(self.folder / f"{name}.jsonl", documents),), out=self.folder / name,
            model=str(self.model), retriever=self.retriever, max_words=MAX_WORDS, dtype="float32",
            segment_passages=SEGMENT_PASSAGES,
        )  # type: ignore[arg-type]  # fmt: skip

    def build_at_once(self, documents: Documents, name: str) -> Path:
        return Path(build(self.options(documents, name)).out)

    def add(self, changed: Mapping[str, Said], **options: Any) -> ChangeReport:
        self._corpora += 1
        corpus = write_corpus(self.folder / f"add-{self._corpora}.jsonl", changed)
        report = add(AddOptions(store=self.path, corpus=(corpus,), **options))
        self.documents = put(self.documents, changed)
        return report

    def retriever_of(self, store: Store) -> Retriever:
        own = None
        if self.retriever != "bm25":
            model, tokenizer = checkpoint.load(str(self.model), dtype=torch.float32)
            own = MemoryTextEncoder(model, tokenizer)
        return open_retriever(store, memory_encoder=own)


def live_passages(store: Store) -> list[Passage]:
    dead = set(store.dead_rows().tolist())
    return [passage for row, passage in enumerate(store.iter_passages()) if row not in dead]


def require_holds(bench: Bench) -> None:
    """The store in force holds exactly its documents, and finds only them."""
    store = Store.open(bench.path)
    expected = passages_of(bench.documents)
    by_id = {p.id: p for p in expected}
    found = live_passages(store)
    assert {p.id: p for p in found} == by_id
    assert store.live == len(found) == len(expected)
    if expected:
        memories = store.load(list(by_id), dtype=torch.float32)
        assert memories.lengths.min() > 0
    retriever = bench.retriever_of(store)
    require_filters(store, retriever, expected)
    hits = retriever.search(QUESTIONS, len(store) + 1)
    for of_question in hits:
        assert len({hit.passage_id for hit in of_question}) == len(of_question)
        assert {hit.passage_id for hit in of_question} <= by_id.keys()
        if bench.retriever != "bm25":
            assert len(of_question) == len(expected)
    store.close()


def require_filters(store: Store, retriever: Retriever, expected: Sequence[Passage]) -> None:
    """The store knows the fields of its passages, and filtered searches find what passes: all of it where every passage
    is found.
    """
    fields = store.generation.metadata
    assert {name for p in expected for name in p.metadata} <= fields.keys()
    for where in FILTERS:
        if not where.keys() <= fields.keys():
            with pytest.raises(RequestError, match=r"no metadata field '.*' to filter by"):
                retriever.search(QUESTIONS[:1], 1, [Filter.of(where)])
            continue
        passing = {p.id for p in expected if passes(p.metadata, where)}
        for found in retriever.search(QUESTIONS[:3], len(store) + 1, [Filter.of(where)] * 3):
            ids = {hit.passage_id for hit in found}
            assert ids <= passing if retriever.kind == "bm25" else ids == passing


def require_same_as_built(bench: Bench, name: str) -> None:
    """The store in force equals one built at once from the same documents."""
    require_same(bench, bench.path, bench.build_at_once(bench.documents, name))


def require_same(bench: Bench, path: Path, other: Path) -> None:
    mine, theirs = Store.open(path), Store.open(other)
    assert list(mine.iter_passages()) == list(theirs.iter_passages())
    assert mine.generation.metadata == theirs.generation.metadata
    ids = [p.id for p in theirs.iter_passages()]
    a, b = mine.load(ids, dtype=torch.float32), theirs.load(ids, dtype=torch.float32)
    assert torch.equal(a.token_ids, b.token_ids)
    assert torch.equal(a.lengths, b.lengths)
    torch.testing.assert_close(a.states, b.states, rtol=0.02, atol=0.05)  # of another batch, through int8
    if bench.retriever != "bm25":
        vectors = [np.concatenate(list(store.iter_embeddings())) for store in (mine, theirs)]
        np.testing.assert_allclose(*vectors, rtol=1e-3, atol=1e-4)
    found = [bench.retriever_of(store).search(QUESTIONS, 20) for store in (mine, theirs)]
    for x, y in zip(*found, strict=True):
        if bench.retriever == "bm25":
            assert [(h.passage_id, h.score) for h in x] == [(h.passage_id, h.score) for h in y]
        else:
            np.testing.assert_allclose([h.score for h in x], [h.score for h in y], atol=1e-3)
    mine.close()
    theirs.close()


def texts(count: int, *, seed: int = 0, prefix: str = "d") -> Documents:
    """Documents of one or two sentences, a title for every two, so that passages repeat now and then."""
    made = tiny.passages(2 * count, seed=seed)
    pairs: Iterable[tuple[Passage, Passage]] = zip(made[:count], made[count:], strict=True)
    return {f"{prefix}{i}": (a.title, f"{a.text}. {b.text}.") for i, (a, b) in enumerate(pairs)}


__all__ = ["Bench", "Documents", "live_passages", "passages_of", "put", "replace", "texts", "write_corpus"]
