"""passages.jsonl: one passage per line, read by row without parsing the rest. Knows lines, never memories."""

from __future__ import annotations

import dataclasses
import json
import os
import weakref
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memstore.errors import ChecksumMismatch, MissingData, StoreUnreadable
from memstore.passage import Passage
from memstore.storage import Pending
from memstore.store.format import CHECKSUMS, HASHES, OFFSETS, PASSAGES
from memstore.store.ids import Uint64, hash_id, open_npy, save_npy
from memstore.store.large import RemoteFile, remote_file

_WINDOW = 512  # passages read at once where they are elsewhere


def to_line(passage: Passage) -> bytes:
    """One line of JSON with its newline, the id first."""
    values = {f.name: getattr(passage, f.name) for f in dataclasses.fields(Passage)}
    if not values["metadata"]:  # as it was before there were any: earlier versions read such a store
        del values["metadata"]
    try:
        return json.dumps(values, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, but an escape
        return json.dumps(values).encode() + b"\n"


def from_line(line: bytes) -> Passage:
    """Inverse of `to_line`, for a line whose checksum was right."""
    return Passage(**json.loads(line.decode()))  # of bytes, json would first guess the encoding: a quarter of its time


class PassageWriter:
    """Appends passages to a segment. Keeps 20 bytes of memory per passage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / PASSAGES).write_bytes(b"")
        self._offsets, self._checksums, self._hashes = array("Q", [0]), array("I"), array("Q")

    def __len__(self) -> int:
        return len(self._hashes)

    def extend(self, passages: Iterable[Passage]) -> None:
        """Write the next rows."""
        with (self._folder / PASSAGES).open("ab") as file:
            for passage in passages:
                line = to_line(passage)
                file.write(line)
                self._offsets.append(self._offsets[-1] + len(line))
                self._checksums.append(zlib.crc32(line))
                self._hashes.append(hash_id(passage.id))

    def close(self) -> None:
        """Write the three arrays beside the lines."""
        save_npy(self._folder / OFFSETS, np.asarray(self._offsets, dtype=np.uint64))
        save_npy(self._folder / CHECKSUMS, np.asarray(self._checksums, dtype=np.uint32))
        save_npy(self._folder / HASHES, np.asarray(self._hashes, dtype=np.uint64))


class PassageReader:
    """Random access to a segment's passages by row. Safe to use from several threads."""

    def __init__(self, folder: Path, *, count: int) -> None:
        """Open the lines and map the arrays.

        Raises:
            MissingData, StoreUnreadable, ChecksumMismatch: a file is absent, the system cannot read it, or it is
                not of this many passages.
        """
        self._path = folder / PASSAGES
        self._offsets = open_npy(folder / OFFSETS, dtype="uint64", shape=(count + 1,))
        self._checksums = open_npy(folder / CHECKSUMS, dtype="uint32", shape=(count,))
        self.hashes: Uint64 = open_npy(folder / HASHES, dtype="uint64", shape=(count,))
        self._remote: RemoteFile | None = None
        try:
            # Read, not mapped: reading a mapped file that was truncated since would kill the process (SIGBUS).
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._remote = remote_file(folder, PASSAGES)
            if self._remote is not None:
                return
            raise MissingData(f"{self._path} is missing. Run `memstore verify`.") from None
        except OSError as error:
            raise StoreUnreadable(f"{self._path} cannot be read: {error}") from error
        weakref.finalize(self, os.close, self._file)
        self._size = os.fstat(self._file).st_size
        if self._size == 0:
            raise ChecksumMismatch(f"{self._path} is damaged: it is empty. Run `memstore verify`.")

    def __len__(self) -> int:
        return len(self._checksums)

    def begin(self, rows: Sequence[int]) -> Sequence[Pending | None]:
        """Begin to read rows that are elsewhere, all at once; what comes back for each may be given to `passage`."""
        if self._remote is None:
            return (None,) * len(rows)
        places = [(int(self._offsets[row]), int(self._offsets[row + 1])) for row in rows]
        checks = [partial(_has_crc, int(self._checksums[row])) for row in rows]
        return self._remote.begin([(first, last - first) for first, last in places], checks)

    def line(self, row: int, begun: Pending | None = None) -> bytes:
        """The bytes of a row.

        Raises:
            ChecksumMismatch: they are not what was written, also where the file was truncated since it was opened.
            StoreUnreadable: the system cannot read them.
        """
        if self._remote is not None:
            begun = begun or self.begin([row])[0]
            assert begun is not None
            return begun.result()
        first, last = int(self._offsets[row]), int(self._offsets[row + 1])
        try:  # damaged offsets may be any numbers: they must not be a size that is asked for
            line = os.pread(self._file, last - first, first) if first <= last <= self._size else b""
        except OSError as error:
            raise StoreUnreadable(f"{self._path}: row {row} cannot be read: {error}") from error
        if len(line) != last - first or zlib.crc32(line) != int(self._checksums[row]):
            raise ChecksumMismatch(f"{self._path}: row {row} is damaged. Run `memstore verify`.")
        return line

    def passage(self, row: int, begun: Pending | None = None) -> Passage:
        """The passage of a row; see `line` for errors."""
        return from_line(self.line(row, begun))

    def __iter__(self) -> Iterator[Passage]:
        return self.iter()

    def iter(self, start: int = 0) -> Iterator[Passage]:
        """All passages from a row on; many at a time where they are elsewhere."""
        if self._remote is None:
            yield from (self.passage(row) for row in range(start, len(self)))
            return
        for first in range(start, len(self), _WINDOW):
            rows = range(first, min(first + _WINDOW, len(self)))
            yield from (self.passage(row, begun) for row, begun in zip(rows, self.begin(rows), strict=True))


def _has_crc(crc: int, data: bytes) -> bool:
    return zlib.crc32(data) == crc


def repeated_id(
    index: Uint64, readers: Sequence[PassageReader], dead: npt.NDArray[np.bool_] | None = None
) -> str | None:
    """A passage id that is in more than one row, dead rows aside, if there is one.

    `index` is what `ids.sort_hashes` makes of the readers. Equal hashes are neighbours in it, so that only
    passages whose hashes meet are read.
    """
    if dead is not None:
        index = index[:, ~dead[index[1].astype(np.int64)]]
    starts = np.cumsum([0, *(len(r) for r in readers)])
    owner: dict[str, int] = {}
    for place in np.flatnonzero(index[0, 1:] == index[0, :-1]).tolist():
        for row in index[1, place : place + 2].tolist():
            segment = int(np.searchsorted(starts, row, side="right")) - 1
            passage_id = readers[segment].passage(row - int(starts[segment])).id
            if owner.setdefault(passage_id, row) != row:
                return passage_id
    return None
