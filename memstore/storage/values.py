"""What goes into object storage and comes out of it. Knows bytes and their checksums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import google_crc32c

_CRC = 4
Check = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of an object, and what says whether its bytes are right."""

    key: str
    offset: int
    size: int
    check: Check


@dataclass(frozen=True, slots=True)
class Pending:
    """A piece that is being read, or is in the cache."""

    read: Callable[[], bytes]

    def result(self) -> bytes:
        """Its bytes.

        Raises:
            MissingData, ChecksumMismatch: there is no such object; what is stored are other bytes.
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """
        return self.read()


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's bytes and the tag of this version of it."""

    data: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing has it."""

    key: str
    size: int
    modified: datetime


@dataclass(slots=True)
class Counts:
    """What was asked of the storage so far: requests, those that were tried again among them, and bytes that came."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0


def ends_in_crc32c(data: bytes) -> bool:
    """Whether bytes end in the crc32c of those before, as chunks and indexes of shards do."""
    return int(google_crc32c.value(data[:-_CRC])) == int.from_bytes(data[-_CRC:], "little")
