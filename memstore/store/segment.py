"""One sealed segment, opened for reading: its manifests checked, its arrays and passages by local row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memstore.errors import ChecksumMismatch, CountMismatch, MissingData, SegmentNotSealed
from memstore.store import arrays
from memstore.store.codec import Codec, codec_from
from memstore.store.format import MEMORY, SEALED, Seal, SegmentRef, hash_bytes, read_bytes, segment_path
from memstore.store.texts import PassageReader


@dataclass(frozen=True, slots=True)
class Segment:
    """What `open_segment` returns.

    Attributes:
        lengths: (P,) int32, tokens per passage.
        arrays: TensorStores by name: the codec's, and token_ids; and embeddings, if the segment has them.
    """

    path: Path
    seal: Seal
    codec: Codec
    passages: PassageReader
    lengths: npt.NDArray[np.int32]
    arrays: dict[str, Any]

    def names(self) -> tuple[str, ...]:
        """The arrays that hold a memory."""
        specs = self.codec.arrays(d_model=self.seal.d_model, max_tokens=self.seal.max_tokens)
        return (*(spec.name for spec in specs), "token_ids")

    def read(self, name: str, selection: Any) -> Any:
        """Begin to read a part of an array; `result` waits for it."""
        return self.arrays[name][selection].read()

    def result(self, name: str, future: Any) -> npt.NDArray[Any]:
        """Wait for what `read` began; see `memstore.store.arrays.result` for errors."""
        return arrays.result(future, self.path / MEMORY / name)


def open_segment(store: Path, ref: SegmentRef, context: Any) -> Segment:
    """Open a segment, checking the manifests, the arrays' metadata and the lengths; reads no memories.

    Raises:
        SegmentNotSealed: it has no SEALED file.
        MissingData: its folder, or a file of it, is absent.
        ChecksumMismatch, CountMismatch: a file is not what was sealed.
        StoreFormatError: another format version, or an unknown codec.
    """
    folder = segment_path(store, ref.id)
    seal = read_seal(folder, ref)
    group = json.loads(_read_checked(folder, seal, f"{MEMORY}/zarr.json"))
    codec = codec_from(group["attributes"]["codec"])
    specs = codec.arrays(d_model=seal.d_model, max_tokens=seal.max_tokens)
    names = [
        *(spec.name for spec in specs),
        "token_ids",
        "lengths",
        *(["embeddings"] * bool(seal.embedding_dim)),
    ]
    opened: dict[str, Any] = {}
    for name in names:
        metadata = _read_checked(folder, seal, f"{MEMORY}/{name}/zarr.json")
        opened[name] = arrays.open_array(folder / MEMORY / name, metadata, context)
    lengths = arrays.result(opened["lengths"].read(), folder / MEMORY / "lengths")
    if len(lengths) != ref.passages or int(lengths.sum(dtype=np.int64)) != ref.tokens:
        raise CountMismatch(
            f"{folder}: the lengths are of {len(lengths)} passages and {lengths.sum(dtype=np.int64)} tokens, "
            f"the manifest says {ref.passages} and {ref.tokens}"
        )
    return Segment(folder, seal, codec, PassageReader(folder, count=ref.passages), lengths, opened)


def read_seal(folder: Path, ref: SegmentRef) -> Seal:
    """A segment's SEALED file, which must be the one that `ref` names.

    Raises:
        MissingData, SegmentNotSealed: no folder; no SEALED in it.
        ChecksumMismatch, CountMismatch, StoreFormatError: damaged, another one, or of another format version.
    """
    path = folder / SEALED
    if not folder.is_dir():
        raise MissingData(f"segment {ref.id!r} is missing: there is no folder {folder}")
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise SegmentNotSealed(
            f"{folder} has no {SEALED} file: it was never finished, or not copied whole"
        ) from None
    seal = Seal.from_bytes(data, path=path)
    if hash_bytes(data) != ref.seal:
        raise ChecksumMismatch(f"{path} is not the one that its generation was made with")
    if (seal.segment, seal.passages, seal.tokens) != (ref.id, ref.passages, ref.tokens):
        raise CountMismatch(
            f"{path} says {seal.passages} passages and {seal.tokens} tokens of segment {seal.segment!r}; "
            f"its generation says {ref.passages} and {ref.tokens} of {ref.id!r}"
        )
    return seal


def _read_checked(folder: Path, seal: Seal, name: str) -> bytes:
    """A small file's bytes, held against SEALED."""
    try:
        data = read_bytes(folder / name)
    except FileNotFoundError:
        raise MissingData(f"{folder / name} is missing. Run `memstore verify`.") from None
    if name not in seal.files or hash_bytes(data) != seal.files[name].sha256:
        raise ChecksumMismatch(f"{folder / name} is damaged: not what was sealed. Run `memstore verify`.")
    return data
