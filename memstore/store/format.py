"""What a store is on disk: names of files, and its manifests as typed values. Knows no arrays and no model.

A manifest (CURRENT, a generation, a SEALED file) is JSON in exactly one rendering that carries a sha256 of
itself, so that any flipped byte in it is noticed when it is read. They refer to each other downwards: CURRENT
holds the sha256 of a generation, a generation that of each SEALED file and index file, and SEALED that of
every file in its segment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from memstore.errors import ChecksumMismatch, ConfigError, MissingData, StoreUnreadable
from memstore.fingerprint import Fingerprint
from memstore.metadata import Fields
from memstore.store.foreign import is_foreign
from memstore.store.manifest import FORMAT_VERSION, build_value, parse, render, versioned

SEALED = "SEALED"
CURRENT = "CURRENT"
LOCK = ".lock"  # held by who changes the store
CHANGE = ".change"  # folder of what a change has read, while it lasts
JOBS = ".jobs"  # folder of changes that a server has accepted
FOLDERS = ("segments", "generations", "index", "codecs", "deletions", "lookups")
PARTS = (CURRENT, *FOLDERS)  # all that a finished store is made of
MEMORY = "memory.zarr"
PASSAGES = "passages.jsonl"
OFFSETS = "passages.offsets.npy"  # (P + 1,) uint64: where each line of PASSAGES begins
CHECKSUMS = "passages.crc32.npy"  # (P,) uint32: crc32 of each line, so that a read can tell a flipped byte
DUPLICATES = "duplicates.jsonl"  # passages left out of the segment, if there are any; see `duplicates`
HASHES = "passages.hashes.npy"  # (P,) uint64: `ids.hash_id` of each passage id, in row order
TEMPORARY = ".tmp-"  # names that begin so are unfinished work of a killed process
_SEGMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BLOCK = 1 << 20  # bytes hashed at a time
# Of a generation: without them, earlier versions read it.
_ABSENT_IF_EMPTY = ("tables", "change", "ids_passages", "metadata")


def generation_path(store: Path, number: int) -> Path:
    """`generations/000007.json`."""
    return store / "generations" / f"{number:06d}.json"


def ids_path(store: Path, number: int) -> Path:
    """`generations/000007.ids.npy`: sorted id hashes and their rows, over the whole generation."""
    return store / "generations" / f"{number:06d}.ids.npy"


def segment_path(store: Path, segment_id: str) -> Path:
    """`segments/<id>`.

    Raises:
        ConfigError: the id is not a plain file name.
    """
    if not _SEGMENT_ID.fullmatch(segment_id):
        raise ConfigError(f"segment id {segment_id!r} must be letters, digits, '.', '_' and '-' only")
    return store / "segments" / segment_id


def codec_path(store: Path, name: str) -> Path:
    """`codecs/<name>.safetensors`: what a codec learned, shared by the segments that name it.

    Raises:
        ConfigError: the name is not a plain file name.
    """
    if not _SEGMENT_ID.fullmatch(name):
        raise ConfigError(f"the name of a codec's tables must be letters, digits, '.', '_' and '-' only, not {name!r}")
    return store / "codecs" / f"{name}.safetensors"


def deletions_path(store: Path, segment_id: str, number: int) -> Path:
    """`deletions/<segment>.000007.npy`: rows of a segment that are dead from that generation on."""
    return store / "deletions" / f"{segment_id}.{number:06d}.npy"


def lookups_path(store: Path, segment_id: str) -> Path:
    """`lookups/<segment>.npy`: from documents and words to rows, derived from the segment."""
    return store / "lookups" / f"{segment_id}.npy"


def index_path(store: Path, number: int) -> Path:
    """`index/000007`: the search indexes over exactly that generation."""
    return store / "index" / f"{number:06d}"


def hash_bytes(data: bytes) -> str:
    """Sha256, as hex."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """Sha256 of a file's bytes, as hex.

    Raises:
        FileNotFoundError, StoreUnreadable: there is none; the system cannot read it.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnreadable(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """A small file's bytes.

    Raises:
        FileNotFoundError, StoreUnreadable: there is none; the system cannot read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnreadable(f"{path} cannot be read: {error}") from error


def hash_folder(folder: Path) -> dict[str, str]:
    """Sha256 of every file below `folder` by relative path, lock files aside: what `IndexRef.files` holds."""
    return {name: hash_file(folder / name) for name in list_files(folder) if not name.endswith(".lock")}


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files below `folder`, sorted; none if there is no such folder. What is foreign is left out.

    Raises:
        StoreUnreadable: a folder is closed to us.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StoreUnreadable(f"{error.filename} cannot be read: {error}") from error

    walk = os.walk(folder, onerror=refuse)
    found = (Path(place, name).relative_to(folder) for place, _, names in walk for name in names)
    return sorted(path.as_posix() for path in found if not is_foreign(path))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder.

    Raises:
        StoreUnreadable: the system does not tell: a folder above is closed to us.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise StoreUnreadable(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file as it was written: size in bytes and sha256."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesRef:
    """A codec's learned tables as segments and generations name them: `file` is a name for `codec_path`."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """The content of SEALED: a segment's shape, counts, and every other file of it."""

    format_version: int = FORMAT_VERSION
    segment: str
    codec: str
    d_model: int
    max_tokens: int
    shard_passages: int
    embedding_dim: int
    passages: int
    tokens: int
    files: Mapping[str, FileRef]

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return render(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, path: Path) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            ChecksumMismatch, StoreFormatError: damaged; or of another format version, or with other keys.
        """
        values = versioned(parse(data, path=path), path)
        seal = build_value(cls, values, path)
        files = {name: build_value(FileRef, ref, path) for name, ref in seal.files.items()}
        return dataclasses.replace(seal, files=files)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRef:
    """The dead rows of a segment: a file in `deletions/`, of the generation that wrote it.

    Attributes:
        number: the generation whose change wrote the file.
        passages, tokens: dead ones.
        duplicates: dead ones of the segment's duplicates, whose places in the file come after all rows.
        sha256: of the file.
    """

    number: int
    passages: int
    tokens: int
    duplicates: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef:
    """A sealed segment as a generation names it: `seal` is SEALED's sha256, `bytes` all its files'.

    `dead` names its rows that are no longer in the collection; None if all are.
    """

    id: str
    passages: int
    tokens: int
    bytes: int
    seal: str
    dead: DeadRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRef:
    """The search indexes of a generation.

    Attributes:
        kind: "bm25", "dense" or "hybrid".
        parts: settings of each part, by the name of its folder ("lexical", "dense").
        files: sha256 by path relative to `index/<generation>`; `hash_folder` makes it.
    """

    kind: str
    parts: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A consistent, immutable view over segments. Holds no timestamps: rebuilding gives the same bytes.

    Attributes:
        codec: name of the codec of the memories.
        settings: how it was built (chunking, model name, ...), for people and for resuming.
        source: what the corpus was when it was read: how many documents, passages that were split or cut, and a hash of
            what it said. Empty in stores of earlier versions.
        segments: in row order: row r of the generation is in the first segment whose rows reach it.
        deleted: ids of passages that are still in the segments but no longer in the collection. What changes a
            store names them by row instead (`SegmentRef.dead`), as a replaced passage's id is its successor's too.
        passages, tokens: totals over the segments, deleted passages included.
        retriever: what searches it, "bm25", "dense" or "hybrid".
        made_by: versions of what wrote it (memstore, torch).
        ids: the id index beside the generation file; `publish` fills it in.
        tables: what the segments' codecs learned, each once; `publish` fills it in.
        ids_passages: rows that the id index covers, from the first on; None for all. The rest are few.
        change: what made it of an earlier generation: "kind", "of", and counts; empty for a build.
        metadata: the kinds of values of each metadata field, by its name. What only dead passages had is in it too.
    """

    format_version: int = FORMAT_VERSION
    number: int
    fingerprint: Fingerprint
    codec: str
    vocab_size: int
    settings: Mapping[str, Any]
    source: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[SegmentRef, ...]
    deleted: tuple[str, ...] = ()
    passages: int
    tokens: int
    retriever: str
    index: IndexRef | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)
    ids: FileRef | None = None
    tables: tuple[TablesRef, ...] = ()
    ids_passages: int | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    metadata: Fields = field(default_factory=dict)

    @property
    def dead(self) -> int:
        """Passages that are in the segments but no longer in the collection."""
        return len(self.deleted) + sum(s.dead.passages for s in self.segments if s.dead is not None)

    @property
    def live(self) -> int:
        """Passages in the collection."""
        return self.passages - self.dead

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        values = dataclasses.asdict(self)
        for name in _ABSENT_IF_EMPTY:
            if not values[name]:
                del values[name]
        for segment in values["segments"]:
            if segment["dead"] is None:
                del segment["dead"]
        return render(values)

    @classmethod
    def from_bytes(cls, data: bytes, *, path: Path) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            ChecksumMismatch, StoreFormatError: damaged; or of another format version, or with other keys.
        """
        values = versioned(parse(data, path=path), path)
        raw = build_value(
            cls, values | {name: tuple(values.get(name, ())) for name in ("segments", "deleted", "tables")}, path
        )
        return dataclasses.replace(
            raw,
            fingerprint=build_value(Fingerprint, raw.fingerprint, path),
            segments=tuple(_segment_ref(s, path) for s in raw.segments),
            index=None if raw.index is None else build_value(IndexRef, raw.index, path),
            ids=None if raw.ids is None else build_value(FileRef, raw.ids, path),
            tables=tuple(tables_ref(t, path) for t in raw.tables),
            metadata={name: tuple(kinds) for name, kinds in raw.metadata.items()},
        )


def _segment_ref(values: Any, path: Path) -> SegmentRef:
    ref = build_value(SegmentRef, values, path)
    return ref if ref.dead is None else dataclasses.replace(ref, dead=build_value(DeadRef, ref.dead, path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The content of CURRENT: the generation in force, and the sha256 of its file.

    `highest` is the last one that ever was, after going back; None if it is the same. Those above were never published.

    `kept`, in object storage alone: the sha256 of every generation that can be gone back to, by its number. There a
    writer that came too late leaves manifests of the same numbers.
    """

    format_version: int = FORMAT_VERSION
    generation: int
    sha256: str
    highest: int | None = None
    kept: Mapping[str, str] | None = None

    @property
    def last(self) -> int:
        """The highest number of a generation that was ever in force."""
        return self.generation if self.highest is None else self.highest

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        values = dataclasses.asdict(self)
        return render({name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_bytes(cls, data: bytes, *, path: Path) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            ChecksumMismatch, StoreFormatError: damaged; or of another format version, or with other keys.
        """
        return build_value(cls, versioned(parse(data, path=path), path), path)


def tables_ref(values: Any, path: Path) -> TablesRef:
    """The tables that a manifest at `path` names.

    Raises:
        StoreFormatError: other keys, or values of other types.
    """
    return build_value(TablesRef, values, path)


def segment_ref(folder: Path, seal: Seal) -> SegmentRef:
    """What a generation says of the segment sealed in `folder`."""
    size = sum(ref.size for ref in seal.files.values()) + (folder / SEALED).stat().st_size
    return SegmentRef(
        id=seal.segment,
        passages=seal.passages,
        tokens=seal.tokens,
        bytes=size,
        seal=hash_file(folder / SEALED),
    )


def file_ref(path: Path) -> FileRef:
    """A file's size and checksum, as it is now."""
    return FileRef(size=path.stat().st_size, sha256=hash_file(path))


def read_sealed_file(folder: Path, seal: Seal, name: str) -> bytes:
    """A small file's bytes. Raises MissingData, ChecksumMismatch or StoreUnreadable if it is not what was sealed."""
    try:
        data = read_bytes(folder / name)
    except FileNotFoundError:
        raise MissingData(f"{folder / name} is missing. Run `memstore verify`.") from None
    if name not in seal.files or hash_bytes(data) != seal.files[name].sha256:
        raise ChecksumMismatch(f"{folder / name} is damaged: not what was sealed. Run `memstore verify`.")
    return data
