"""Fitting a store's codec: on a sample of its own passages, once, before the first segment.

What was learned is complete under its final name, as segments are: a build that is run again reads it. Knows which
passages are shown to the codec; what it makes of them is the codec's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from memstore.errors import CodecMismatch
from memstore.store import Codec, find_codec, write_tables
from memstore.store.codec_tables import segment_codec
from memstore.store.format import SEALED, Seal, TablesRef, codec_path, read_bytes, segment_path
from memstore_builders.job import Job
from memstore_builders.progress import Progress
from memstore_builders.spool import Spool

_COUNTED = 64  # passages whose tokens are counted to choose how many are a sample
_WINDOW = 256  # passages encoded between two reports of progress


def fitted(job: Job, spool: Spool, progress: Progress) -> Job:
    """The job with its codec fitted, and what was learned in the store: by this build, or before it was killed. What
    a build with other settings learned, before its first segment, is removed.

    Raises:
        ChecksumMismatch, CodecMismatch: what was learned before is damaged, or of another codec.
    """
    out = job.options.out
    _remove_others(out, job.prefix, kept=job.kept)
    if not job.codec.sample_tokens:
        return job
    found = find_codec(out, job.prefix)
    if found is None:
        write_tables(out, job.prefix, fit(job, spool, progress))
        found = find_codec(out, job.prefix)  # what is encoded with is what later runs read
        assert found is not None, "the tables were written just now"
    codec, tables = found
    if codec.name != job.codec.name:
        raise CodecMismatch(f"{codec_path(out, job.prefix)} is of the codec {codec.name!r}, not {job.codec.name!r}")
    return dataclasses.replace(job, codec=codec, tables=tables)


def fit(job: Job, spool: Spool, progress: Progress) -> Codec:
    """The job's codec, fitted on passages evenly spread over the collection; as it is if it learns nothing.

    Memory: the sample's states, `sample_tokens * d_model` numbers, and what the codec needs.
    """
    if not job.codec.sample_tokens or not len(spool):
        return job.codec
    counted = job.encoder.tokenizer.passages(spool.sample(_COUNTED))
    per_passage = max(1.0, sum(map(len, counted)) / len(counted))
    sample = spool.sample(round(job.codec.sample_tokens / per_passage) + 1)
    progress.begin("fit", len(sample))
    states, token_ids = [], []
    for first in range(0, len(sample), _WINDOW):
        encoded = job.encoder.encode(sample[first : first + _WINDOW])
        states += encoded.states
        token_ids += encoded.token_ids
        progress.advance(len(encoded.states))
    tokens = torch.from_numpy(np.concatenate(token_ids).astype(np.int64))  # (T,)
    weights = job.encoder.model.first_live_weights
    codec = job.codec.fit(torch.cat(states), tokens, weights=weights)
    progress.end()
    return codec


def check_tables(out: Path, prefix: str, tables: TablesRef | None, sealed: Sequence[str]) -> None:
    """Segments that an earlier run sealed must have been written with the tables that are there now.

    Raises:
        CodecMismatch: one was written with others.
    """
    for name in sealed:
        folder = segment_path(out, name)
        _, found = segment_codec(folder, Seal.from_bytes(read_bytes(folder / SEALED), path=folder / SEALED))
        if found != tables:
            path = codec_path(out, prefix)
            raise CodecMismatch(
                f"{path} holds tables of another fit than segment {name!r} was written with: restore the file from a "
                f"copy, or remove {out} and build again"
            )


def _remove_others(out: Path, prefix: str, *, kept: Collection[str]) -> None:
    mine = codec_path(out, prefix)
    for path in mine.parent.glob(f"{'[0-9a-f]' * len(prefix)}{mine.suffix}"):
        if path != mine and path.stem not in kept:
            path.unlink()
    with suppress(OSError):  # it is not there, or not empty
        mine.parent.rmdir()
