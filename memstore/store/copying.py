"""New segments from passages that are in a store already: their memories copied as they are, or in another codec.

Knows arrays, codecs and lists of duplicates, and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.codec import Codec
from memstore.errors import ConfigError
from memstore.passage import Passage
from memstore.store.codec_tables import segment_codec
from memstore.store.duplicates import Duplicate
from memstore.store.format import SegmentRef, TablesRef
from memstore.store.reader import Store
from memstore.store.segment import Segment
from memstore.store.writer import SegmentWriter

_DECODED = 64  # passages decoded at a time: bounds what is not encoded


def copy_passages(
    store: Store,
    rows: Sequence[int],
    *,
    segment_id: str,
    shard_passages: int,
    passages: Sequence[Passage] | None = None,
    duplicates: Sequence[Duplicate] = (),
) -> SegmentRef:
    """Write a sealed segment of the memories of rows, in the order given. Memory: one encoded shard, a few times.

    Args:
        store: where they are now, and where the segment goes.
        rows: rows of its generation, dead ones too.
        segment_id: name of the segment.
        shard_passages: passages per shard.
        passages: what is said of each; by default what is said of the row.
        duplicates: records of what is left out of the segment.

    Raises:
        ConfigError: not all are of one codec, with the same tables; `one_codec` finds rows that are.
    """
    if one_codec(store, rows, len(rows)) != len(rows):
        raise ConfigError(f"memories of different codecs cannot be in one segment, {segment_id!r}")
    first = store.segment(int(store.locate(np.asarray(rows[:1], dtype=np.int64))[0][0]))
    with _writer(store, first, segment_id=segment_id, count=len(rows), shard=shard_passages) as writer:
        for begin in range(0, len(rows), min(shard_passages, len(rows))):
            part = rows[begin : begin + shard_passages]
            said = [store.passage_at(row) for row in part] if passages is None else passages[begin : begin + len(part)]
            writer.copy_shard(said, *_encoded(store, part))
        return writer.seal(duplicates)


def encode_again(
    store: Store,
    number: int,
    out: Path,
    *,
    segment_id: str,
    codec: Codec,
    tables: TablesRef | None,
    shard_passages: int,
    duplicates: Sequence[Duplicate] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> SegmentRef:
    """Write a sealed segment of another store: the same passages, their memories decoded and encoded by a codec.

    Memory: one encoded shard, a few times.

    Args:
        store: where the segment is.
        number: of the segment, in its generation.
        out: the other store.
        segment_id: name of the new segment.
        codec: what encodes.
        tables: what it learned, as it is in `out`.
        shard_passages: passages per shard.
        duplicates: records of what the segment leaves out.
        advance: hears of passages encoded.
    """
    source = store.segment(number)
    start, count = sum(ref.passages for ref in store.generation.segments[:number]), len(source.lengths)
    with _writer(
        store, source, out=out, segment_id=segment_id, count=count, shard=shard_passages, codec=(codec, tables)
    ) as writer:
        for begin in range(0, count, min(shard_passages, count)):
            rows = range(start + begin, start + min(begin + shard_passages, count))
            pieces = []
            for first in range(0, len(rows), _DECODED):
                some = rows[first : first + _DECODED]
                lengths, values = _encoded(store, some)
                pieces.append((lengths, _encoded_again(source, codec, lengths, values)))
                advance(len(some))
            values = {name: np.concatenate([piece[name] for _, piece in pieces]) for name in pieces[0][1]}
            passages = [store.passage_at(row) for row in rows]
            writer.copy_shard(passages, np.concatenate([lengths for lengths, _ in pieces]), values)
        return writer.seal(duplicates)


def _encoded_again(
    source: Segment, codec: Codec, lengths: npt.NDArray[np.int32], values: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """What a segment's arrays hold of some passages, (n, max_tokens, ...), with another codec's instead of its own."""
    seal = source.seal
    real = np.arange(seal.max_tokens) < lengths[:, None]  # (n, max_tokens): tokens, and not padding
    token_ids = torch.from_numpy(values["token_ids"][real].astype(np.int64))  # (T,)
    own = {spec.name for spec in source.codec.arrays(d_model=seal.d_model, max_tokens=seal.max_tokens)}
    arrays = {name: values[name][real] for name in own}
    states = source.codec.decode(arrays, token_ids, dtype=torch.float32, device="cpu")
    encoded = codec.encode(states, token_ids)
    found = {name: value for name, value in values.items() if name not in own}
    for spec in codec.arrays(d_model=seal.d_model, max_tokens=seal.max_tokens):
        found[spec.name] = np.zeros((len(lengths), *spec.shape), dtype=spec.dtype)
        found[spec.name][real] = encoded[spec.name]
    return found


def empty_segment(store: Store, *, segment_id: str) -> SegmentRef:
    """Write a sealed segment as those of a store are, of one passage without words and without memory: a collection
    of nothing has it, as a dead row, to know how memories are kept.
    """
    first = store.segment(0)
    values = {name: np.zeros((1, *spec.shape), dtype=spec.dtype) for name, spec in first.specs.items()}
    if first.seal.embedding_dim:
        values["embeddings"] = np.zeros((1, first.seal.embedding_dim), dtype=np.float32)
    with _writer(store, first, segment_id=segment_id, count=1, shard=1) as writer:
        writer.copy_shard([Passage(id="", document_id="", title="", text="")], np.zeros(1, dtype=np.int32), values)
        return writer.seal()


def one_codec(store: Store, rows: Sequence[int], most: int) -> int:
    """How many of the first rows, at most so many, have memories of one codec with the same tables."""
    numbers, _ = store.locate(np.asarray(rows[:most], dtype=np.int64))
    codecs = {number: store.segment(number).codec for number in np.unique(numbers).tolist()}
    first = codecs[int(numbers[0])]
    return next((i for i, number in enumerate(numbers.tolist()) if codecs[number] is not first), len(numbers))


def _writer(
    store: Store,
    like: Segment,
    *,
    segment_id: str,
    count: int,
    shard: int,
    out: Path | None = None,
    codec: tuple[Codec, TablesRef | None] | None = None,
) -> SegmentWriter:
    """Of a segment like one of a store: in that store and of its codec with its tables, unless others are given."""
    its_codec, tables = (like.codec, segment_codec(like.path, like.seal)[1]) if codec is None else codec
    return SegmentWriter(
        store.path if out is None else out,
        segment_id=segment_id,
        codec=its_codec,
        d_model=like.seal.d_model,
        max_tokens=like.seal.max_tokens,
        vocab_size=store.generation.vocab_size,
        num_passages=count,
        shard_passages=shard,
        embedding_dim=like.seal.embedding_dim,
        tables=tables,
    )


def _encoded(store: Store, rows: Sequence[int]) -> tuple[npt.NDArray[np.int32], dict[str, npt.NDArray[Any]]]:
    """Lengths of some rows, and what their segments' arrays hold of them: (n, max_tokens, ...) each."""
    numbers, locals_ = store.locate(np.asarray(rows, dtype=np.int64))
    first = store.segment(int(numbers[0]))
    values = {name: np.zeros((len(rows), *spec.shape), dtype=spec.dtype) for name, spec in first.specs.items()}
    if first.seal.embedding_dim:
        values["embeddings"] = np.zeros((len(rows), first.seal.embedding_dim), dtype=np.float32)
    lengths = np.zeros(len(rows), dtype=np.int32)
    for number in np.unique(numbers).tolist():
        segment, places = store.segment(number), np.flatnonzero(numbers == number)
        local = locals_[places]
        lengths[places] = segment.lengths[local]
        for name, source in segment.memory.items():
            for place, chunk in zip(places.tolist(), source.finish(source.begin(local)), strict=True):
                values[name][place] = chunk
        if "embeddings" in values:
            low, high = int(local.min()), int(local.max()) + 1
            values["embeddings"][places] = segment.read_embeddings(low, high)[local - low]
    return lengths, values
