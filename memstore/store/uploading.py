"""Uploading a store from the folder in which it is made: segments as they are sealed, the rest at last, CURRENT at the
very end.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from memstore.errors import MissingData, StoreBusy
from memstore.store import objects
from memstore.store.format import (
    CURRENT,
    SEALED,
    Current,
    Generation,
    SegmentRef,
    generation_path,
    hash_file,
    read_bytes,
)
from memstore.store.history import numbers
from memstore.store.mirror import Mirror, seal_of
from memstore.store.objects import StoreFile
from memstore.store.publish import sealed_segment

LOST = "another writer changed"
"""How the message of `StoreBusy` begins where another writer was first."""


class Uploads:
    """Uploads the segments of a build, one while the next is made. Then their memories leave this disk: texts and
    vectors, which indexes are made of, stay, and whoever needs a memory reads it from where it is.
    """

    def __init__(self, mirror: Mirror) -> None:
        """Look what is there. Segments here that an earlier run had uploaded, and that were removed since, are
        forgotten here, too.
        """
        self._mirror, self._there = mirror, {listed.key for listed in mirror.bucket.list()}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="memstore-segments")
        self._under_way: Future[None] | None = None
        for path in sorted(mirror.folder.glob(f"segments/*/{SEALED}")):
            ref = sealed_segment(mirror.folder, path.parent.name)
            if ref is not None and any(not self._exists(file) for file in self._files(ref)):
                shutil.rmtree(path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._pool:
            if error is None:
                self._wait()

    def add(self, ref: SegmentRef) -> None:
        """Upload a sealed segment in the background, once the one before is there: so memories of two are here at most,
        and of the one that is being made.

        Raises:
            StoreUnreachable, StoreUnreadable: the storage has not taken the one before.
        """
        self._wait()
        self._under_way = self._pool.submit(self._upload, ref)

    def _wait(self) -> None:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def _upload(self, ref: SegmentRef) -> None:
        folder, files = self._mirror.folder, self._files(ref)
        for group in (files, [objects.sealed(ref)]):
            left = [file for file in group if file.key not in self._there]
            self._mirror.bucket.put([(file.key, folder / file.path) for file in left])
            self._there |= {file.key for file in left}
        for file in files:
            if objects.is_shard(objects.inside(file)):
                (folder / file.path).unlink(missing_ok=True)

    def _files(self, ref: SegmentRef) -> list[StoreFile]:
        path = self._mirror.folder / objects.sealed(ref).path
        return list(objects.segment_files(ref, seal_of(read_bytes(path), path=path)))

    def _exists(self, file: StoreFile) -> bool:
        return file.key in self._there or (self._mirror.folder / file.path).exists()


def push(mirror: Mirror, *, tag: str | None, done: Callable[[int], None] = lambda _: None) -> None:
    """Upload what the folder has and the storage has not, and then its CURRENT, if that there is still of this tag.

    Raises:
        StoreBusy: it is not: another writer was first.
        StoreUnreachable, StoreUnreadable: the storage does not answer in time, or refuses.
    """
    folder, bucket = mirror.folder, mirror.bucket
    current = Current.from_bytes(read_bytes(folder / CURRENT), path=folder / CURRENT)
    there = {listed.key for listed in bucket.list()}
    kept: dict[str, str] = {}
    for number in numbers(folder):
        path = generation_path(folder, number)
        generation = Generation.from_bytes(read_bytes(path), path=path)
        kept[str(number)] = hash_file(path)
        files = [*all_files(folder, generation), objects.manifest(number, kept[str(number)])]
        for group in _in_order(files):
            left = {f.key: folder / f.path for f in group if f.key not in there}
            if lost := next((path for path in left.values() if not path.exists()), None):
                if number == current.generation:
                    raise MissingData(f"{lost} is neither here nor in {mirror.url}. Run `memstore verify`.")
                continue
            bucket.put(list(left.items()), done)
            there |= left.keys()
    made = dataclasses.replace(current, kept=kept)
    if not bucket.put_if(CURRENT, made.to_bytes(), tag=tag):
        raise StoreBusy(f"{LOST} {mirror.url} meanwhile: theirs is in force, and nothing of this change; run it again")


def all_files(folder: Path, generation: Generation) -> Iterator[StoreFile]:
    """All files of a generation whose small ones are in a folder, but its manifest."""
    for ref in generation.segments:
        sealed = objects.sealed(ref)
        path = folder / sealed.path
        with suppress(FileNotFoundError):
            yield from objects.segment_files(ref, seal_of(read_bytes(path), path=path))
        yield sealed
        lookup = objects.lookup(ref)
        if (folder / lookup.path).exists():
            yield lookup
    yield from objects.files_of(generation)


def _in_order(files: list[StoreFile]) -> Iterator[list[StoreFile]]:
    """What a file names comes before it: a segment's files, then SEALED; all else, then the manifest."""
    manifest = files[-1]
    sealed = [f for f in files if f.path.startswith("segments/") and f.path.endswith("/SEALED")]
    first = [f for f in files[:-1] if f not in sealed]
    yield first
    yield sealed
    yield [manifest]
