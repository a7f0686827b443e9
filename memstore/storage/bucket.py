"""Objects below one URL, by `obstore`: whole, by ranges, listed, put, put on a condition, deleted.

Every call is tried again after a fault that may pass (a reset connection, 500, 503, an answer cut short, wrong bytes),
with growing pauses, until `Limits.seconds` are over. Reads run in one thread's event loop, as many at a time as
`_AT_ONCE`. No exception of `obstore` leaves this file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c

from memstore.errors import ChecksumMismatch, ConfigError, MissingData, StoreUnreachable, StoreUnreadable
from memstore.files import sync
from memstore.storage.api import is_final, open_api, said
from memstore.storage.blocks import Blocks
from memstore.storage.place import Limits

_AT_ONCE = 128  # requests under way: the three arrays of 40 passages
_UPLOADS = 8
_CRC = 4
_PIECE = 8 << 20  # bytes of one request of a whole file
_WRONG = 4  # tries after which wrong bytes are what is stored, not what came over the wire
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds before the second try, and at most
_ATTEMPT_SHARE = 3  # one try may take a third of the whole time
_parts = count()
Check = Callable[[bytes], bool]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of an object, and what says whether its bytes are right."""

    key: str
    offset: int
    size: int
    check: Check


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


@dataclass(frozen=True, slots=True)
class Pending:
    """A piece that is being read."""

    future: Future[bytes]

    def result(self) -> bytes:
        """Its bytes.

        Raises:
            MissingData, ChecksumMismatch: there is no such object; what is stored are other bytes.
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """
        return self.future.result()


