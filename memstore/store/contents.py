"""What a generation holds, document by document, as a change needs to know it. Knows no memories.

Places are rows of the generation. A record is a passage left out of a segment as a duplicate (`duplicates`), known by
(segment number, place in its list).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from memstore.errors import ConfigError
from memstore.passage import Passage
from memstore.store.deletions import read_dead
from memstore.store.duplicates import Duplicate, read_duplicates, words_hash
from memstore.store.format import segment_path
from memstore.store.ids import Uint64, hash_ids
from memstore.store.lookups import Lookup, ensure_lookup, rows_of, short
from memstore.store.mirror import mirror_at
from memstore.store.reader import Store
from memstore.store.segment import read_seal
from memstore.store.texts import PassageReader

Record = tuple[int, int]
_MODULUS = 1 << 128


def signature(passage: Passage, words: bytes) -> int:
    """A number for all that is said of a passage. A document's is the sum of its passages', in any order, modulo
    2^128: equal sums mean that nothing of it changed. `words` is its `words_hash`, in which its metadata are too.
    """
    values = (passage.id, passage.title, words.hex(), passage.url, passage.start, passage.end)
    data = repr(values).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "little")


def add_signatures(a: int, b: int) -> int:
    """The sum of two signatures."""
    return (a + b) % _MODULUS


@dataclass(slots=True)
class DocumentPlaces:
    """Where a document's passages are. `signature` is the sum of theirs."""

    rows: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    signature: int = 0


class Contents:
    """The live passages of a generation, to be looked up by document and by words.

    Memory: 32 bytes per row, and all records.
    """

    def __init__(self, store: Store) -> None:
        """Read the tables of all segments; those that are not there are made.

        Raises:
            StoreCorrupt: something is damaged or missing; the subclass says how.
            OSError: tables cannot be written.
        """
        self.store, generation = store, store.generation
        if (mirror := mirror_at(store.path)) is not None:
            mirror.bring_lookups(generation)  # to make them, all passages would be read
        self.starts = [0, *accumulate(s.passages for s in generation.segments)]
        self.dead = np.zeros(len(store), dtype=bool)
        self.dead[store.dead_rows()] = True
        self.passages: list[PassageReader] = []
        self.records: list[list[Duplicate]] = []
        self.dead_records: list[set[int]] = []
        self._lookups: list[Lookup] = []
        for ref in generation.segments:
            folder = segment_path(store.path, ref.id)
            self.passages.append(PassageReader(folder, count=ref.passages))
            self.records.append(read_duplicates(folder, read_seal(folder, ref)))
            rows = read_dead(store.path, ref)
            self.dead_records.append({int(r) - ref.passages for r in rows[rows >= ref.passages]})
            self._lookups.append(ensure_lookup(store.path, ref.id, self.passages[-1]))

    def locate(self, row: int) -> tuple[int, int]:
        """Segment number of a row, and the row within it."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return number, row - self.starts[number]

    def passage(self, row: int) -> Passage:
        """The passage of a row."""
        number, local = self.locate(row)
        return self.passages[number].passage(local)

    def documents(self, ids: Sequence[str]) -> dict[str, DocumentPlaces]:
        """Those of the documents that the generation holds, in the order asked."""
        found: dict[str, DocumentPlaces] = {i: DocumentPlaces() for i in ids}
        hashes = hash_ids(found)
        for start, passages, lookup in zip(self.starts, self.passages, self._lookups, strict=False):
            for places, rows in zip(found.items(), rows_of(lookup.documents, hashes), strict=True):
                for row in sorted(rows):
                    if not self.dead[start + row] and (p := passages.passage(row)).document_id == places[0]:
                        places[1].rows.append(start + row)
                        places[1].signature = add_signatures(places[1].signature, signature(p, words_hash(p)))
        for number, record in self.live_records():
            duplicate = self.records[number][record]
            places_of = found.get(duplicate.passage.document_id)
            if places_of is not None:
                places_of.records.append((number, record))
                if not self.is_revived(duplicate):
                    extra = signature(duplicate.passage, bytes.fromhex(duplicate.words))
                    places_of.signature = add_signatures(places_of.signature, extra)
        return {i: places for i, places in found.items() if places.rows or places.records}

    def live_records(self) -> Iterable[Record]:
        """Records of documents that are in the collection, in order; those whose passage was revived too."""
        return ((n, i) for n, records in enumerate(self.records) for i in range(len(records))
                if i not in self.dead_records[n])  # fmt: skip

    def is_revived(self, duplicate: Duplicate) -> bool:
        """Whether its passage is a row by now, because what it repeated was deleted."""
        return self.store.contains(duplicate.passage.id)

    def rows_with_words(self, words: Sequence[bytes]) -> dict[bytes, int]:
        """The first live row of each of these titles, texts and metadata that is in the collection."""
        found: dict[bytes, int] = {}
        wanted = list(dict.fromkeys(words))
        hashes: Uint64 = np.fromiter(map(short, wanted), dtype=np.uint64, count=len(wanted))
        for start, passages, lookup in zip(self.starts, self.passages, self._lookups, strict=False):
            for digest, rows in zip(wanted, rows_of(lookup.words, hashes), strict=True):
                for row in sorted(rows):
                    if (
                        digest not in found
                        and not self.dead[start + row]
                        and words_hash(passages.passage(row)) == digest
                    ):
                        found[digest] = start + row
        return found

    def kill(self, documents: Iterable[DocumentPlaces]) -> npt.NDArray[np.int64]:
        """Count these documents out; returns the rows that died, ascending."""
        rows: list[int] = []
        for places in documents:
            rows += places.rows
            for number, record in places.records:
                self.dead_records[number].add(record)
        killed = np.unique(np.asarray(rows, dtype=np.int64))
        if self.dead[killed].any():
            raise ConfigError("a document cannot be removed twice in one change")
        self.dead[killed] = True
        return killed

    def heirs(self, killed: npt.NDArray[np.int64]) -> list[tuple[int, Passage]]:
        """Passages that come to life since what they repeated died: (dead row that has their memory, passage)."""
        if not any(self.records):
            return []
        died = {words_hash(self.passage(row)): row for row in reversed(killed.tolist())}
        waiting: dict[bytes, Duplicate] = {}
        for number, record in self.live_records():
            duplicate = self.records[number][record]
            words = bytes.fromhex(duplicate.words)
            if words in died and words not in waiting and self.live_row(duplicate.passage.id) is None:
                waiting[words] = duplicate
        alive = self.rows_with_words(list(waiting))
        return [
            (died[words], dataclasses.replace(duplicate.passage, text=self.passage(died[words]).text))
            for words, duplicate in waiting.items()
            if words not in alive
        ]

    def live_row(self, passage_id: str) -> int | None:
        """The row of a passage id that is alive in this change."""
        rows = self.store.rows_of_ids([passage_id])[0]
        return next((row for row in rows if not self.dead[row]), None)
