"""`memstore build --shards N`: a store in shards, of one reading of the corpus. Killed and run again, it goes on.

    1. read      the corpus, once; exact duplicates of the whole are stored once      root/.build/spool.*
    2. shards    each an ordinary build of its part                                   root/shard-000/, ...
    3. places    of every shard's rows in the corpus, and the list of shards, last    root/shards.json

Knows no more of a build than `build.py` offers.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

from memstore.errors import ConfigError
from memstore.storage import as_url
from memstore.store import read_generation
from memstore.store.format import CURRENT
from memstore.store.shard_list import (
    MOST,
    ShardList,
    ShardRef,
    is_sharded,
    shard_name,
    shard_of,
    write_places,
)
from memstore_builders.build import BuildReport, build, read_once
from memstore_builders.job import BuildOptions, prepare
from memstore_builders.progress import Progress, Silent
from memstore_builders.spool import SpoolPart, parts_of
from memstore_builders.state import folder_bytes, lock, same_job, writing


def build_shards(options: BuildOptions, count: int, progress: Progress | None = None) -> BuildReport:
    """Build a store in so many shards, or finish one that a killed build left.

    Raises:
        ConfigError: an option is impossible; `out` holds something else, or is no folder of this machine; a shard
            would hold nothing.
        CorpusError, CorpusFormatError, CorpusNotFound, DiskSpaceError: see `build`.
    """
    root, progress = options.out, progress or Silent()
    _check(options, count)
    job = prepare(options)
    identity = job.identity | {"shards": {"count": count}}
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    with lock(job.work), writing(root):
        same_job(job.work, identity, in_force=(), rebuild=False)
        whole = read_once(job, progress)
        parts = parts_of(whole, count, lambda document_id: shard_of(document_id, count))
        if empty := [i for i, part in enumerate(parts) if not len(part)]:
            raise ConfigError(
                f"of {count} shards {shard_name(empty[0])} would hold no passage: the corpus is too small for so many, "
                "choose a smaller --shards"
            )
        reports, refs = [], []
        for number, part in enumerate(parts):
            mine = replace(options, out=root / shard_name(number), shard=(number, count))
            reports.append(build(mine, progress, part=part))
            refs.append(_placed(options, shard_name(number), part))
        ShardList(fingerprint=job.fingerprint, shards=tuple(refs)).write(root)
    shutil.rmtree(job.work, ignore_errors=True)
    return replace(_total(options, reports), documents=whole.counts.documents, duplicates=whole.counts.duplicates)


def _check(options: BuildOptions, count: int) -> None:
    if not 1 <= count <= MOST:
        raise ConfigError(f"--shards must be from 1 to {MOST}, not {count}")
    if as_url(options.out) is not None:
        raise ConfigError("a store in shards is a folder of this machine: choose an --out here")
    if options.rebuild:
        raise ConfigError("--rebuild is not for a store in shards: choose another --out, or remove the folder")
    if (options.out / CURRENT).exists():
        raise ConfigError(f"{options.out} holds a store that is not in shards: choose another --out")
    if is_sharded(options.out):
        raise ConfigError(f"{options.out} holds a finished store in shards: choose another --out, or remove the folder")


def _placed(options: BuildOptions, name: str, part: SpoolPart) -> ShardRef:
    """A finished shard, its places written."""
    generation = read_generation(options.out / name)
    return ShardRef(
        name=name,
        segments=tuple(segment.id for segment in generation.segments),
        passages=generation.passages,
        places=write_places(options.out, name, part.places.astype("uint64")),
    )


def _total(options: BuildOptions, reports: list[BuildReport]) -> BuildReport:
    """What all builds did together."""
    seconds = Counter[str]()
    for one in reports:
        seconds.update(one.seconds)
    names = ("passages", "tokens", "predicted_bytes", "segments", "resumed_segments")
    sums = {name: sum(getattr(one, name) for one in reports) for name in names}
    encoded = sum(one.passages_per_second * one.seconds.get("encode", 0.0) for one in reports)
    return replace(
        reports[0],
        **sums,
        out=str(options.out),
        store_bytes=folder_bytes(options.out),
        bytes_per_token=sum(one.bytes_per_token * one.tokens for one in reports) / max(1, sums["tokens"]),
        seconds=dict(seconds),
        passages_per_second=encoded / seconds["encode"] if seconds.get("encode") else 0.0,
        peak_resident_bytes=max(one.peak_resident_bytes for one in reports),
        already_built=False,
    )
