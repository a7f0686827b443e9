"""How the files of a store are called in object storage, and which of them a reader needs whole. Knows names only.

An object's name has the checksum of what is in it, or of the SEALED file above it, so that two writers never write
different bytes under one name, and writing a file twice does no harm. CURRENT alone is replaced, on a condition. The
folder of a segment keeps its inner names: a Zarr reader opens `segments/<id>-<checksum>/memory.zarr` in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memstore.store.format import (
    DUPLICATES,
    MEMORY,
    PASSAGES,
    SEALED,
    Generation,
    Seal,
    SegmentRef,
    codec_path,
    deletions_path,
    generation_path,
    ids_path,
    index_path,
    lookups_path,
    segment_path,
)

_DIGITS = 16  # of a checksum in a name
_WHOLE_ARRAYS = ("lengths",)
_HERE = Path()


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file of a store: its path in a folder, its name in object storage, and what is known of its bytes.

    `size` is None where no manifest says it; `sha256` is None for lookups, which carry their own.
    """

    path: str
    key: str
    size: int | None
    sha256: str | None


def manifest(number: int, sha256: str) -> StoreFile:
    """A generation's manifest."""
    return _named(generation_path(_HERE, number), sha256, None)


def files_of(generation: Generation) -> Iterator[StoreFile]:
    """All files of a generation but its manifest and those of its segments."""
    if generation.ids is not None:
        yield _named(ids_path(_HERE, generation.number), generation.ids.sha256, generation.ids.size)
    for tables in generation.tables:
        yield _named(codec_path(_HERE, tables.file), tables.sha256, tables.size)
    for ref in generation.segments:
        if ref.dead is not None:
            yield _named(deletions_path(_HERE, ref.id, ref.dead.number), ref.dead.sha256, None)
    if generation.index is not None:
        folder = index_path(_HERE, generation.number)
        for name, sha256 in generation.index.files.items():
            # Generations share most of these: the number of the generation is left out.
            key = f"index/{sha256[:_DIGITS]}-{Path(name).name}"
            yield StoreFile((folder / name).as_posix(), key, None, sha256)


def sealed(ref: SegmentRef) -> StoreFile:
    """A segment's SEALED file."""
    return _inside(ref, SEALED, None, ref.seal)


def segment_files(ref: SegmentRef, seal: Seal) -> Iterator[StoreFile]:
    """All files of a segment but SEALED."""
    for name, file in seal.files.items():
        yield _inside(ref, name, file.size, file.sha256)


def lookup(ref: SegmentRef) -> StoreFile:
    """The tables that changes look documents up in."""
    path = lookups_path(_HERE, ref.id)
    return StoreFile(path.as_posix(), f"lookups/{path.stem}-{ref.seal[:_DIGITS]}.npy", None, None)


def is_large(name: str) -> bool:
    """Whether a file of a segment is read in place, by ranges: memories, vectors and texts."""
    if name in (PASSAGES, DUPLICATES):
        return name == PASSAGES
    array = Path(name).parts
    return len(array) > 3 and array[0] == MEMORY and array[2] == "c" and array[1] not in _WHOLE_ARRAYS


def is_shard(name: str) -> bool:
    """Whether a large file is a shard with an index at its end."""
    return is_large(name) and name != PASSAGES and not name.startswith(f"{MEMORY}/embeddings/")


def inside(file: StoreFile) -> str:
    """A segment's file by its name within the segment."""
    return "/".join(Path(file.path).parts[2:])


def work_of(key: str) -> str:
    """What the objects of one writer's work have in common: of segments what their ids begin with, else the name.

    >>> work_of("segments/1a2b3c4d-00007-0123456789abcdef/SEALED"), work_of("CURRENT")
    ('segments/1a2b3c4d', 'CURRENT')
    """
    folder, _, rest = key.partition("/")
    return f"{folder}/{rest.split('/')[0].rsplit('-', 2)[0]}" if folder == "segments" else key


def segment_key(segment_id: str, seal: str, name: str) -> str:
    """The name of a file of a segment, whose SEALED has that sha256."""
    return f"{segment_path(_HERE, segment_id).as_posix()}-{seal[:_DIGITS]}/{name}"


def index_bytes(chunks: int) -> int:
    """Bytes of the index at the end of a shard of so many chunks: an offset and a size each, and a crc32c."""
    return 16 * chunks + 4


def _inside(ref: SegmentRef, name: str, size: int | None, sha256: str) -> StoreFile:
    path = f"{segment_path(_HERE, ref.id).as_posix()}/{name}"
    return StoreFile(path, segment_key(ref.id, ref.seal, name), size, sha256)


def _named(path: Path, sha256: str, size: int | None) -> StoreFile:
    stem, _, rest = path.name.partition(".")
    if path.parent.name == "deletions":
        stem, rest = path.stem, "npy"
    key = path.with_name(f"{stem}-{sha256[:_DIGITS]}.{rest}")
    return StoreFile(path.as_posix(), key.as_posix(), size, sha256)