class Bucket:
    """Objects below a URL. Safe to use from several threads."""

    def __init__(self, url: str, blocks: Blocks, limits: Limits) -> None:
        """Nothing is asked of the storage yet.

        Raises:
            ConfigError: `obstore` is not installed, or the `AWS_*` variables cannot be understood.
        """
        self.url, self.blocks, self.counts, self._limits = url, blocks, Counts(), limits
        self._api, self._store = open_api(url, limits.seconds / _ATTEMPT_SHARE)
        self._flying: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()

    # --- reading -----------------------------------------------------------------------------------------------------

    def begin(self, piece: Piece) -> Pending:
        """Begin to read a piece: from the cache, or from the storage into it. See `Pending.result`."""
        name = f"{self.url}/{piece.key}:{piece.offset}+{piece.size}"
        with self._lock:
            if (flying := self._flying.get(name)) is not None:
                return Pending(flying)
        if (data := self.blocks.get(name)) is not None and piece.check(data):
            future: Future[bytes] = Future()
            future.set_result(data)
            return Pending(future)
        with self._lock:
            future = asyncio.run_coroutine_threadsafe(self._piece(name, piece), _loop())
            self._flying[name] = future
        future.add_done_callback(lambda _: self._flying.pop(name, None))
        return Pending(future)

    def get(self, key: str, check: Check) -> Stored | None:
        """A small object as it is now, whose bytes pass a check; None if there is none.

        Raises:
            ChecksumMismatch: what is stored does not pass it.
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """

        async def attempt() -> Stored:
            found = await self._api.get_async(self._store, key)
            data = bytes(await found.bytes_async())
            self._came(len(data))
            if len(data) != found.meta["size"]:
                raise _Wrong(f"{len(data)} of {found.meta['size']} bytes came")
            if not check(data):
                raise _Wrong("their checksum is another")
            return Stored(data, str(found.meta["e_tag"]))

        try:
            return self._wait(self._tried(key, attempt))
        except MissingData:
            return None

    def fetch(self, wanted: Iterable[tuple[str, int | None, str]]) -> list[Path | MissingData | ChecksumMismatch]:
        """Whole files of (key, size or None, sha256), from the cache or into it, all at once. For each where it is in
        the cache now, or what is wrong with it.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """

        async def all_of_them() -> list[Path | MissingData | ChecksumMismatch]:
            return list(await asyncio.gather(*(self._file(*one) for one in wanted)))

        return self._wait(all_of_them())

    def list(self) -> list[Listed]:
        """All objects.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """

        async def attempt() -> list[Listed]:
            self.counts.requests += 1
            found = []
            async for part in self._api.list(self._store):
                found += [Listed(one["path"], int(one["size"]), one["last_modified"]) for one in part]
            return found

        try:
            return self._wait(self._tried("*", attempt))
        except StoreUnreadable as error:
            if "status code: 404" not in str(error):
                raise
            bucket = self.url.removeprefix("s3://").split("/")[0]
            raise ConfigError(
                f"{self.url}: there is no bucket {bucket!r}; make it first, or name another one"
            ) from error

    async def _piece(self, name: str, piece: Piece) -> bytes:
        async def attempt() -> bytes:
            data = await self._range(piece.key, piece.offset, piece.size)
            if not piece.check(data):
                raise _Wrong("their checksum is another")
            return data

        data = await self._tried(f"{piece.key}, {piece.size} bytes at {piece.offset}", attempt)
        self.blocks.put(name, data)
        return data

    async def _range(self, key: str, offset: int, size: int) -> bytes:
        data = bytes(await self._api.get_range_async(self._store, key, start=offset, length=size)) if size else b""
        self._came(len(data))
        if len(data) != size:
            raise _Wrong(f"{len(data)} of {size} bytes came")
        return data

    async def _file(self, key: str, size: int | None, sha256: str) -> Path | MissingData | ChecksumMismatch:
        """Fetch a whole file into the cache, unless it is there."""
        path = self.blocks.file(sha256)
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".tmp-{os.getpid()}-{next(_parts)}-{sha256}")  # files of several names may be the same

        async def attempt() -> int:
            known = size if size is not None else int((await self._api.head_async(self._store, key))["size"])
            with part.open("wb") as file:
                for first in range(0, known, _PIECE * 4):  # four pieces at a time bound the memory
                    starts = range(first, min(known, first + _PIECE * 4), _PIECE)
                    pieces = [self._range(key, at, min(_PIECE, known - at)) for at in starts]
                    for data in await asyncio.gather(*pieces):
                        file.write(data)
            if await asyncio.to_thread(_sha256, part) != sha256:
                raise _Wrong("their sha256 is another")
            return known

        try:
            written = await self._tried(key, attempt)
            sync(part)
            part.replace(path)
        except (MissingData, ChecksumMismatch) as error:
            return error
        except OSError as error:
            if isinstance(error, StoreUnreadable):
                raise
            raise ConfigError(f"{self.blocks.folder} cannot be written ({error.strerror}): name another "
                              "folder by MEMSTORE_CACHE_DIR") from error  # fmt: skip
        finally:
            part.unlink(missing_ok=True)
        self.blocks.wrote(written)
        return path

    # --- writing -----------------------------------------------------------------------------------------------------

    def put(self, files: Sequence[tuple[str, Path]], done: Callable[[int], None] = lambda _: None) -> None:
        """Write whole objects from files, some at a time; `done` hears of the bytes of each.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """

        def one(pair: tuple[str, Path]) -> int:
            self.counts.requests += 1
            size = pair[1].stat().st_size
            self._wait(self._tried(pair[0], lambda: self._api.put_async(self._store, pair[0], pair[1]), size=size))
            return size

        with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="memstore-upload") as threads:
            for size in threads.map(one, files):
                done(size)

    def put_if(self, key: str, data: bytes, *, tag: str | None) -> bool:
        """Write a small object if it is still the version of that tag, or still absent for None. Whether it was.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses, or has no such writes.
        """
        mode = "create" if tag is None else {"e_tag": tag}

        async def attempt() -> bool:
            self.counts.requests += 1
            try:
                await self._api.put_async(self._store, key, data, mode=mode)
            except (self._api.exceptions.AlreadyExistsError, self._api.exceptions.PreconditionError):
                return False
            return True

        if self._wait(self._tried(key, attempt)):
            return True
        # A try whose answer was lost may have written it: then what is there is ours.
        try:
            now = self.get(key, lambda found: found == data)
        except ChecksumMismatch:
            return False
        return now is not None

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage does not answer in time; it refuses.
        """

        async def one(key: str) -> None:
            try:
                await self._tried(key, lambda: self._api.delete_async(self._store, key))
            except MissingData:
                return

        async def all_of_them() -> None:
            await asyncio.gather(*map(one, keys))

        self._wait(all_of_them())

    # --- trying again ------------------------------------------------------------------------------------------------

    async def _tried(self, what: str, attempt: Callable[[], Awaitable[T]], *, size: int = 0) -> T:
        """The result of the first attempt that succeeds. Each MiB of `size` has a second more."""
        began, pause, tries, wrong = time.monotonic(), _PAUSE, 0, 0
        seconds = self._limits.seconds + size / (1 << 20)
        while True:
            tries += 1
            try:
                async with _gate():
                    return await asyncio.wait_for(attempt(), max(0.1, seconds - (time.monotonic() - began)))
            except FileNotFoundError:
                raise MissingData(f"{self.url}/{what} is missing. Run `memstore verify`.") from None
            except _Wrong as error:
                fault, wrong = str(error), wrong + 1
                if wrong >= _WRONG:
                    raise ChecksumMismatch(
                        f"{self.url}/{what} is damaged: {error}, {wrong} times. Run `memstore verify`."
                    ) from None
            except (self._api.exceptions.BaseError, PermissionError, ConnectionError, TimeoutError) as error:
                fault = said(error)
                if is_final(error, self._api.exceptions):
                    raise StoreUnreadable(f"{self.url}/{what} is refused: {fault}. See the AWS_* variables.") from error
            self.counts.retries += 1
            left = seconds - (time.monotonic() - began)
            if left <= pause:
                raise StoreUnreachable(
                    f"{self.url}/{what} could not be had in {seconds:.0f} s and {tries} tries: {fault}. Is the storage "
                    "up? MEMSTORE_STORAGE_SECONDS waits longer."
                )
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _came(self, count: int) -> None:
        self.counts.requests += 1
        self.counts.bytes += count

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, _loop()).result()


class _Wrong(Exception):  # noqa: N818 - never leaves this file
    """Other bytes came than were stored, or fewer."""


def ends_in_crc32c(data: bytes) -> bool:
    """Whether bytes end in the crc32c of those before, as chunks and indexes of shards do."""
    return int(google_crc32c.value(data[:-_CRC])) == int.from_bytes(data[-_CRC:], "little")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the thread that reads ------------------------------------------------------------------------------------------

_threads: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Semaphore]] = {}  # by process: a fork has no threads
_threads_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process, running in a thread of its own."""
    with _threads_lock:
        found = _threads.get(os.getpid())
        if found is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="memstore-storage", daemon=True).start()
            found = _threads[os.getpid()] = (loop, asyncio.Semaphore(_AT_ONCE))
        return found[0]


def _gate() -> asyncio.Semaphore:
    return _threads[os.getpid()][1]
