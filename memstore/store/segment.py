"""One sealed segment, opened for reading: its manifests checked, its arrays and passages by local row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from memstore.codec import ArraySpec, Codec
from memstore.errors import ChecksumMismatch, CountMismatch, MissingData, SegmentNotSealed
from memstore.store import arrays
from memstore.store.codec_tables import open_codec, ref_values, segment_codec
from memstore.store.format import (
    MEMORY,
    SEALED,
    Seal,
    SegmentRef,
    hash_bytes,
    is_folder,
    read_bytes,
    read_sealed_file,
    segment_path,
)
from memstore.store.large import LargeFile, opener
from memstore.store.mirror import mirror_at
from memstore.store.shards import ShardCache, ShardedArray
from memstore.store.texts import PassageReader

ShardReader = Literal["direct", "tensorstore"]


class ChunkSource(Protocol):
    """An array of one chunk per passage. Two implementations give the same values and errors."""

    def begin(self, rows: npt.NDArray[np.int64]) -> Any:
        """Begin to fetch the chunks of rows."""
        ...

    def finish(self, begun: Any) -> Iterator[npt.NDArray[Any]]:
        """The chunk of each row.

        Raises:
            MissingData, ChecksumMismatch, StoreUnreadable: one is absent, damaged, or not readable; here or
                in `begin`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """What the segments of one store share: what reads memories, the caches, and codecs by their attributes."""

    shard_reader: ShardReader = "direct"
    context: Any = field(default_factory=arrays.new_context)
    shards: ShardCache = field(default_factory=ShardCache)
    codecs: dict[str, Codec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What `open_segment` returns.

    Attributes:
        lengths: (P,) int32, tokens per passage.
        memory: the arrays that hold a memory, by name: the codec's, and token_ids.
        specs: those arrays' type and shape per passage.
    """

    path: Path
    seal: Seal
    codec: Codec
    passages: PassageReader
    lengths: npt.NDArray[np.int32]
    memory: Mapping[str, ChunkSource]
    specs: Mapping[str, ArraySpec]
    embeddings: Any

    def read_embeddings(self, first: int, last: int) -> npt.NDArray[np.float32]:
        """Vectors (n, dim) of some rows; see `memstore.store.arrays.result` for errors."""
        if (mirror := mirror_at(self.path.parent.parent)) is not None:
            mirror.bring_vectors(self.path)
        return arrays.result(self.embeddings[first:last].read(), self.path / MEMORY / "embeddings")


def open_segment(store: Path, ref: SegmentRef, readers: Readers) -> Segment:
    """Open a segment, checking the manifests, the arrays' metadata and the lengths; reads no memories.

    Raises:
        SegmentNotSealed: it has no SEALED file.
        MissingData: its folder, or a file of it, is absent.
        ChecksumMismatch, CountMismatch: a file is not what was sealed.
        StoreFormatError: another format version, or an unknown codec.
        CodecMismatch: the tables of its codec are not those that it was written with.
    """
    folder = segment_path(store, ref.id)
    seal = read_seal(folder, ref)
    codec = _codec(store, folder, seal, readers)
    specs = {spec.name: spec for spec in codec.arrays(d_model=seal.d_model, max_tokens=seal.max_tokens)}
    opened, metadata = {}, {}
    for name in [*specs, "token_ids", "lengths", *(["embeddings"] if seal.embedding_dim else [])]:
        data = read_sealed_file(folder, seal, f"{MEMORY}/{name}/zarr.json")
        opened[name] = arrays.open_array(folder / MEMORY / name, data, readers.context)
        metadata[name] = json.loads(data)
    specs["token_ids"] = ArraySpec("token_ids", metadata["token_ids"]["data_type"], (seal.max_tokens,))
    lengths = arrays.result(opened["lengths"].read(), folder / MEMORY / "lengths")
    if len(lengths) != ref.passages or int(lengths.sum(dtype=np.int64)) != ref.tokens:
        raise CountMismatch(
            f"{folder}: the lengths are of {len(lengths)} passages and {lengths.sum(dtype=np.int64)} tokens, "
            f"the manifest says {ref.passages} and {ref.tokens}"
        )
    large = opener(folder)
    return Segment(
        path=folder,
        seal=seal,
        codec=codec,
        passages=PassageReader(folder, count=ref.passages),
        lengths=lengths,
        memory={n: _source(folder / MEMORY / n, spec, seal, readers, opened[n], large) for n, spec in specs.items()},
        specs=specs,
        embeddings=opened.get("embeddings"),
    )


def _codec(store: Path, folder: Path, seal: Seal, readers: Readers) -> Codec:
    """The segment's own codec; the same object for segments that were written alike."""
    attributes, ref = segment_codec(folder, seal)
    key = json.dumps([attributes, None if ref is None else ref_values(ref)], sort_keys=True)
    if key not in readers.codecs:
        readers.codecs[key] = open_codec(store, attributes, ref)
    return readers.codecs[key]


def _source(
    path: Path, spec: ArraySpec, seal: Seal, readers: Readers, array: Any, large: Callable[[Path], LargeFile]
) -> ChunkSource:
    if readers.shard_reader == "tensorstore":
        return arrays.TensorStoreArray(path, array)
    return ShardedArray(str(path), spec.dtype, spec.shape, seal.shard_passages, readers.shards, large)


def read_seal(folder: Path, ref: SegmentRef) -> Seal:
    """A segment's SEALED file, which must be the one that `ref` names.

    Raises:
        MissingData, SegmentNotSealed, StoreUnreadable: no folder; no SEALED in it; closed to us.
        ChecksumMismatch, CountMismatch, StoreFormatError: damaged, another one, or of another format version.
    """
    path = folder / SEALED
    if not is_folder(folder):
        raise MissingData(f"segment {ref.id!r} is missing: there is no folder {folder}")
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise SegmentNotSealed(f"{folder} has no {SEALED} file: it was never finished, or not copied whole") from None
    seal = Seal.from_bytes(data, path=path)
    if hash_bytes(data) != ref.seal:
        raise ChecksumMismatch(f"{path} is not the one that its generation was made with")
    if (seal.segment, seal.passages, seal.tokens) != (ref.id, ref.passages, ref.tokens):
        raise CountMismatch(
            f"{path} says {seal.passages} passages and {seal.tokens} tokens of segment {seal.segment!r}; "
            f"its generation says {ref.passages} and {ref.tokens} of {ref.id!r}"
        )
    return seal
