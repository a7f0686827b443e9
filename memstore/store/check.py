"""Checking a generation against its manifests, byte for byte and count for count. Knows no model.

Reads everything once and keeps 20 bytes per passage in memory. Whether the memories are what the model would
make again is the builders' `verify`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memstore.errors import (
    ChecksumMismatch,
    CodecMismatch,
    CountMismatch,
    IndexCorrupt,
    MemstoreError,
    MissingData,
    StoreCorrupt,
    StoreUnreadable,
)
from memstore.store.codec_tables import read_tables, segment_codec
from memstore.store.current import read_generation
from memstore.store.deletions import read_dead
from memstore.store.foreign import is_foreign
from memstore.store.format import (
    HASHES,
    SEALED,
    Generation,
    IndexRef,
    Seal,
    SegmentRef,
    TablesRef,
    hash_file,
    ids_path,
    index_path,
    list_files,
    lookups_path,
    segment_path,
)
from memstore.store.ids import Uint64, hash_id, open_npy, sort_hashes
from memstore.store.lookups import derive_lookup, read_lookup
from memstore.store.reader import Store
from memstore.store.segment import Readers, open_segment, read_seal
from memstore.store.texts import PassageReader, repeated_id


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a store: the name of the error that a read of it raises, where, and what.

    `where` is relative to the store: a file, a folder, or "" for the store as a whole.
    """

    kind: str
    where: str
    message: str


def check_generation(store: Path, number: int | None = None) -> Iterator[Fault]:
    """Everything wrong with a generation, by default the one in force; yields nothing for a sound one.

    A damaged manifest ends the search below it, since what it says cannot be trusted.

    Raises:
        StoreNotFound: no store is at the path, or it has no such generation.
    """
    try:
        generation = read_generation(store, number)
    except (StoreCorrupt, StoreUnreadable) as error:
        yield fault(error, "")
        return
    for name in ("passages", "tokens"):
        total = sum(getattr(s, name) for s in generation.segments)
        if getattr(generation, name) != total:
            message = f"the generation has {getattr(generation, name)} {name}, its segments {total}"
            yield fault(CountMismatch(message), "generations")
    sound = whole = True
    for problem in check_tables(store, generation):
        sound = whole = False
        yield problem
    for ref in generation.segments:
        tables = generation.tables if whole else None
        for problem in itertools.chain(check_segment(store, ref, tables=tables), check_dead(store, ref)):
            sound = False
            yield problem
    yield from check_ids(store, generation, sound=sound)
    if generation.index is not None:
        yield from check_index(store, generation.number, generation.index)


def check_tables(store: Path, generation: Generation) -> Iterator[Fault]:
    """What the segments' codecs learned: each file that the generation names."""
    for ref in generation.tables:
        try:
            read_tables(store, ref)
        except MemstoreError as error:
            yield fault(error, f"codecs/{ref.file}.safetensors")


def check_segment(store: Path, ref: SegmentRef, *, tables: Sequence[TablesRef] | None = ()) -> Iterator[Fault]:
    """Everything wrong with one segment: files, their checksums, then the counts inside them.

    `tables` are those that its generation names. None says that they are damaged: without them nothing is looked at
    that is inside the files.
    """
    folder, where = segment_path(store, ref.id), f"segments/{ref.id}"
    try:
        seal = read_seal(folder, ref)
    except MemstoreError as error:
        yield fault(error, f"{where}/{SEALED}")
        return
    sound = True
    for problem in _check_files(folder, where, seal):
        sound = False
        yield problem
    if not sound or tables is None:
        return
    try:
        _, wanted = segment_codec(folder, seal)
        if wanted is not None and wanted not in tables:
            raise CodecMismatch(f"{where} decodes by tables {wanted.file!r}, which its generation does not name")
        segment = open_segment(store, ref, Readers())
        for row, (passage, expected) in enumerate(zip(segment.passages, segment.passages.hashes.tolist(), strict=True)):
            if hash_id(passage.id) != expected:
                message = f"row {row} of {where} is {passage.id!r}, whose hash is another"
                yield fault(ChecksumMismatch(message), f"{where}/{HASHES}")
    except MemstoreError as error:
        yield fault(error, where)
        return
    yield from check_lookup(store, ref.id, segment.passages)
    if (low := int(segment.lengths.min())) < 0 or (high := int(segment.lengths.max())) > seal.max_tokens:
        message = f"lengths in {where} are {low} to {high}, outside [0, {seal.max_tokens}]"
        yield fault(CountMismatch(message), where)


def check_dead(store: Path, ref: SegmentRef) -> Iterator[Fault]:
    """The list of a segment's dead rows, if it has one."""
    try:
        read_dead(store, ref)
    except MemstoreError as error:
        yield fault(error, f"deletions/{ref.id}")


