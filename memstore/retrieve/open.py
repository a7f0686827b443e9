"""Opens the retriever that a generation was built with: the one file here that knows stores.

The indexes of a store in shards are searched as one: the lexical ones with the statistics of all (`lexical_files`), the
dense ones each by itself (`dense_shards`). What is found has rows of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memstore.errors import ConfigError, FingerprintMismatch, IndexCorrupt
from memstore.retrieve import FoundRow, Hit, HitsOf, Retriever
from memstore.retrieve.dense import DenseRetriever, QuestionEncoder, read_dense_settings
from memstore.retrieve.dense_shards import DenseShards
from memstore.retrieve.filters import Filter
from memstore.retrieve.hybrid import HybridRetriever
from memstore.retrieve.lexical import Bm25Retriever
from memstore.retrieve.sentence import SentenceEncoder
from memstore.store.format import hash_file, index_path
from memstore.store.reader import Store
from memstore.store.sharded import AnyStore, ShardedStore

LEXICAL, DENSE, METADATA = "lexical", "dense", "metadata"
"""Folders of the parts, below the generation's index folder. The last one is a lexical index without texts, beside
a dense one whose documents have metadata.
"""

RowsOf = Callable[[Filter], npt.NDArray[np.int64]]
"""Gives the live rows that pass a filter, ascending."""


def open_retriever(
    store: AnyStore,
    *,
    memory_encoder: QuestionEncoder | None = None,
    beside: Retriever | None = None,
    to_load: bool = False,
) -> Retriever:
    """The retriever that `store`'s generation names, over exactly its passages.

    Args:
        store: an open store, or one in shards.
        memory_encoder: the model's own memory encoder; needed if the dense vectors are its own.
        beside: a retriever that is open already, whose sentence encoder is shared if it is the one that is needed.
        to_load: memories of what is found are loaded next; see `Store.at`.

    Raises:
        IndexCorrupt: an index is absent, damaged, or of another number of passages.
        StoreUnreadable: the system does not let us read it.
        FingerprintMismatch: the encoder is not the one that made the vectors.
        ConfigError: the generation names an unknown retriever, or needs an encoder that is not at hand.
        CheckpointNotFound, CheckpointError: its sentence encoder is absent, or cannot be loaded.
    """
    encoders = [e for e in (memory_encoder, encoder_of(beside)) if e is not None]
    hits = hits_of(store, to_load=to_load)
    kind = store.generation.retriever
    match kind:
        case "bm25":
            return _open_lexical(store, LEXICAL, hits)
        case "dense":
            has_metadata = any(METADATA in one.generation.index.parts for one in _shards(store) if one.generation.index)
            lexical = _open_lexical(store, METADATA, hits) if has_metadata else None
            return _open_dense(store, encoders, lexical, hits)
        case "hybrid":
            lexical = _open_lexical(store, LEXICAL, hits)
            dense = _open_dense(store, encoders, lexical, hits)
            return HybridRetriever([lexical, dense], hits)
        case _:
            raise ConfigError(f"the store names the retriever {kind!r}; known are bm25, dense and hybrid")


def hits_of(store: AnyStore, *, to_load: bool = False) -> HitsOf:
    """Makes hits of a store's rows: each passage is read here, once, and goes with its hit."""

    def hits(found: Sequence[FoundRow]) -> list[Hit]:
        stored = store.at([row for row, _ in found], to_load=to_load)
        return [Hit(s.passage.id, score, s) for s, (_, score) in zip(stored, found, strict=True)]

    return hits


def _shards(store: AnyStore) -> Sequence[Store]:
    """The stores that lie on disk: the one, or its shards."""
    return store.shards if isinstance(store, ShardedStore) else (store,)


def _part(store: Store, name: str) -> Path:
    """The folder of a part of its index."""
    return index_path(store.path, store.generation.number) / name


