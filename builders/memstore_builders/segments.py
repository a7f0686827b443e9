"""The segments of a store: which passages each holds, and how they are encoded and written.

A segment under its final name is complete: a build that is run again makes only those that are not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from memstore.passage import Passage
from memstore.retrieve.sentence import SentenceEncoder
from memstore.store import Codec, SegmentRef, SegmentWriter, sealed_segment
from memstore.store.duplicates import Duplicate
from memstore.store.format import TablesRef
from memstore_builders.encode import PassageEncoder
from memstore_builders.fit import check_tables
from memstore_builders.job import Job
from memstore_builders.progress import Progress
from memstore_builders.spool import Spool

SHARD_BYTES = 64 << 20  # encoded and padded: what bounds the builder's memory beside the model
SHARD_PASSAGES = (64, 4096)  # at least, at most
SEGMENT_SHARDS = 8  # a killed build loses at most one segment's work
MAX_SEGMENTS = 512  # a store of 22 M passages should not open thousands of folders


def shard_passages(codec: Codec, *, d_model: int, max_tokens: int) -> int:
    """Passages per shard: as many as `SHARD_BYTES` hold, encoded and padded."""
    per_token = sum(spec.bytes_per_token for spec in codec.arrays(d_model=d_model, max_tokens=max_tokens))
    least, most = SHARD_PASSAGES
    return min(most, max(least, SHARD_BYTES // (per_token * max_tokens)))


def plan_segments(passages: int, shard: int, segment_passages: int | None) -> list[range]:
    """Rows of each segment: whole shards, the last segment takes what is left."""
    size = segment_passages or shard * SEGMENT_SHARDS
    if segment_passages is None and passages > size * MAX_SEGMENTS:
        size = -(-passages // MAX_SEGMENTS // shard) * shard
    return [range(first, min(first + size, passages)) for first in range(0, passages, size)]


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """A segment to make: its id, its rows, and how many of them make a shard."""

    name: str
    rows: range
    shard: int


EncodeAll = Callable[[Job, Spool, Sequence[PlannedSegment], Progress], Iterator[SegmentRef]]
"""Encodes segments that are planned, in any order; gives each as soon as it is sealed in the store's folder."""


def _plans(job: Job, spool: Spool) -> list[PlannedSegment]:
    config = job.encoder.model.config
    shard = shard_passages(job.codec, d_model=config.d_model, max_tokens=config.max_passage_tokens)
    rows = plan_segments(len(spool), shard, job.options.segment_passages)
    return [PlannedSegment(f"{job.prefix}-{i:05d}", r, shard) for i, r in enumerate(rows)]


def planned_segments(job: Job, spool: Spool) -> int:
    """How many segments a build makes."""
    return len(_plans(job, spool))


def encode_here(job: Job, spool: Spool, plans: Sequence[PlannedSegment], progress: Progress) -> Iterator[SegmentRef]:
    """Encode segments in this process, one after another."""
    for plan in plans:
        yield encode_segment(
            job.options.out,
            job,
            spool.read,
            name=plan.name,
            rows=plan.rows,
            shard=plan.shard,
            advance=progress.advance,
            duplicates=spool.duplicates(plan.rows),
        )


def make_segments(
    job: Job,
    spool: Spool,
    progress: Progress,
    heard: Callable[[SegmentRef], None] | None = None,
    *,
    encode: EncodeAll = encode_here,
) -> tuple[list[SegmentRef], int]:
    """Every segment, made or found sealed, of which `heard` hears as soon as it is there; with how many were found."""
    plans = _plans(job, spool)
    looked_for = {plan.name: sealed_segment(job.options.out, plan.name) for plan in plans}
    segments = {name: ref for name, ref in looked_for.items() if ref is not None}
    found = list(segments)
    check_tables(job.options.out, job.prefix, job.tables, found)
    left = [plan for plan in plans if plan.name not in segments]
    progress.begin("encode", len(spool), done=len(spool) - sum(len(plan.rows) for plan in left))
    for ref in chain(list(segments.values()), encode(job, spool, left, progress)):
        segments[ref.id] = ref
        if heard is not None:
            heard(ref)
    progress.end()
    return [segments[plan.name] for plan in plans], len(found)


class Encoding(Protocol):
    """How passages become memories: a build's job, or what a change found in its store."""

    @property
    def encoder(self) -> PassageEncoder:
        """The memory encoder."""

    @property
    def codec(self) -> Codec:
        """How memories are kept."""

    @property
    def tables(self) -> TablesRef | None:
        """What the codec learned, as it is in the store."""

    @property
    def sentence(self) -> SentenceEncoder | None:
        """What makes the vectors, if it is not the memory encoder."""

    @property
    def embedding_dim(self) -> int:
        """Width of the vectors; 0 for none."""


def encode_segment(
    out: Path,
    how: Encoding,
    read: Callable[[int, int], Iterable[Passage]],
    *,
    name: str,
    rows: range,
    shard: int,
    advance: Callable[[int], None],
    duplicates: Sequence[Duplicate] = (),
) -> SegmentRef:
    """Encode one segment shard by shard. A GPU encodes the next shard while one is written; a CPU does not: there the
    writer's threads and the encoder's would take the cores from each other. Nor does another thread write while this
    one waits: torch would keep a team of threads for each, more than there are cores, and OpenMP then puts threads to
    sleep at every barrier, which slowed the encoder by 10 to 20%.

    Args:
        out: the store.
        how: what encodes.
        read: gives the passages of some rows, first to last (exclusive).
        name: id of the segment.
        rows: its rows.
        shard: passages per shard.
        advance: hears of passages encoded.
        duplicates: records of what the segment leaves out.
    """
    config = how.encoder.model.config
    with (
        SegmentWriter(
            out,
            segment_id=name,
            codec=how.codec,
            d_model=config.d_model,
            max_tokens=config.max_passage_tokens,
            vocab_size=config.vocab_size,
            num_passages=len(rows),
            shard_passages=shard,
            embedding_dim=how.embedding_dim,
            tables=how.tables,
        ) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        pending: Future[None] | None = None
        for first in range(rows.start, rows.stop, shard):
            passages = list(read(first, min(first + shard, rows.stop)))
            encoded = how.encoder.encode(passages)
            embeddings = encoded.embeddings
            if how.sentence is not None:
                embeddings = np.asarray(how.sentence.encode_passages(passages), dtype=np.float32)
            done = (passages, encoded.token_ids, encoded.states, embeddings)
            if how.encoder.model.device.type == "cpu":
                writer.write_shard(*done)
            else:
                if pending is not None:
                    pending.result()
                pending = pool.submit(writer.write_shard, *done)
            advance(len(passages))
        if pending is not None:
            pending.result()
        return writer.seal(duplicates)
