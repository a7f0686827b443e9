"""The first pass over a corpus: passages written down once, in order, with exact duplicates marked.

A build reads the corpus once into `spool.jsonl` and works from there, so that a resumed build sees the same
passages even if the corpus is a pipe's output or was edited meanwhile. Duplicates are found through hashes in
partition files, one partition in memory at a time. Knows passages and files, no model.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from memstore.errors import ConfigError, StoreFormatError
from memstore.files import replacing, sync
from memstore.metadata import Kind, add_fields
from memstore.passage import Passage
from memstore.store.duplicates import Duplicate, words_hash
from memstore_builders.content import Content
from memstore_builders.corpus import Corpus
from memstore_builders.corpus_files import stamp
from memstore_builders.long_passages import Mark, unfitted
from memstore_builders.state import writing

_PARTITIONS = 64  # a collection of 22 M passages has 344,000 records, 8 MB, in each
_RECORD = np.dtype([("text", "S16"), ("id", "S8"), ("row", "<u8")])
_FLUSH_ROWS = 65_536  # offsets kept in memory between writes


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """What the corpus held.

    Attributes:
        passages: those kept; `characters` of their titles and texts.
        split: passages longer than the model reads that were split, into `parts`.
        cut: passages kept that are longer than the model reads, and lose their end.
        content, stamp: what was read, and `corpus_files.stamp` of its files before.
        fields: the metadata fields of all, by name, with the kinds of their values.
    """

    documents: int
    passages: int
    duplicates: int
    rows_skipped: int
    characters: int
    split: int
    parts: int
    cut: int
    content: Content
    stamp: str
    errors: tuple[str, ...]
    formats: tuple[str, ...]
    fields: Mapping[str, Sequence[Kind]] = field(default_factory=dict)


class Spool:
    """Passages on disk, random access by kept row."""

    def __init__(self, folder: Path) -> None:
        """Open what `write_spool` finished.

        Raises:
            StoreFormatError: the folder holds no finished spool.
        """
        try:
            values = json.loads((folder / "spool.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreFormatError(f"no finished spool in {folder}: {error}") from error
        lists = {name: tuple(values[name]) for name in ("errors", "formats")}
        self.counts = SpoolCounts(**values | lists | {"content": Content(**values["content"])})
        self._path = folder / "spool.jsonl"
        self._offsets = np.load(folder / "spool.offsets.npy", mmap_mode="r")  # (kept,) where each kept line begins
        recorded = folder / "spool.duplicates.npy"  # absent from what an earlier version left
        self._recorded = np.load(recorded, mmap_mode="r") if recorded.exists() else np.empty((2, 0), np.uint64)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, first: int, last: int) -> Iterator[Passage]:
        """Kept passages `first` to `last` (exclusive), in order."""
        with self._path.open("rb") as file:
            for row in range(first, min(last, len(self))):
                offset = int(self._offsets[row])
                if file.tell() != offset:  # a duplicate was skipped
                    file.seek(offset)
                yield _passage(file.readline())[0]

    def duplicates(self, rows: range) -> list[Duplicate]:
        """Records of the passages left out among kept rows, or after the last one if that is among them."""
        last = rows.stop + (rows.stop == len(self))
        begin, end = np.searchsorted(self._recorded[1], [rows.start, last])
        found = []
        with self._path.open("rb") as file:
            for offset, before in self._recorded[:, begin:end].T.tolist():
                file.seek(offset)
                found.append(Duplicate.of(_passage(file.readline())[0], before=before - rows.start))
        return found

    def read_all(self) -> Iterator[tuple[int, Passage]]:
        """All passages in order, duplicates too, each with what `read_at` finds it by."""
        offset = 0
        with self._path.open("rb") as file:
            for line in file:
                yield offset, _passage(line)[0]
                offset += len(line)

    def read_at(self, offsets: Sequence[int]) -> Iterator[Passage]:
        """The passages at some places of the file."""
        with self._path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                yield _passage(file.readline())[0]

    def sample(self, count: int) -> list[Passage]:
        """Up to `count` passages, evenly spread over the collection."""
        rows = {round(r) for r in np.linspace(0, len(self) - 1, min(count, len(self)))}
        return [passage for row in sorted(rows) for passage in self.read(row, row + 1)]


class SpoolPart(Spool):
    """Some kept passages of a spool, with the duplicates that stand among them, as a spool of its own.

    `places` are their rows in the whole. A sample is one of the whole: codecs of all parts learn the same.
    """

    def __init__(self, whole: Spool, places: npt.NDArray[np.int64], counts: SpoolCounts) -> None:
        self.counts, self.places, self._whole = counts, places, whole
        self._path, self._offsets = whole._path, whole._offsets[places]
        self._recorded = np.empty((2, 0), np.uint64)

    def sample(self, count: int) -> list[Passage]:
        """See `Spool.sample`: of the whole."""
        return self._whole.sample(count)


def parts_of(whole: Spool, count: int, part_of: Callable[[str], int]) -> list[SpoolPart]:
    """The passages of each of `count` parts. What became of duplicates and long passages is counted for the whole.

    Args:
        whole: what was read.
        count: of parts.
        part_of: the part that a document of this id belongs to.
    """
    places = [array("Q") for _ in range(count)]
    characters, documents = [0] * count, [0] * count
    last = None
    for place, passage in enumerate(whole.read(0, len(whole))):
        part = part_of(passage.document_id)
        places[part].append(place)
        characters[part] += len(passage.title) + len(passage.text)
        documents[part] += passage.document_id != last
        last = passage.document_id
    return [
        SpoolPart(
            whole,
            np.asarray(own, dtype=np.int64),
            replace(whole.counts, passages=len(own), characters=c, documents=d, duplicates=0),
        )
        for own, c, d in zip(places, characters, documents, strict=True)
    ]


def write_spool(
    corpus: Corpus,
    folder: Path,
    *,
    fit: Callable[[Iterable[Passage]], Iterator[tuple[Passage, Mark]]] = unfitted,
    limit: int | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Spool:
    """Read the corpus into `folder`, once, and mark duplicates.

    Memory: some documents, one partition of hashes, and 8 bytes per passage on their way to disk in blocks.

    Args:
        corpus: where the passages come from.
        folder: where they go.
        fit: gives what becomes of each passage, see `long_passages.Fitter`; by default they stay as they are.
        limit: the most passages kept or dropped as duplicates; all by default.
        tick: hears of every thousand passages.

    Raises:
        CorpusError, CorpusFormatError, CorpusNotFound: from the corpus.
        ConfigError: two different passages have the same id, or `folder` cannot be written.
        InvalidMetadata: there are too many different fields.
        DiskSpaceError: the passages do not fit on the disk.
    """
    stamped = stamp(list(corpus.formats))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fields: dict[str, tuple[Kind, ...]] = {}
        read = _read(islice(fit(corpus), limit), folder, tick, fields)
        dropped, repeated = _duplicates(folder)
        kept = read - _totals(_lines_at(folder, dropped))
        _keep(folder, dropped, repeated)
        counts = corpus.counts
        summary = SpoolCounts(
            documents=counts.documents,
            passages=kept["passages"],
            duplicates=len(dropped),
            rows_skipped=counts.rows_skipped,
            characters=kept["characters"],
            split=kept["first"],
            parts=kept["first"] + kept["part"],
            cut=kept["cut"],
            content=counts.content.content,
            stamp=stamped,
            errors=tuple(counts.errors),
            formats=tuple(sorted(set(corpus.formats.values()))),
            fields=fields,
        )
        for name in ("spool.jsonl", "spool.offsets.npy", "spool.duplicates.npy"):
            sync(folder / name)
        with replacing(folder / "spool.json") as part:  # written last: its existence means complete
            part.write_text(json.dumps(asdict(summary)), encoding="utf-8")
    return Spool(folder)


def _read(
    passages: Iterable[tuple[Passage, Mark]],
    folder: Path,
    tick: Callable[[int], None],
    fields: dict[str, tuple[Kind, ...]],
) -> Counter[str]:
    """Write passages, their offsets and their hashes, and count their fields in; returns their `_totals`."""
    rows, totals = 0, Counter[str]()
    with ExitStack() as stack:
        partitions = [stack.enter_context((folder / f"hashes.{i:02d}").open("wb")) for i in range(_PARTITIONS)]
        lines = stack.enter_context((folder / "spool.jsonl").open("wb"))
        offsets = stack.enter_context((folder / "offsets.raw").open("wb"))
        pending = array("Q")
        for passage, mark in passages:
            pending.append(lines.tell())
            lines.write(_line(passage, mark))
            _record(partitions, passage, rows)
            add_fields(fields, passage.metadata)
            rows += 1
            totals += _totals([(passage, mark)])
            if rows % 1000 == 0:
                tick(1000)
            if len(pending) >= _FLUSH_ROWS:
                pending.tofile(offsets)
                del pending[:]
        pending.tofile(offsets)
    tick(rows % 1000)
    return totals


def _totals(passages: Iterable[tuple[Passage, Mark]]) -> Counter[str]:
    """How many passages, how many of each mark, and the characters of their titles and texts."""
    found = Counter[str]()
    for passage, mark in passages:
        found["passages"] += 1
        found["characters"] += len(passage.title) + len(passage.text)
        found[mark] += 1
    return found


def _line(p: Passage, mark: Mark) -> bytes:
    values = [p.id, p.document_id, p.title, p.text, p.url, p.start, p.end, *([p.metadata] if p.metadata else []), mark]
    return json.dumps(values).encode("ascii") + b"\n"


def _passage(line: bytes) -> tuple[Passage, Mark]:
    *values, mark = json.loads(line)
    return Passage(*values), mark


def _record(partitions: Sequence[BinaryIO], passage: Passage, row: int) -> None:
    """Write the hashes of the passage's words and of its id: twice, where the two fall into different partitions."""
    text = words_hash(passage)
    name = hashlib.blake2b(passage.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    row_bytes = row.to_bytes(8, "little")
    partitions[text[0] % _PARTITIONS].write(text + b"\0" * 8 + row_bytes)
    partitions[name[0] % _PARTITIONS].write(b"\0" * 16 + name + row_bytes)


def _duplicates(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose title, text and metadata stood before, ascending; and those whose id did. Passages of one id that say
    something else are an error.
    """
    dropped: list[np.ndarray] = []
    same_id: list[np.ndarray] = []  # (n, 2): rows of one id
    for i in range(_PARTITIONS):
        records = np.fromfile(folder / f"hashes.{i:02d}", dtype=_RECORD)
        texts = records[records["id"] == b""]
        names = records[records["text"] == b""]
        dropped.append(_repeats(texts, "text")[:, 1])
        same_id.append(_repeats(names, "id"))
        (folder / f"hashes.{i:02d}").unlink()
    rows = np.sort(np.concatenate(dropped))
    pairs = np.concatenate(same_id)
    clashes = pairs[~np.isin(pairs[:, 1], rows)]
    if len(clashes):
        raise ConfigError(_same_id(folder, *(int(row) for row in clashes[0])))
    return rows, pairs[:, 1]


def _repeats(records: np.ndarray, key: str) -> np.ndarray:
    """`(n, 2)` rows: each later row of a key beside the first row of that key."""
    ordered = records[np.lexsort((records["row"], records[key]))]
    values, rows = ordered[key], ordered["row"].astype(np.int64)
    begins = np.ones(len(ordered), dtype=bool)
    begins[1:] = values[1:] != values[:-1]
    first = rows[begins][np.cumsum(begins) - 1] if len(ordered) else rows
    return np.stack([first[~begins], rows[~begins]], axis=1)


def _lines_at(folder: Path, rows: np.ndarray) -> Iterator[tuple[Passage, Mark]]:
    if not len(rows):
        return
    offsets = np.memmap(folder / "offsets.raw", dtype="<u8", mode="r")
    with (folder / "spool.jsonl").open("rb") as file:
        for row in rows:
            file.seek(int(offsets[int(row)]))
            yield _passage(file.readline())


def _same_id(folder: Path, first: int, second: int) -> str:
    (a, _), (b, _) = _lines_at(folder, np.array([first, second]))
    return (
        f"two different passages have the id {a.id!r} (titles {a.title!r} and {b.title!r}, passages {first + 1} and "
        f"{second + 1} of the corpus): ids must be unique. Does a file come twice, or do two files number alike?"
    )


def _keep(folder: Path, dropped: np.ndarray, repeated: np.ndarray) -> None:
    """Write the offsets of the rows that stay; and of the others, but those whose id is another row's too, with the
    number of rows that stay before each.
    """
    raw = folder / "offsets.raw"
    offsets = np.fromfile(raw, dtype="<u8")  # 8 bytes a passage: 176 MB for 22 M
    before = dropped - np.arange(len(dropped))
    recorded = ~np.isin(dropped, repeated)
    np.save(folder / "spool.duplicates.npy", np.stack([offsets[dropped], before.astype("<u8")])[:, recorded])
    np.save(folder / "spool.offsets.npy", np.delete(offsets, dropped))
    raw.unlink()
