"""Keys of those who may ask, and of those who may change stores: kept as hashes in a file, each with a limit.

The file is written by `memstore keys`, whole or not at all, and read again when it has changed, so that a key that was
revoked is refused without a restart. Refuses to know HTTP.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from memstore.errors import ConfigError, MemstoreError
from memstore.files import write_text

_PREFIX = "ms_"  # by which people and programs that look for leaked secrets know one
_BYTES = 32


class Unauthorized(MemstoreError, PermissionError):  # noqa: N818 - reads as the fact it states
    """A request without a key that it needs, or with another one."""


class TooManyRequests(MemstoreError):  # noqa: N818
    """A key has asked as often as it may; `retry_after` seconds later it may ask again."""

    def __init__(self, *, per_minute: int, retry_after: int) -> None:
        super().__init__(f"this key may ask {per_minute} times a minute: try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is known by its hash. `per_minute` is how often it may ask; None as often as it likes."""

    name: str
    sha256: str
    writes: bool
    per_minute: int | None
    created: str


def read_keys(path: Path) -> list[Key]:
    """The keys in a file; none where it does not exist.

    Raises:
        ConfigError: it cannot be read, or is not what `memstore keys` writes.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["keys"]
        return [Key(**one) for one in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as keys: {error}") from error


def add_key(path: Path, name: str, *, writes: bool = False, per_minute: int | None = None) -> str:
    """Makes a key, keeps its hash in the file, and returns it: nobody can read it there again.

    Raises:
        ConfigError: the name is taken or empty, or the limit is below 1.
        OutputUnwritable: the file cannot be written.
    """
    keys = read_keys(path)
    if not name.strip() or any(one.name == name for one in keys):
        raise ConfigError(f"{path} has a key {name!r}: revoke it, or take another name" if name.strip() else
                          "a key needs a name, by which it can be revoked")  # fmt: skip
    if per_minute is not None and per_minute < 1:
        raise ConfigError(f"a key may ask at least once a minute, not {per_minute} times")
    key = _PREFIX + secrets.token_urlsafe(_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    _write(path, [*keys, Key(name, digest(key).hex(), writes, per_minute, created)])
    return key


def revoke_key(path: Path, name: str) -> None:
    """Takes a key out of the file. Raises ConfigError where there is none of that name."""
    keys = read_keys(path)
    kept = [one for one in keys if one.name != name]
    if len(kept) == len(keys):
        there = ", ".join(one.name for one in keys) or "none"
        raise ConfigError(f"{path} has no key {name!r}; it has: {there}")
    _write(path, kept)


def _write(path: Path, keys: Iterable[Key]) -> None:
    write_text(path, json.dumps({"keys": [asdict(one) for one in keys]}, indent=1) + "\n")


def digest(key: str) -> bytes:
    """What is kept of a key. Keys are random and long, so that a plain hash tells nothing of them."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """The keys of a file as it is now, and how often each was used. For several threads."""

    def __init__(self, path: Path, *, among: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. Raises ConfigError where it cannot be read, or has no key.

        Each key's limit is divided `among` so many processes that serve together.
        """
        self._among = among
        self._path, self._clock, self._lock = path, clock, threading.Lock()
        self._read: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._left: dict[str, tuple[float, float]] = {}  # by hash: requests that may come at once, and since when
        self._refresh()
        if not self._keys:
            raise ConfigError(f"{path} has no key: make one with `memstore keys add NAME --file {path}`")

    def require(self, key: str, *, writes: bool = False) -> None:
        """Raises Unauthorized unless this is one of the keys, and may do that."""
        self._found(key, writes=writes)

    def spend(self, key: str) -> None:
        """Counts a request. Raises Unauthorized for a key that is none, TooManyRequests for one that has no more."""
        found = self._found(key, writes=False)
        if found.per_minute is None:
            return
        with self._lock:
            now, rate, most = (
                self._clock(),
                found.per_minute / 60 / self._among,
                max(1.0, found.per_minute / self._among),
            )
            left, since = self._left.get(found.sha256, (most, now))
            left = min(most, left + (now - since) * rate)
            if left < 1:
                wait = max(1, round((1 - left) / rate + 0.5))
                raise TooManyRequests(per_minute=found.per_minute, retry_after=wait)
            self._left[found.sha256] = (left - 1, now)

    def _found(self, key: str, *, writes: bool) -> Key:
        with self._lock:
            self._refresh()
            # A dictionary of hashes: how long a look takes says something of the hash at most, and nothing of a key.
            found = self._keys.get(digest(key).hex())
        if found is None:
            raise Unauthorized("this is no key of the server's")
        if writes and not found.writes:
            raise Unauthorized("this key may ask, and not change the store")
        return found

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._read, self._keys = None, {}
            return
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._read:
            self._keys = {one.sha256: one for one in read_keys(self._path)}
            self._read = seen
