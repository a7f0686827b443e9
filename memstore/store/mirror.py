"""A store in object storage as a folder on this machine: what is small comes whole, what is large is read in place.

The folder has the layout of any store, so that all else reads it as one: manifests, SEALED files, tables, indexes and
the small arrays are links to verified files of the cache. Memories and texts are not in it (`large`). CURRENT is asked
for anew at each look. A file `.remote` says where the store is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

from memstore import locks
from memstore.errors import ChecksumMismatch, ConfigError, MemstoreError, MissingData, StoreNotFound
from memstore.files import link_or_copy, sync
from memstore.storage import Bucket, Limits, Piece, Stored, as_url, cache_folder, ends_in_crc32c
from memstore.storage.blocks import Blocks
from memstore.storage.place import endpoint
from memstore.store import objects
from memstore.store.format import (
    CURRENT,
    JOBS,
    MEMORY,
    SEALED,
    TEMPORARY,
    Current,
    Generation,
    Seal,
    SegmentRef,
    hash_bytes,
    read_bytes,
)
from memstore.store.manifest import parse
from memstore.store.objects import StoreFile

REMOTE = ".remote"  # of a mirror: its store's URL
_TRIES = 3  # of linking to a file of the cache, which another process may remove before
_count = count()


class Mirror:
    """A folder that stands for a store elsewhere."""

    def __init__(self, folder: Path, url: str) -> None:
        """Make the folder, if it is not there.

        Raises:
            ConfigError: it cannot be made, or object storage cannot be read here.
        """
        self.folder, self.url, self.bucket = folder, url, _bucket(url)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / REMOTE).exists():
                self._write(folder / REMOTE, url.encode())
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written ({error.strerror}): name another folder by MEMSTORE_CACHE_DIR"
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, no other process changes the folder: it waits."""
        with (self.folder / ".bringing").open("w") as file:
            locks.wait(file)
            yield

    # --- what is in force --------------------------------------------------------------------------------------------

    def look(self) -> Stored:
        """Bring CURRENT as it is now, and the manifests of all generations that it keeps.

        Raises:
            StoreNotFound: there is no store.
            StoreUnreachable, StoreUnreadable: the storage does not answer in time, or refuses.
            MissingData, ChecksumMismatch, StoreFormatError: CURRENT or its generation is damaged, or not understood.
        """
        stored = self.current()
        if stored is None:
            raise StoreNotFound(f"there is no store at {self.url}; `memstore build` makes one")
        current = Current.from_bytes(stored.data, path=Path(f"{self.url}/{CURRENT}"))
        kept = {int(number): sha256 for number, sha256 in (current.kept or {}).items()}
        kept[current.generation] = current.sha256
        for file, error in self.place([objects.manifest(n, sha256) for n, sha256 in kept.items()]):
            if file.sha256 == current.sha256:
                raise error
        self._write(self.folder / CURRENT, stored.data)
        return stored

    def current(self) -> Stored | None:
        """CURRENT as it is now; None if there is none. Raises what `look` raises."""
        return self.bucket.get(CURRENT, _is_manifest)

    # --- files -------------------------------------------------------------------------------------------------------

    def bring(self, generation: Generation, *, whole: bool = False) -> list[tuple[StoreFile, MemstoreError]]:
        """Bring what a reader needs of a generation whose manifest is here; or all of it, if `whole`. Returns the
        files that are missing or damaged, and why.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage does not answer in time, or refuses.
        """
        seals = [objects.sealed(ref) for ref in generation.segments]
        wrong = self.place([*objects.files_of(generation), *seals])
        files = [file for ref in generation.segments for file in self._files_of(ref)]
        wrong += self.place([f for f in files if whole or not objects.is_large(objects.inside(f))])
        if not whole:
            self._bring_indexes(generation.segments)
        return wrong

    def bring_lookups(self, generation: Generation) -> None:
        """Bring the tables that a change looks documents up in; those that are not there it makes."""
        for file in map(objects.lookup, generation.segments):
            path = self.folder / file.path
            if not path.exists() and (found := self.bucket.get(file.key, _is_lookup)) is not None:
                path.parent.mkdir(exist_ok=True)
                self._write(path, found.data)

    def bring_vectors(self, segment: Path) -> None:
        """Bring the vectors of a segment, which are only read to make an index of them.

        Raises:
            MissingData, ChecksumMismatch: they are not there, or damaged.
        """
        data = read_bytes(segment / SEALED)
        seal = seal_of(data, path=segment / SEALED)
        ref = SegmentRef(id=seal.segment, passages=seal.passages, tokens=seal.tokens, bytes=0, seal=hash_bytes(data))
        vectors = [
            f for f in objects.segment_files(ref, seal) if objects.inside(f).startswith(f"{MEMORY}/embeddings/c/")
        ]
        for _, error in self.place(vectors):
            raise error

    def place(self, files: Iterable[StoreFile]) -> list[tuple[StoreFile, MemstoreError]]:
        """Link files to those of the cache, which they are fetched into. Those here are left alone, but for what is cut
        short. Returns what is missing or damaged.
        """
        left = [f for f in files if not self._is_here(f)]
        wrong: list[tuple[StoreFile, MemstoreError]] = []
        for _ in range(_TRIES):
            found = self.bucket.fetch([(f.key, f.size, str(f.sha256)) for f in left])
            gone = []
            for file, result in zip(left, found, strict=True):
                if isinstance(result, MissingData | ChecksumMismatch):
                    wrong.append((file, result))
                elif not self._link(result, self.folder / file.path):
                    gone.append(file)
            if not gone:
                return wrong
            left = gone
        raise ConfigError(
            f"the cache in {self.bucket.blocks.folder} is too small: files of {self.url} are removed from it before "
            "they are used; give it more by MEMSTORE_CACHE_BYTES"
        )

    def _is_here(self, file: StoreFile) -> bool:
        path = self.folder / file.path
        try:
            return path.stat().st_size == file.size or file.size is None
        except FileNotFoundError:
            return False

    def _files_of(self, ref: SegmentRef) -> list[StoreFile]:
        """The files of a segment whose SEALED is here; none if that is damaged."""
        path = self.folder / objects.sealed(ref).path
        try:
            return list(objects.segment_files(ref, seal_of(read_bytes(path), path=path)))
        except (MemstoreError, FileNotFoundError):
            return []

    def _bring_indexes(self, segments: Iterable[SegmentRef]) -> None:
        """Read the indexes of all shards into the cache, so that a first question finds its chunks in one round."""
        pieces: list[Piece] = []
        for ref in segments:
            path = self.folder / objects.sealed(ref).path
            if not path.exists():
                continue
            seal = seal_of(read_bytes(path), path=path)
            size = objects.index_bytes(seal.shard_passages)
            for file in objects.segment_files(ref, seal):
                if objects.is_shard(objects.inside(file)) and (file.size or 0) >= size:
                    pieces.append(Piece(file.key, int(file.size or 0) - size, size, ends_in_crc32c))
        for one in self.bucket.begin_all(pieces):
            with suppress(MemstoreError):  # whoever reads the shard reports it
                one.result()

    def _link(self, source: Path, target: Path) -> bool:
        """Give a file of the cache a second name, whole or not at all. False if it has gone from the cache."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary(target)
        try:
            link_or_copy(source, temporary)
        except FileNotFoundError:
            return False
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # the two may have been one file already
        return True

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._temporary(path)
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)

    def _temporary(self, path: Path) -> Path:
        return path.with_name(f"{TEMPORARY}{os.getpid()}-{next(_count)}-{path.name}")


@lru_cache(maxsize=256)
def seal_of(data: bytes, *, path: Path) -> Seal:
    """`Seal.from_bytes`, which the same file need not go through for each of its parts."""
    return Seal.from_bytes(data, path=path)


def mirror_of(store: Path | str) -> Mirror | None:
    """The mirror that this machine's readers share; None for a store that is a folder."""
    url = as_url(store)
    return None if url is None else Mirror(cache_folder() / "stores" / place_name(url), url)


