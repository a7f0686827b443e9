"""`shards.json`: which stores make up a store in shards, and which of them a document belongs to. Knows no segments.

    root/
      shards.json               written last: all shards are complete
      shard-000/                an ordinary store each
      shard-000.places.npy      for each of its rows, its place in the collection as it was built

The places give passages of one score the order that they have in a store of all: that of the corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memstore.errors import ChecksumMismatch, MissingData, StoreFormatError, StoreInShards
from memstore.files import replacing
from memstore.fingerprint import Fingerprint
from memstore.store.format import hash_file, read_bytes
from memstore.store.ids import open_npy
from memstore.store.manifest import FORMAT_VERSION, build_value, parse, render, versioned

SHARDS = "shards.json"
RULE = "blake2b-64 of the document id, little-endian, modulo the number of shards"
MOST = 1000  # shards: their names have three digits

_NAMED = 5  # documents in a message

Places = npt.NDArray[np.uint64]


def shard_of(document_id: str, count: int) -> int:
    """The number of the shard that a document belongs to, of so many: `RULE`."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % count


def shard_name(number: int) -> str:
    """The folder of a shard, below the root."""
    return f"shard-{number:03d}"


def places_path(root: Path, name: str) -> Path:
    """Where the places of a shard's rows are."""
    return root / f"{name}.places.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef:
    """A shard as it was built.

    Attributes:
        name: its folder.
        segments: ids of its segments; its rows have the places that are written down as long as it begins with these.
        passages: its rows.
        places: sha256 of the file with their places.
    """

    name: str
    segments: tuple[str, ...]
    passages: int
    places: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardList:
    """What `shards.json` says. `rule` says in words which shard a document belongs to; there is one, `RULE`."""

    format_version: int = FORMAT_VERSION
    rule: str = RULE
    fingerprint: Fingerprint
    shards: tuple[ShardRef, ...]

    @property
    def names(self) -> list[str]:
        """The shards' folders, in order."""
        return [shard.name for shard in self.shards]

    def of(self, document_id: str) -> str:
        """The folder of the shard that a document belongs to."""
        return self.shards[shard_of(document_id, len(self.shards))].name

    def write(self, root: Path) -> None:
        """Write it, whole or not at all."""
        with replacing(root / SHARDS) as part:
            part.write_bytes(render(dataclasses.asdict(self)))

    @classmethod
    def read(cls, root: Path) -> Self:
        """The list of the store in shards at `root`.

        Raises:
            MissingData: there is none.
            StoreUnreadable, ChecksumMismatch, StoreFormatError: it is closed to us, damaged, or not understood.
        """
        path = root / SHARDS
        try:
            data = read_bytes(path)
        except FileNotFoundError:
            raise MissingData(f"{path} is missing") from None
        values = versioned(parse(data, path=path), path)
        found = build_value(cls, values, path)
        raw: Any = found.shards  # as JSON has them
        shards = tuple(
            build_value(ShardRef, one | {"segments": tuple(one["segments"])} if "segments" in one else one, path)
            for one in raw
        )
        if found.rule != RULE or not shards:
            raise StoreFormatError(
                f"{path} names {len(shards)} shards and the rule {found.rule!r}; this memstore knows the rule {RULE!r}"
            )
        return dataclasses.replace(found, shards=shards, fingerprint=build_value(Fingerprint, found.fingerprint, path))


def is_sharded(path: Path) -> bool:
    """Whether a store in shards is there. What cannot be looked at, opening the store reports."""
    try:
        return (path / SHARDS).is_file()
    except OSError:
        return False


def write_places(root: Path, name: str, places: Places) -> str:
    """Write the places `(rows,)` of a shard's rows, ascending. Returns the file's sha256."""
    path = places_path(root, name)
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, places.astype("<u8"))
    return hash_file(path)


def read_places(root: Path, ref: ShardRef) -> Places:
    """The places `(rows,)` of a shard's rows, mapped into memory.

    Raises:
        MissingData, StoreUnreadable, ChecksumMismatch: the file is absent, closed to us, or damaged.
    """
    return open_npy(places_path(root, ref.name), dtype="uint64", shape=(ref.passages,))


def check_places(root: Path, ref: ShardRef) -> None:
    """Hold the places to their checksum; for `verify`.

    Raises:
        MissingData, ChecksumMismatch: the file is absent, or damaged.
    """
    path = places_path(root, ref.name)
    try:
        found = hash_file(path)
    except FileNotFoundError:
        raise MissingData(f"{path} is missing") from None
    if found != ref.places:
        raise ChecksumMismatch(f"{path} is damaged: its sha256 is another than {SHARDS} says")


def refuse_shards(path: Path, documents: Sequence[str] = ()) -> None:
    """Refuse a store in shards where one of them is wanted.

    Args:
        path: of a store.
        documents: ids of those that are asked for, whose shards are named.

    Raises:
        StoreInShards: it is one.
    """
    if not is_sharded(path):
        return
    shards = ShardList.read(path)
    if documents:
        which = ", ".join(f"{i!r} belongs to {path / shards.of(i)}" for i in documents[:_NAMED])
        which += f", and so on ({len(documents)} documents)" if len(documents) > _NAMED else ""
    else:
        which = f"there are {len(shards.shards)}, {path / shards.names[0]} the first"
    raise StoreInShards(f"{path} is a store in shards, and this works on one of them: name that. Here {which}")
