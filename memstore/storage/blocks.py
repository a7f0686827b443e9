"""A cache of bytes on the local disk, shared by all processes of a machine. Knows names and bytes.

Ranges are in `blocks/`, each a file that ends in a crc32c of its name and bytes: one that a power cut or a bad disk
changed is a miss. Whole files are in `files/`, by their sha256, and are linked to where they are used. A file appears
by rename, so that a process killed at any moment leaves nothing that another one would believe. When both hold more
than the limit, those used longest ago are removed; a file that is linked to is in use, and counts, but stays.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from contextlib import suppress
from pathlib import Path

import google_crc32c

from memstore import locks

_CRC = 4
_TEMPORARY = ".tmp-"
_LEFT_AFTER = 3600.0  # seconds after which a temporary file is of a process that was killed
_SHARE = 0.9  # of the limit: what is left after removing, so that it is not done for every block
_count = itertools.count()


class Blocks:
    """The cache in one folder. Errors of its disk are misses: what is asked for is read from its source again."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._room: int | None = None  # bytes that may be written before the folder is looked at again

    def has(self, name: str) -> bool:
        """Whether something is kept under a name; `get` says whether it is still what was put."""
        return self._path(name).exists()

    def get(self, name: str) -> bytes | None:
        """What was put under a name; None if it is not there, or not as it was written."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                data = file.read()
            body = data[:-_CRC]
            if len(data) < _CRC or _checksum(name, body) != data[-_CRC:]:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)  # the order in which blocks are removed is that of their last use
        except OSError:
            return None
        return body

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, where the disk lets us."""
        path = self._path(name)
        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{next(_count)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data + _checksum(name, data))
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        self.wrote(len(data) + _CRC)

    def file(self, sha256: str) -> Path:
        """Where a whole file is kept, if it is."""
        return self.folder / "files" / sha256[:2] / sha256

    def wrote(self, count: int) -> None:
        """Count bytes that were added; removes the oldest when they may be too many."""
        if self._room is None or count >= self._room:
            self.shrink()
        else:
            self._room -= count

    def shrink(self) -> None:
        """Remove what was used longest ago, down to the limit. One process at a time does it; the others go on."""
        self._room = max(1, int(self.limit * (1 - _SHARE)) // 2)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".shrinking").open("w") as file:
                if locks.lock(file, inherited=True):
                    self._shrink()

    def _shrink(self) -> None:
        found, total, now = [], 0, time.time()
        for place, _, names in os.walk(self.folder):
            if Path(place).parent.name not in ("blocks", "files"):
                continue
            for name in names:
                path = Path(place, name)
                with suppress(OSError):
                    stat = path.stat()
                    if name.startswith(_TEMPORARY):
                        if now - stat.st_mtime > _LEFT_AFTER:
                            path.unlink()
                        continue
                    total += stat.st_size
                    if stat.st_nlink == 1:
                        found.append((stat.st_mtime, stat.st_size, path))
        if total > self.limit:
            for _, size, path in sorted(found):
                if total <= self.limit * _SHARE:
                    break
                with suppress(OSError):
                    path.unlink()
                total -= size

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / "blocks" / digest[:2] / digest


def _checksum(name: str, data: bytes) -> bytes:
    """Four bytes that differ for other bytes, and for the same under another name."""
    return int(google_crc32c.extend(google_crc32c.value(name.encode()), data)).to_bytes(_CRC, "little")