def kept_beside(store: Path) -> Path:
    """The folder of this machine for what belongs to a store in object storage and is not in it.

    Raises:
        ConfigError: it is not in object storage.
    """
    url = as_url(store)
    if url is None:
        raise ConfigError(f"{store} is a folder")
    return cache_folder() / "kept" / place_name(url)


def waiting_inputs(store: Path) -> list[Path]:
    """Changes of a store in object storage that servers of this machine accepted and have not made; none of a folder,
    which has its own.
    """
    return [] if as_url(store) is None else sorted(kept_beside(store).glob(f"{JOBS}/*/input"))


def mirror_at(folder: Path) -> Mirror | None:
    """The mirror whose folder this is; None for any other folder."""
    try:
        url = (folder / REMOTE).read_text(encoding="utf-8")
    except OSError:
        return None
    return Mirror(folder, url)


def looked(store: Path) -> Path:
    """The folder that has the manifests of a store as they are now: itself, or its mirror.

    Raises:
        StoreNotFound, StoreUnreadable, StoreCorrupt, StoreFormatError: see `Mirror.look`.
    """
    mirror = mirror_of(store)
    if mirror is None:
        return store
    mirror.look()
    return mirror.folder


def place_name(url: str) -> str:
    """A folder's name for a URL: readable, and another one for each."""
    readable = "".join(c if c.isalnum() else "-" for c in url.partition("://")[2])[-40:]
    return f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _is_manifest(data: bytes) -> bool:
    """Whether the checksum that a manifest carries is that of its bytes."""
    try:
        parse(data, path=Path(CURRENT))
    except ChecksumMismatch:
        return False
    return True


def _is_lookup(data: bytes) -> bool:
    """Whether tables end in the sha256 of what comes before."""
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def _bucket(url: str) -> Bucket:
    return _shared_bucket(url, cache_folder(), Limits.of_environment(), endpoint(url))


@lru_cache(maxsize=16)
def _shared_bucket(url: str, folder: Path, limits: Limits, _: str) -> Bucket:
    return Bucket(url, Blocks(folder, limit=limits.cache_bytes), limits)
