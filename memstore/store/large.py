"""The large files of a segment, read by ranges: from the disk, or in place from object storage. Knows no contents.

This is the seam between the two: whoever reads memories and texts asks a `LargeFile`, wherever it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from memstore.errors import ChecksumMismatch, MissingData, StoreUnreadable
from memstore.storage import Bucket, Pending, Piece, ends_in_crc32c
from memstore.store.format import SEALED, hash_bytes, read_bytes
from memstore.store.mirror import mirror_at, seal_of
from memstore.store.objects import segment_key

Check = Callable[[bytes], bool]
Range = tuple[int, int]
"""Offset and size."""
_PAGE = 4096  # bytes: smaller reads share pages with others, and are soon all in the page cache


class LargeFile(Protocol):
    """A file that is read by position; two implementations give the same bytes and errors."""

    @property
    def path(self) -> Path:
        """What messages call it."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def begin(self, ranges: Sequence[Range]) -> Sequence[Any]:
        """Begin to fetch ranges, all at once; what it returns for each may be given to `read`."""
        ...

    def read(self, offset: int, size: int, begun: Any = None) -> bytes:
        """Exactly these bytes.

        Raises:
            ChecksumMismatch, StoreUnreadable: the file ends before; it cannot be read.
        """
        ...

    def damaged(self, how: str) -> ChecksumMismatch:
        """The error to raise."""
        ...


class OpenFile:
    """A file read by position; closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            MissingData, StoreUnreadable: there is none; the system does not let us.
        """
        self.path = path
        self.handle = -1
        try:
            self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self.handle).st_size
        except FileNotFoundError:
            raise MissingData(f"{path} is missing. Run `memstore verify`.") from None
        except OSError as error:
            raise StoreUnreadable(f"{path} cannot be read: {error}") from error

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def begin(self, ranges: Sequence[Range]) -> Sequence[None]:
        """Let the system fetch these bytes from the disk."""
        for offset, size in ranges:
            if size > _PAGE:
                os.posix_fadvise(self.handle, offset, size, os.POSIX_FADV_WILLNEED)
        return (None,) * len(ranges)

    def read(self, offset: int, size: int, begun: object = None) -> bytes:  # noqa: ARG002 - for those that are elsewhere
        """Exactly these bytes.

        Raises:
            ChecksumMismatch, StoreUnreadable: the file ends before; the system does not let us.
        """
        try:
            data = os.pread(self.handle, size, offset)
        except OSError as error:
            raise StoreUnreadable(f"{self.path} cannot be read: {error}") from error
        if len(data) != size:
            raise self.damaged(f"it ends before byte {offset + size}")
        return data

    def damaged(self, how: str) -> ChecksumMismatch:
        """The error to raise."""
        return ChecksumMismatch(f"{self.path} is damaged: {how}. Run `memstore verify`.")


class RemoteFile:
    """An object read by ranges through the cache on the local disk.

    `check` says whether a range is right; a wrong one is read again before it is an error. By default a range ends in
    the crc32c of what comes before, as chunks and indexes of shards do.
    """

    def __init__(self, bucket: Bucket, key: str, size: int, check: Check | None = None) -> None:
        self.path, self.size = Path(f"{bucket.url}/{key}"), size
        self._bucket, self._key, self._check = bucket, key, check or ends_in_crc32c

    def begin(self, ranges: Sequence[Range], checks: Sequence[Check] | None = None) -> list[Pending]:
        """Begin to read ranges, neighbours by one request; each has a check of its own, if `checks` are given."""
        each = checks or (self._check,) * len(ranges)
        pieces = [Piece(self._key, *one, check) for one, check in zip(ranges, each, strict=True)]
        return self._bucket.begin_all(pieces)

    def read(self, offset: int, size: int, begun: Pending | None = None) -> bytes:
        """Exactly these bytes; see `Pending.result` for errors."""
        return (begun or self.begin([(offset, size)])[0]).result()

    def damaged(self, how: str) -> ChecksumMismatch:
        """The error to raise."""
        return ChecksumMismatch(f"{self.path} is damaged: {how}. Run `memstore verify`.")


def opener(folder: Path) -> Callable[[Path], LargeFile]:
    """What opens the large files of the segment in a folder: those that are not there, from where the store is.

    Raises:
        MissingData, StoreUnreadable, ChecksumMismatch: of a segment elsewhere, SEALED cannot be read.
    """
    elsewhere = _elsewhere(folder)
    if elsewhere is None:
        return OpenFile

    def open_file(path: Path) -> LargeFile:
        found = None if path.exists() else elsewhere(path.relative_to(folder).as_posix())
        return found or OpenFile(path)  # which says that it is missing

    return open_file


def remote_file(folder: Path, name: str) -> RemoteFile | None:
    """A file of the segment in a folder, where the store is elsewhere; None if it is not, or knows none of that name.

    Raises:
        MissingData, StoreUnreadable, ChecksumMismatch: SEALED cannot be read.
    """
    elsewhere = _elsewhere(folder)
    return None if elsewhere is None else elsewhere(name)


def _elsewhere(folder: Path) -> Callable[[str], RemoteFile | None] | None:
    """Finds the files of a segment by name in object storage; None if its store is not there."""
    mirror = mirror_at(folder.parent.parent)
    if mirror is None:
        return None
    try:
        data = read_bytes(folder / SEALED)
    except FileNotFoundError:
        raise MissingData(f"{folder / SEALED} is missing. Run `memstore verify`.") from None
    seal, digest, bucket = seal_of(data, path=folder / SEALED), hash_bytes(data), mirror.bucket

    def find(name: str) -> RemoteFile | None:
        file = seal.files.get(name)
        return None if file is None else RemoteFile(bucket, segment_key(seal.segment, digest, name), file.size)

    return find
