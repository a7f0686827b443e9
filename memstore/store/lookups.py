"""From documents and words to rows of a segment: what a change looks up. Derived from the passages, kept beside them.

A file is a .npy array (4, P) of uint64 and after it the sha256 of all before: hashes of document ids in order, above
their rows; `words_hash` of the passages (its first 8 bytes) in order, above their rows. Whoever publishes or changes
a store makes the files that are not there, so stores made before there were any have them from their first change on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memstore.errors import ChecksumMismatch
from memstore.files import sync
from memstore.store.duplicates import words_hash
from memstore.store.format import TEMPORARY, lookups_path, read_bytes
from memstore.store.ids import Uint64, hash_id, save_npy, sort_hashes
from memstore.store.texts import PassageReader

_DIGEST = 32  # bytes of a sha256


@dataclass(frozen=True, slots=True)
class Lookup:
    """Both tables of a segment, each (2, P): sorted hashes above rows."""

    documents: Uint64
    words: Uint64


def short(words: bytes) -> int:
    """The part of a `words_hash` that a table holds."""
    return int.from_bytes(words[:8], "little")


def rows_of(table: Uint64, hashes: Uint64) -> list[list[int]]:
    """Rows of each hash: none, one, or more."""
    first = np.searchsorted(table[0], hashes, side="left").tolist()
    last = np.searchsorted(table[0], hashes, side="right").tolist()
    return [table[1, a:b].tolist() if a < b else [] for a, b in zip(first, last, strict=True)]


def ensure_lookup(store: Path, segment_id: str, passages: PassageReader) -> Lookup:
    """A segment's tables; made and written if they are not there.

    Raises:
        ChecksumMismatch, StoreUnreadable: they are damaged, or closed to us.
        OSError: they cannot be written.
    """
    try:
        return read_lookup(store, segment_id, len(passages))
    except FileNotFoundError:
        made = derive_lookup(passages)
    path = lookups_path(store, segment_id)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(TEMPORARY + path.name)
    save_npy(temporary, np.concatenate([made.documents, made.words]))
    with temporary.open("rb+") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
    return made


def read_lookup(store: Path, segment_id: str, count: int) -> Lookup:
    """The tables of a segment of `count` passages.

    Raises:
        FileNotFoundError, StoreUnreadable: there are none; they are closed to us.
        ChecksumMismatch: they are damaged.
    """
    path = lookups_path(store, segment_id)
    data = read_bytes(path)
    size = 4 * 8 * count
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:] or len(data) < size + _DIGEST:
        raise ChecksumMismatch(f"{path} is damaged: remove it, and it is made again from the passages")
    table = np.frombuffer(data[len(data) - size - _DIGEST : -_DIGEST], dtype=np.uint64).reshape(4, count)
    return Lookup(table[:2], table[2:])


def derive_lookup(passages: PassageReader) -> Lookup:
    """The tables of these passages. Reads all of them.

    Raises:
        ChecksumMismatch: a passage is damaged.
    """
    documents, words = np.empty(len(passages), np.uint64), np.empty(len(passages), np.uint64)
    for row, passage in enumerate(passages):
        documents[row], words[row] = hash_id(passage.document_id), short(words_hash(passage))
    return Lookup(sort_hashes([documents]), sort_hashes([words]))