def _open_lexical(store: AnyStore, name: str, hits: HitsOf) -> Bm25Retriever:
    shards = _shards(store)
    folders = [_part(one, name) for one in shards]
    for one, folder in zip(shards, folders, strict=True):
        _check_stores(one, folder)
    rows_of = store.rows.of if isinstance(store, ShardedStore) else None
    retriever = Bm25Retriever(folders[0], hits, more=folders[1:], rows_of=rows_of)
    for one, folder, found in zip(shards, folders, retriever.parts, strict=True):
        _require_whole(one, folder, found.passages)
        if found.deleted != (dead := len(one.dead_rows())):
            raise IndexCorrupt(
                f"the index at {folder} leaves out {found.deleted} passages and its generation {dead}; build it again"
            )
    return retriever


def _check_stores(store: Store, folder: Path) -> None:
    """Holds Tantivy's `.store` files to the generation's checksums: a flipped bit there can make it ask for so much
    memory that the whole process ends. They are 5% of an index: 2 ms for 350,000 passages; `verify` checks the rest.
    """
    files = store.generation.index.files if store.generation.index is not None else {}
    for name, known in files.items():
        path = folder.parent / name
        if path.parent != folder or path.suffix != ".store":
            continue
        try:
            found = hash_file(path)
        except FileNotFoundError:
            continue  # reported with whatever else the folder lacks
        if found != known:
            raise IndexCorrupt(f"{path} is not what was written: its sha256 is another; build the index again")


def _open_dense(
    store: AnyStore, encoders: Sequence[QuestionEncoder], beside: Bm25Retriever | None, hits: HitsOf
) -> DenseRetriever | DenseShards:
    if not isinstance(store, ShardedStore):
        return _open_dense_of(store, encoders, None if beside is None else beside.rows, hits)
    opened: list[DenseRetriever] = []
    for number, shard in enumerate(store.shards):
        known = [*encoders, *(one.encoder for one in opened[:1])]
        passing = None if beside is None else _passing(store, number, beside.rows)
        opened.append(_open_dense_of(shard, known, passing, hits))
    return DenseShards(opened, store.rows.of, hits)


def _passing(store: ShardedStore, number: int, rows_of: RowsOf) -> RowsOf:
    """Gives a shard's rows that pass a filter, by what gives those of all."""

    def rows(where: Filter) -> npt.NDArray[np.int64]:
        shards, locals_ = store.rows.locate(rows_of(where))
        return np.sort(locals_[shards == number])

    return rows


def _open_dense_of(
    store: Store, encoders: Sequence[QuestionEncoder], passing: RowsOf | None, hits: HitsOf
) -> DenseRetriever:
    folder = _part(store, DENSE)
    made_by = read_dense_settings(folder).encoder
    known = [(encoder.ref(), encoder) for encoder in encoders]
    same_kind = [(ref, encoder) for ref, encoder in known if ref.kind == made_by.kind]
    if made_by.kind == "sentence" and made_by not in [ref for ref, _ in same_kind]:
        opened = SentenceEncoder(made_by.name)
        same_kind = [(opened.ref(), opened)]
    if not same_kind:
        raise ConfigError(
            f"the dense index at {folder} was made by the model's own memory encoder, and this model has no "
            "projection for it (embedding_dim is 0); serve the store with the model that built it"
        )
    found, encoder = next((pair for pair in same_kind if pair[0] == made_by), same_kind[0])
    if found != made_by:
        raise FingerprintMismatch({f"{made_by.kind} encoder of the dense index": (made_by.sha256, found.sha256)})
    retriever = DenseRetriever(folder, encoder, hits, dead=store.dead_rows(), passing=passing)
    _require_whole(store, folder, len(retriever))
    return retriever


def encoder_of(retriever: Retriever | None) -> QuestionEncoder | None:
    """The encoder of an open retriever; None if it has none."""
    parts = retriever.parts if isinstance(retriever, HybridRetriever) else (retriever,)
    return next((part.encoder for part in parts if isinstance(part, DenseRetriever | DenseShards)), None)


def _require_whole(store: Store, folder: Path, indexed: int) -> None:
    if indexed != len(store):
        raise IndexCorrupt(
            f"the index at {folder} holds {indexed} passages and its generation {len(store)}; build it again"
        )