def check_lookup(store: Path, segment_id: str, passages: PassageReader) -> Iterator[Fault]:
    """The tables that changes look documents up in, if they were made: they must be what the passages give."""
    where = lookups_path(store, segment_id).relative_to(store).as_posix()
    try:
        found, made = read_lookup(store, segment_id, len(passages)), derive_lookup(passages)
        if not np.array_equal(found.documents, made.documents) or not np.array_equal(found.words, made.words):
            yield fault(CountMismatch(f"{where} is of other passages; remove it, and it is made again"), where)
    except FileNotFoundError:
        return
    except MemstoreError as error:
        yield fault(error, where)


def check_ids(store: Path, generation: Generation, *, sound: bool) -> Iterator[Fault]:
    """The id index: its checksum, and, when the segments are `sound`, that it fits them with no id twice."""
    path = ids_path(store, generation.number)
    where = path.relative_to(store).as_posix()
    if generation.ids is None:
        yield fault(MissingData(f"generation {generation.number} was never published: no id index"), where)
        return
    try:
        if hash_file(path) != generation.ids.sha256:
            yield fault(ChecksumMismatch(f"{where} is not what its generation was made with"), where)
            return
        covered = generation.passages if generation.ids_passages is None else generation.ids_passages
        index: Uint64 = open_npy(path, dtype="uint64", shape=(2, covered))
        if not sound:
            return
        readers = [PassageReader(segment_path(store, s.id), count=s.passages) for s in generation.segments]
        whole = sort_hashes([r.hashes for r in readers])
        if not np.array_equal(index, whole[:, whole[1] < covered]):
            yield fault(CountMismatch(f"{where} does not index exactly this generation's passages"), where)
        dead = np.zeros(generation.passages, dtype=bool)
        dead[Store(store, generation).dead_rows()] = True
        if (twice := repeated_id(whole, readers, dead)) is not None:
            yield fault(CountMismatch(f"passage id {twice!r} is in more than one row"), where)
    except FileNotFoundError:
        yield fault(MissingData(f"{where} is missing"), where)
    except MemstoreError as error:
        yield fault(error, where)


def check_index(
    store: Path, number: int, index: IndexRef, *, hashes: dict[tuple[int, int], str] | None = None
) -> Iterator[Fault]:
    """The files of the search indexes; lock files, which opening an index leaves, are of no account.

    `hashes` remembers those that were read, by device and inode: generations share most of their files.
    """
    folder = index_path(store, number)
    where = folder.relative_to(store).as_posix()
    try:
        found = {name for name in list_files(folder) if not name.endswith(".lock")}
    except StoreUnreadable as closed:
        yield fault(closed, where)
        return
    for name in sorted(found.union(n for n in index.files if not is_foreign(n))):
        if name not in found:
            yield fault(MissingData(f"{where}/{name} is missing"), f"{where}/{name}")
            continue
        if name not in index.files:
            yield fault(IndexCorrupt(f"{where}/{name} is no file of this index"), f"{where}/{name}")
            continue
        error = _difference(folder / name, f"{where}/{name}", sha256=index.files[name], hashes=hashes)
        if error is not None:
            yield fault(error, f"{where}/{name}")


def _check_files(folder: Path, where: str, seal: Seal) -> Iterator[Fault]:
    """Each file that SEALED names, and any that it does not."""
    try:
        found = set(list_files(folder)) - {SEALED}
    except StoreUnreadable as closed:
        yield fault(closed, where)
        return
    for name in sorted(found.union(n for n in seal.files if not is_foreign(n))):  # a build may have sealed such a file
        place, sealed = f"{where}/{name}", seal.files.get(name)
        if name not in found:
            yield fault(MissingData(f"{place} is missing"), place)
        elif sealed is None:
            yield fault(CountMismatch(f"{place} is no file of this segment"), place)
        elif (error := _difference(folder / name, place, sha256=sealed.sha256, size=sealed.size)) is not None:
            yield fault(error, place)


def _difference(
    path: Path, place: str, *, sha256: str, size: int | None = None, hashes: dict[tuple[int, int], str] | None = None
) -> MemstoreError | None:
    """What is wrong with a file that a manifest names; None if it is as it was written."""
    try:
        stat = path.stat()
        if size is not None and stat.st_size != size:
            return ChecksumMismatch(f"{place} has {stat.st_size} bytes instead of {size}")
        known, key = {} if hashes is None else hashes, (stat.st_dev, stat.st_ino)
        if key not in known:
            known[key] = hash_file(path)
        if known[key] != sha256:
            return ChecksumMismatch(f"{place} is not what was written: its sha256 is another")
    except FileNotFoundError:
        return MissingData(f"{place} is a link to nothing")
    except OSError as error:
        return StoreUnreadable(f"{place} cannot be read: {error}")
    return None


def fault(error: MemstoreError, where: str) -> Fault:
    """What is wrong, as the error that a read would raise says it."""
    return Fault(type(error).__name__, where, str(error))
