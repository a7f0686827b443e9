"""Objects below one URL, by `obstore`: whole, by ranges, listed, put, put on a condition, deleted.

Every call is tried again after a fault that may pass (a reset connection, 500, 503, an answer cut short, wrong bytes),
with growing pauses, until `Limits.seconds` are over. Reads run in one thread's event loop, as many at a time as
`thread.AT_ONCE`. No exception of `obstore` leaves this file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from memstore.errors import ChecksumMismatch, ConfigError, MemstoreError, MissingData, StoreUnreachable, StoreUnreadable
from memstore.files import sync
from memstore.storage.api import is_final, mode_of, open_api, said, tag_of
from memstore.storage.blocks import Blocks
from memstore.storage.place import Limits, parts_of, variables
from memstore.storage.ranges import together
from memstore.storage.thread import gate, loop
from memstore.storage.values import Check, Counts, Listed, Pending, Piece, Stored

_UPLOADS = 8
_PIECE = 8 << 20  # bytes of one request of a whole file
_WRONG = 4  # tries after which wrong bytes are what is stored, not what came over the wire
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds before the second try, and at most
_ATTEMPT_SHARE = 3  # one try may take a third of the whole time
_parts = count()
T = TypeVar("T")


class Bucket:
    """Objects below a URL. Safe to use from several threads."""

    def __init__(self, url: str, blocks: Blocks, limits: Limits) -> None:
        """Nothing is asked of the storage yet.

        Raises:
            ConfigError: `obstore` is not installed, or its variables cannot be understood.
        """
        self.url, self.blocks, self.counts, self._limits = url, blocks, Counts(), limits
        self._api, self._store = open_api(url, limits.seconds / _ATTEMPT_SHARE)
        self._flying: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()

    # --- reading -----------------------------------------------------------------------------------------------------

    def begin(self, piece: Piece) -> Pending:
        """`begin_all` of one."""
        return self.begin_all([piece])[0]

    def begin_all(self, pieces: Sequence[Piece]) -> list[Pending]:
        """Begin to read what is not in the cache into it, neighbours by one request. See `Pending.result`; who does not
        ask for it has them at hand the next time.
        """
        named = [(self._name(piece), piece) for piece in pieces]
        flying = self._fly({name: piece for name, piece in named if not self.blocks.has(name)})
        return [
            Pending(flying[name].result if name in flying else partial(self._kept, name, piece))
            for name, piece in named
        ]

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
            return Stored(data, tag_of(self.url, found.meta))

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
            raise ConfigError(
                f"{self.url}: there is no bucket {parts_of(self.url)[1]!r}; make it first, or name another one"
            ) from error

    def _name(self, piece: Piece) -> str:
        return f"{self.url}/{piece.key}:{piece.offset}+{piece.size}"

    def _kept(self, name: str, piece: Piece) -> bytes:
        """A piece from the cache; from the storage, if it is damaged there, or was removed since."""
        data = self.blocks.get(name)
        return data if data is not None and piece.check(data) else self._fly({name: piece})[name].result()

    def _fly(self, wanted: Mapping[str, Piece]) -> dict[str, Future[bytes]]:
        """Pieces by their names, being read; those that are already are not asked for again."""
        with self._lock:
            new = {name: piece for name, piece in wanted.items() if name not in self._flying}
            self._flying |= {name: Future() for name in new}
            flying = {name: self._flying[name] for name in wanted}
        for group in together(new.values()):
            asyncio.run_coroutine_threadsafe(self._read(group), loop())
        return flying

    async def _read(self, group: Sequence[Piece]) -> None:
        """Read neighbours by one request. Those of them whose bytes are wrong are read again, each by itself: what is
        damaged does no harm to what is beside it.
        """
        first, last = group[0].offset, max(piece.offset + piece.size for piece in group)
        alone = len(group) == 1

        async def attempt() -> bytes:
            data = await self._range(group[0].key, first, last - first)
            if alone and not group[0].check(data):
                raise _Wrong("their checksum is another")
            return data

        left: list[Piece] = []
        try:
            data = await self._tried(f"{group[0].key}, {last - first} bytes at {first}", attempt)
            for piece in group:
                part = data[piece.offset - first : piece.offset - first + piece.size]
                if alone or piece.check(part):
                    self.blocks.put(self._name(piece), part)
                    self._land(piece, part)
                else:
                    left.append(piece)
        except BaseException as error:
            if alone or not isinstance(error, ChecksumMismatch):
                for piece in group:
                    self._land(piece, error)
                if not isinstance(error, MemstoreError):
                    raise
                return
            left = list(group)
        await asyncio.gather(*(self._read([piece]) for piece in left))

    def _land(self, piece: Piece, result: bytes | BaseException) -> None:
        """Give who waits for a piece its bytes, or the error."""
        with self._lock:
            future = self._flying.pop(self._name(piece), None)
        if future is None:
            return
        if isinstance(result, bytes):
            future.set_result(result)
        else:
            future.set_exception(result)

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
            if await asyncio.to_thread(_sha256, path) == sha256:
                return path
            path.unlink(missing_ok=True)  # a bad disk, or someone's hand
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
        mode = mode_of(self.url, tag)

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
                async with gate():
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
                    raise StoreUnreadable(
                        f"{self.url}/{what} is refused: {fault}. See the {variables(self.url)} variables."
                    ) from error
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
        return asyncio.run_coroutine_threadsafe(work, loop()).result()


class _Wrong(Exception):  # noqa: N818 - never leaves this file
    """Other bytes came than were stored, or fewer."""


def _sha256(path: Path) -> str:
    """Of a file's bytes; of one that cannot be read, nothing's."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
