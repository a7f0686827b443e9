"""Changing a store in object storage: in a folder of this machine, whose new files are then uploaded, CURRENT last.

A store in a folder is changed where it is, under a lock. Object storage has no locks that outlive a process well, so
every writer has a folder of its own, and names of objects have checksums (`objects`): writers cannot touch each other's
files. Only one of them replaces CURRENT, as that is on the condition that it is still the one that the writer began
from. The others are refused, and what they wrote is named by no generation; `memstore forget` removes it.

Killed while it works, a change is begun again by the next run, and a build goes on. Killed while it uploads, files that
are there are not uploaded again.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from memstore import locks
from memstore.errors import ConfigError, MemstoreError, StoreBusy
from memstore.storage import Listed, as_url, cache_folder
from memstore.store import history, objects
from memstore.store.current import read_generation
from memstore.store.format import CURRENT, Current, Generation, SegmentRef, generation_path, hash_file
from memstore.store.history import Forgotten, numbers
from memstore.store.holding import BUSY, only_writer
from memstore.store.mirror import REMOTE, Mirror, mirror_of, place_name
from memstore.store.objects import StoreFile
from memstore.store.uploading import Uploads, all_files, push

_BASE = ".base"  # of a working folder: CURRENT's bytes that its work began from; empty where there was no store
LEFT_HOURS = 24.0
"""An object that no generation names may be of a writer at work until then."""


@contextmanager
def changing(store: Path, *, every: bool = False) -> Iterator[Path]:
    """The folder in which a store is changed; when the block ends, what it put in force there is in force. It has the
    manifests of all generations, and what a reader needs of the one in force, or of `every` one.

    Raises:
        StoreNotFound, StoreCorrupt, StoreUnreadable: there is none, it is damaged, or the storage does not answer.
        StoreBusy: another process of this machine is changing it; or another writer was first, and nothing was changed.
    """
    url = as_url(store)
    if url is None:
        yield store
        return
    with _alone(url) as folder:
        shutil.rmtree(folder, ignore_errors=True)
        mirror = Mirror(folder, url)
        tag = _bring(mirror, every=every)
        before = _state(folder)
        yield folder
        if _state(folder) != before:
            push(mirror, tag=tag)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """No other process of this machine changes the store within, and for a folder no other process at all.

    Raises:
        StoreNotFound, StoreBusy, ConfigError: see `only_writer`.
    """
    url = as_url(store)
    with only_writer(store) if url is None else _alone(url):
        yield


@dataclass(frozen=True, slots=True)
class Place:
    """The folder in which a store is built, and what hears of each segment that is sealed there: of a store elsewhere
    it is uploaded then, and leaves the disk but for what indexes need.
    """

    folder: Path
    sealed: Callable[[SegmentRef], None] | None = None


@contextmanager
def building(out: Path) -> Iterator[Place]:
    """Where a store is built. It stays if the build is cut off, and the next one goes on there.

    Raises:
        StoreCorrupt, StoreUnreadable: a finished store is there, and is damaged; or the storage does not answer.
        StoreBusy: another process of this machine builds it; or another writer was first, and nothing was changed.
    """
    url = as_url(out)
    if url is None:
        yield Place(out)
        return
    with _alone(url) as folder:
        mirror = Mirror(folder, url)
        stored = mirror.current()
        base = b"" if stored is None else stored.data
        if not (folder / _BASE).exists() or (folder / _BASE).read_bytes() != base:
            shutil.rmtree(folder, ignore_errors=True)  # what was begun there was to follow another generation
            mirror = Mirror(folder, url)
            tag = None if stored is None else _bring(mirror, every=False)
            (folder / _BASE).write_bytes(base)
        else:
            tag = None if stored is None else stored.tag
        with Uploads(mirror) as uploads:
            yield Place(folder, uploads.add)
        if not (folder / CURRENT).exists() or (folder / CURRENT).read_bytes() == base:
            return
        push(mirror, tag=tag)
    shutil.rmtree(folder, ignore_errors=True)


def _bring(mirror: Mirror, *, every: bool) -> str:
    """Bring a store as it is now; the tag of its CURRENT."""
    stored = mirror.look()
    in_force = read_generation(mirror.folder).number
    for number in numbers(mirror.folder) if every else [in_force]:
        generation = read_generation(mirror.folder, number)
        wrong = mirror.bring(generation)
        if wrong and number == in_force:
            raise wrong[0][1]
        mirror.bring_lookups(generation)
    return stored.tag


def _state(folder: Path) -> tuple[bytes, list[int]]:
    """What a change changes: the generation in force, or those that are kept."""
    return (folder / CURRENT).read_bytes(), numbers(folder)


def rollback(store: Path, *, to: int | None = None) -> Generation:
    """`history.rollback` of a store anywhere; raises what that and `changing` raise."""
    with changing(store, every=True) as folder:
        return history.rollback(folder, to=to)


def forget(store: Path, *, keep: int = 1, hours: float = LEFT_HOURS) -> Forgotten:
    """`history.forget` of a store anywhere, and `sweep`; raises what these and `changing` raise."""
    with changing(store) as folder:
        forgotten = history.forget(folder, keep=keep)
    return forgotten if folder is store else dataclasses.replace(forgotten, bytes_freed=sweep(store, hours=hours))


def sweep(store: Path, *, hours: float = LEFT_HOURS) -> int:
    """Remove the objects that no generation of the store names. Returns their bytes.

    What was uploaded in the last `hours` may be of a writer at work, and stays, as do other segments of the same build.
    A reader elsewhere of a generation that was forgotten loses its memories.

    Raises:
        StoreNotFound, StoreCorrupt, StoreUnreadable: there is no store, a manifest is damaged, or the storage does not
            answer.
    """
    url = as_url(store)
    if url is None:
        return 0
    with _alone(url) as folder:
        mirror = Mirror(folder, url)
        mirror.look()
        for number in numbers(folder):
            generation = read_generation(folder, number)
            for _, error in mirror.place([objects.sealed(ref) for ref in generation.segments]):
                raise error  # without it nobody knows which objects the segment has
        needed = _needed(mirror)
        before = datetime.now(UTC) - timedelta(hours=hours)
        unnamed = [found for found in mirror.bucket.list() if found.key not in needed]
        latest: dict[str, datetime] = {}  # a long build has uploaded its first segments days ago
        for found in unnamed:
            work = objects.work_of(found.key)
            latest[work] = max(found.modified, latest.get(work, found.modified))
        gone = [found for found in unnamed if latest[objects.work_of(found.key)] <= before]
        mirror.bucket.delete([found.key for found in gone])
    shutil.rmtree(folder, ignore_errors=True)
    return sum(found.size for found in gone)


def _needed(mirror: Mirror) -> set[str]:
    """The objects that generations name whose manifests and SEALED files are in the folder."""
    needed = {CURRENT}
    for number in numbers(mirror.folder):
        generation = read_generation(mirror.folder, number)
        needed |= {f.key for f in all_files(mirror.folder, generation)}
        needed |= {objects.lookup(ref).key for ref in generation.segments}
        needed.add(objects.manifest(number, hash_file(generation_path(mirror.folder, number))).key)
    return needed


@contextmanager
def _alone(url: str) -> Iterator[Path]:
    """The working folder of a store for this process.

    Raises:
        StoreBusy: another process of this machine has it.
        ConfigError: it cannot be made, or its file system has no locks.
    """
    folder = cache_folder() / "work" / place_name(url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f"{folder.name}.lock").open("w")
        mine = locks.lock(file, inherited=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}): name another folder by MEMSTORE_CACHE_DIR"
        ) from error
    with file:
        if not mine:
            raise StoreBusy(f"{BUSY} {url} on this machine: wait for it, and try again")
        try:
            yield folder
        except MemstoreError as error:  # people know the store by its URL
            error.args = tuple(a.replace(str(folder), url) if isinstance(a, str) else a for a in error.args)
            raise


@dataclass(frozen=True, slots=True)
class Copy:
    """A folder with every byte of a store's generations; of a store elsewhere, what is missing or damaged, and the
    objects that no generation names.
    """

    folder: Path
    wrong: list[tuple[StoreFile, MemstoreError]] = field(default_factory=list)
    unnamed: list[Listed] = field(default_factory=list)


@contextmanager
def whole(store: Path) -> Iterator[Copy]:
    """A store with all its bytes on this disk, for checking. Of a store elsewhere it is a copy, which is removed in the
    end: the disk has to have room for it.

    Raises:
        StoreNotFound, StoreCorrupt, StoreUnreadable: see `Mirror.look`.
    """
    url = as_url(store)
    if url is None:
        yield Copy(store)
        return
    with _alone(url) as folder:
        shutil.rmtree(folder, ignore_errors=True)
        mirror = Mirror(folder, url)
        stored = mirror.look()
        wrong: list[tuple[StoreFile, MemstoreError]] = []
        kept = Current.from_bytes(stored.data, path=folder / CURRENT).kept or {}
        wrong += mirror.place([objects.manifest(int(number), sha256) for number, sha256 in kept.items()])
        for number in numbers(folder):
            generation = read_generation(folder, number)
            wrong += mirror.bring(generation, whole=True)
            mirror.bring_lookups(generation)
        needed = _needed(mirror)
        unnamed = [found for found in mirror.bucket.list() if found.key not in needed]
        (folder / REMOTE).unlink()  # from here on it is a store like any other
        try:
            yield Copy(folder, wrong, unnamed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            mirror.bucket.blocks.shrink()


def index_bytes(store: Path) -> int:
    """Bytes of the search indexes of the generation in force of a store in object storage; see `stored_bytes`."""
    mirror = mirror_of(store)
    assert mirror is not None, "of a folder, its files are measured"
    keys = {f.key for f in objects.files_of(read_generation(store)) if f.path.startswith("index/")}
    return sum(found.size for found in mirror.bucket.list() if found.key in keys)


def stored_bytes(store: Path) -> int:
    """Bytes of all objects of a store in object storage.

    Raises:
        ConfigError: it is a folder.
        StoreUnreachable, StoreUnreadable: the storage does not answer in time, or refuses.
    """
    mirror = mirror_of(store)
    if mirror is None:
        raise ConfigError(f"{store} is a folder")
    return sum(found.size for found in mirror.bucket.list())
