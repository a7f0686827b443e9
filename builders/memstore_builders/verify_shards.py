"""`memstore verify` of a store in shards: each shard, the list of them, and whether documents lie where they belong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from memstore.errors import FingerprintMismatch, MemstoreError
from memstore.store import ShardedStore, Store
from memstore.store.check import Fault, fault
from memstore.store.shard_list import SHARDS, ShardList, check_places
from memstore_builders.verify import Verification, verify


def verify_shards(
    path: Path, *, sample: int = 64, model: str | None = None, device: str = "cpu", absent: Sequence[str] = ()
) -> Verification:
    """Check every shard as `verify` does, with `sample` passages in all; then what makes them one store.

    Raises:
        StoreCorrupt, StoreFormatError, StoreUnreadable: the list of shards cannot be read.
        MemstoreError: see `verify`.
    """
    listed = ShardList.read(path)
    each, problems = [], list[Fault]()
    for name in listed.names:
        try:
            one = verify(path / name, sample=-(-sample // len(listed.names)), model=model, device=device, absent=absent)
        except FileNotFoundError as error:
            if not isinstance(error, MemstoreError):
                raise
            problems.append(fault(error, name))
            continue
        each.append(one)
        problems += [replace(one, where=f"{name}/{one.where}") for one in one.problems]
    if not problems:
        problems += _whole(path, listed)
    counts = [one.cut for one in each if one.cut is not None]
    return Verification(
        problems=tuple(problems),
        passages=sum(one.passages for one in each),
        sampled=sum(one.sampled for one in each),
        largest_difference=max((one.largest_difference for one in each), default=0.0),
        foreign=tuple(f"{n}/{f}" for n, one in zip(listed.names, each, strict=False) for f in one.foreign),
        cut=max(counts, default=None),
        sampled_cut=sum(one.sampled_cut for one in each),
        generations=max((one.generations for one in each), key=len, default=()),
        dead_passages=sum(one.dead_passages for one in each),
        dead_bytes=sum(one.dead_bytes for one in each),
        absent=tuple(absent) if each and all(one.absent == tuple(absent) for one in each) else (),
    )


def _whole(path: Path, listed: ShardList) -> Iterator[Fault]:
    """What is wrong with shards that are sound each."""
    for ref in listed.shards:
        try:
            check_places(path, ref)
        except MemstoreError as error:
            yield fault(error, f"{ref.name}.places.npy")
    try:
        store = ShardedStore.open(path)
    except FingerprintMismatch as error:
        yield Fault("FingerprintMismatch", SHARDS, str(error))
        return
    except MemstoreError as error:
        yield fault(error, SHARDS)
        return
    for name, shard in zip(listed.names, store.shards, strict=True):
        yield from itertools.islice(_misplaced(listed, name, shard), 1)
    store.close()


def _misplaced(listed: ShardList, name: str, shard: Store) -> Iterator[Fault]:
    dead = set(shard.dead_rows().tolist())
    for row, passage in enumerate(shard.iter_passages()):
        if row not in dead and (right := listed.of(passage.document_id)) != name:
            message = f"document {passage.document_id!r} belongs to {right}: delete it here, and add it there"
            yield Fault("WrongShard", f"{name}, passage {passage.id}", message)
