"""Writing segments, so that what exists under its final name is complete and on the disk.

The same input gives the same bytes. Knows shapes and codecs; what made the states is the caller's business.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.codec import Codec
from memstore.errors import ConfigError, CountMismatch, InvalidMemory
from memstore.files import sync
from memstore.passage import Passage
from memstore.store import arrays
from memstore.store.arrays import ArrayLayout
from memstore.store.codec_tables import group_attributes
from memstore.store.duplicates import Duplicate, write_duplicates
from memstore.store.format import (
    MEMORY,
    SEALED,
    TEMPORARY,
    Seal,
    SegmentRef,
    TablesRef,
    file_ref,
    list_files,
    segment_path,
    segment_ref,
)
from memstore.store.publish import sync_tree
from memstore.store.texts import PassageWriter

_ENCODE_TOKENS = 8192  # tokens encoded at a time: bounds the codec's temporaries


class SegmentWriter:
    """Writes one segment, shard by shard, into a temporary folder; `seal` gives it its name.

    Memory: `write_shard` needs the raw encoded shard, `shard_passages * max_tokens * (bytes per token)`, up
    to three times (our padded copy, TensorStore's compressed one), besides what the caller passes in.

    A folder that a killed process left is discarded. Usable as a context manager, which discards the
    unfinished segment when an error passes through.
    """

    def __init__(
        self,
        store: Path,
        *,
        segment_id: str,
        codec: Codec,
        d_model: int,
        max_tokens: int,
        vocab_size: int,
        num_passages: int,
        shard_passages: int,
        embedding_dim: int = 0,
        tables: TablesRef | None = None,
    ) -> None:
        """Begin a segment of exactly `num_passages` passages of at most `max_tokens` tokens.

        `shard_passages` passages make one shard (one file per array); `embedding_dim` is the width of the
        passages' vectors for dense retrieval, 0 for none; `tables` what `write_tables` made of the codec's.

        Raises:
            ConfigError: a number is out of range, a segment of that id is sealed already, or the codec was not fitted.
        """
        positive = {"d_model": d_model, "max_tokens": max_tokens, "vocab_size": vocab_size,
                    "num_passages": num_passages, "shard_passages": shard_passages}  # fmt: skip
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"{name} of a segment must be at least 1, not {value}")
        self._final = segment_path(store, segment_id)
        if self._final.exists():
            raise ConfigError(f"{self._final} exists already, and segments never change; write another id")
        self._codec, self._d_model, self._max_tokens = codec, d_model, max_tokens
        self._vocab_size, self._embedding_dim = vocab_size, embedding_dim
        self._num_passages, self._shard_passages = num_passages, min(shard_passages, num_passages)
        self._token_dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self._rows = self._tokens = 0
        self._folder = self._final.with_name(TEMPORARY + segment_id)
        shutil.rmtree(self._folder, ignore_errors=True)
        arrays.create_group(self._folder / MEMORY, group_attributes(codec, tables))
        self._arrays = {
            name: arrays.create_array(self._folder / MEMORY / name, layout) for name, layout in self._layouts()
        }
        self._passages = PassageWriter(self._folder)

    def _layouts(self) -> Iterator[tuple[str, ArrayLayout]]:
        """Every array: what a load reads is one chunk per passage, the rest one chunk per shard."""
        count, shard = self._num_passages, self._shard_passages
        for spec in self._codec.arrays(d_model=self._d_model, max_tokens=self._max_tokens):
            yield spec.name, ArrayLayout(dtype=spec.dtype, shape=(count, *spec.shape), chunk=1, shard=shard)
        yield (
            "token_ids",
            ArrayLayout(dtype=self._token_dtype, shape=(count, self._max_tokens), chunk=1, shard=shard),
        )
        yield "lengths", ArrayLayout(dtype="int32", shape=(count,), chunk=shard)
        if self._embedding_dim:
            shape = (count, self._embedding_dim)
            yield "embeddings", ArrayLayout(dtype="float32", shape=shape, chunk=shard)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Remove what was written of an unsealed segment."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def write_shard(
        self,
        passages: Sequence[Passage],
        token_ids: Sequence[npt.NDArray[Any]],
        states: Sequence[torch.Tensor],
        embeddings: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Write the next `shard_passages` passages, or what is left of them.

        Args:
            passages: in row order.
            token_ids: one integer array (len_i,) per passage; a length of 0 is allowed.
            states: one tensor (len_i, D) per passage.
            embeddings: (n, embedding_dim), if the segment has them.

        Raises:
            CountMismatch: not exactly the next shard, or the arguments differ in length.
            InvalidMemory: a passage's arrays are misshapen, too long, not finite, or outside the vocabulary.
        """
        self._check_counts(passages, token_ids, states, embeddings)
        for passage, ids, memory in zip(passages, token_ids, states, strict=True):
            self._check_passage(passage, ids, memory)
        lengths = np.array([len(ids) for ids in token_ids], dtype=np.int32)
        values = {"token_ids": _pad(token_ids, dtype=self._token_dtype, length=self._max_tokens)}
        values |= self._encode(states, token_ids, passages)
        if embeddings is not None:
            values["embeddings"] = np.ascontiguousarray(embeddings, dtype=np.float32)
        self._write(passages, lengths, values)

    def copy_shard(
        self, passages: Sequence[Passage], lengths: npt.NDArray[np.int32], values: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Write the next shard from what another segment of the same kind holds.

        Args:
            passages: n of them, in row order.
            lengths: (n,) tokens of each.
            values: all other arrays as they are on disk, (n, ...) each.

        Raises:
            CountMismatch: not exactly the next shard.
            InvalidMemory: not exactly the arrays of this segment.
        """
        expected = min(self._shard_passages, self._num_passages - self._rows)
        if {len(passages), len(lengths), *map(len, values.values())} != {expected}:
            raise CountMismatch(f"the next shard has {expected} passages, but {len(passages)} were given")
        if values.keys() != self._arrays.keys() - {"lengths"}:
            raise InvalidMemory(f"arrays {sorted(values)} were given for those of {sorted(self._arrays)}")
        self._write(passages, lengths, values)

    def _write(
        self, passages: Sequence[Passage], lengths: npt.NDArray[np.int32], values: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        named = {**values, "lengths": lengths}
        pending = [arrays.write(self._arrays[k], start=self._rows, values=v) for k, v in named.items()]
        arrays.written(pending)
        self._passages.extend(passages)
        self._rows += len(passages)
        self._tokens += int(lengths.sum())

    def _check_counts(
        self,
        passages: Sequence[Passage],
        token_ids: Sequence[npt.NDArray[Any]],
        states: Sequence[torch.Tensor],
        embeddings: npt.NDArray[np.float32] | None,
    ) -> None:
        expected = min(self._shard_passages, self._num_passages - self._rows)
        counts = {"passages": len(passages), "token_ids": len(token_ids), "states": len(states)}
        if embeddings is not None:
            counts["embeddings"] = len(embeddings)
        for name, count in counts.items():
            if count != expected or not expected:
                raise CountMismatch(f"the next shard has {expected} passages, but {count} {name} were given")
        shape = (expected, self._embedding_dim) if self._embedding_dim else None
        if shape != (None if embeddings is None else embeddings.shape):
            given = None if embeddings is None else embeddings.shape
            raise InvalidMemory(f"embeddings must have shape {shape}, not {given}")
        if embeddings is not None and not np.isfinite(embeddings).all():
            raise InvalidMemory("embeddings are not finite")

    def _check_passage(self, passage: Passage, ids: npt.NDArray[Any], memory: torch.Tensor) -> None:
        if len(ids) > self._max_tokens:
            raise InvalidMemory(f"passage {passage.id!r} has {len(ids)} tokens, more than {self._max_tokens}")
        if tuple(memory.shape) != (len(ids), self._d_model):
            raise InvalidMemory(
                f"passage {passage.id!r}: states are {tuple(memory.shape)}, not {(len(ids), self._d_model)}"
            )
        if len(ids) and not 0 <= int(np.min(ids)) <= int(np.max(ids)) < self._vocab_size:
            raise InvalidMemory(f"passage {passage.id!r}: a token id is outside [0, {self._vocab_size})")

    def _encode(
        self, states: Sequence[torch.Tensor], token_ids: Sequence[npt.NDArray[Any]], passages: Sequence[Passage]
    ) -> dict[str, npt.NDArray[Any]]:
        """Encoded and zero-padded to (n, max_tokens, ...), some passages at a time."""
        specs = self._codec.arrays(d_model=self._d_model, max_tokens=self._max_tokens)
        padded = {s.name: np.zeros((len(states), *s.shape), dtype=s.dtype) for s in specs}
        step = max(1, _ENCODE_TOKENS // self._max_tokens)
        for first in range(0, len(states), step):
            group = states[first : first + step]
            tokens = torch.from_numpy(np.concatenate(token_ids[first : first + step]).astype(np.int64))  # (T,)
            try:
                encoded = self._codec.encode(torch.cat(list(group)), tokens)  # (T, ...)
            except InvalidMemory as error:
                names = f"{passages[first].id!r} to {passages[first + len(group) - 1].id!r}"
                raise InvalidMemory(f"passages {names}: {error}") from None
            ends = np.cumsum([len(s) for s in group])
            for name, values in encoded.items():
                for row, part in enumerate(np.split(values, ends[:-1])):
                    padded[name][first + row, : len(part)] = part
        return padded

    def seal(self, duplicates: Sequence[Duplicate] = ()) -> SegmentRef:
        """Checksum and fsync every file, write SEALED, and give the folder its name.

        `duplicates` are records of passages that the segment leaves out.

        Raises:
            CountMismatch: fewer passages were written than announced.
        """
        if self._rows != self._num_passages:
            raise CountMismatch(f"the segment has {self._rows} of {self._num_passages} passages; write the rest first")
        self._passages.close()
        write_duplicates(self._folder, duplicates)
        names = list_files(self._folder)
        seal = Seal(
            segment=self._final.name,
            codec=self._codec.name,
            d_model=self._d_model,
            max_tokens=self._max_tokens,
            shard_passages=self._shard_passages,
            embedding_dim=self._embedding_dim,
            passages=self._num_passages,
            tokens=self._tokens,
            files={name: file_ref(self._folder / name) for name in names},
        )
        (self._folder / SEALED).write_bytes(seal.to_bytes())
        sync_tree(self._folder)
        self._folder.rename(self._final)
        sync(self._final.parent)
        return segment_ref(self._final, seal)


def _pad(parts: Sequence[npt.NDArray[Any]], *, dtype: npt.DTypeLike, length: int) -> npt.NDArray[Any]:
    """Ragged (len_i,) to zero-padded (n, length)."""
    padded = np.zeros((len(parts), length), dtype=dtype)
    for row, part in enumerate(parts):
        padded[row, : len(part)] = part
    return padded
