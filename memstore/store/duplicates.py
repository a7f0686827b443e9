"""Passages that a segment leaves out, because an earlier one of the collection has the same title, text and metadata.

They are kept without their text, each with its place: when the earlier passage is deleted, they must come to life as
if they had been the first. Lines of JSON in `duplicates.jsonl`; knows no memories.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from memstore.errors import ChecksumMismatch, MissingData
from memstore.metadata import canonical
from memstore.passage import Passage
from memstore.store.format import DUPLICATES, Seal, hash_bytes, read_bytes
from memstore.store.texts import from_line, to_line


def words_hash(passage: Passage) -> bytes:
    """16 bytes that are equal for passages of the same title, text and metadata, the same on every machine.

    Metadata count, as a passage that was left out for one with others would not be found by a filter of its own.
    """
    words = f"{passage.title}\0{passage.text}"
    if passage.metadata:
        words += f"\0{canonical(passage.metadata)}"
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A passage that was left out.

    Attributes:
        before: how many rows of its segment come before it.
        words: `words_hash` of it, as hex.
        passage: all else of it; its text is empty.
    """

    before: int
    words: str
    passage: Passage

    @classmethod
    def of(cls, passage: Passage, *, before: int) -> Duplicate:
        """The record of a passage."""
        return cls(before, words_hash(passage).hex(), dataclasses.replace(passage, text=""))


def write_duplicates(folder: Path, duplicates: Iterable[Duplicate]) -> None:
    """Write them into a segment's folder, in order; nothing where there are none."""
    lines = [json.dumps([d.before, d.words]).encode() + b" " + to_line(d.passage) for d in duplicates]
    if lines:
        (folder / DUPLICATES).write_bytes(b"".join(lines))


def read_duplicates(folder: Path, seal: Seal) -> list[Duplicate]:
    """Those of a sealed segment, in order.

    Raises:
        MissingData, ChecksumMismatch, StoreUnreadable: the file is absent, damaged, or closed to us.
    """
    if DUPLICATES not in seal.files:
        return []
    try:
        data = read_bytes(folder / DUPLICATES)
    except FileNotFoundError:
        raise MissingData(f"{folder / DUPLICATES} is missing. Run `memstore verify`.") from None
    if hash_bytes(data) != seal.files[DUPLICATES].sha256:
        raise ChecksumMismatch(f"{folder / DUPLICATES} is damaged: not what was sealed. Run `memstore verify`.")
    found = []
    for line in data.splitlines():
        head, _, rest = line.partition(b"] ")
        before, words = json.loads(head + b"]")
        found.append(Duplicate(before, words, from_line(rest)))
    return found
