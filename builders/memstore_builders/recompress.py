"""`memstore recompress`: a store of another codec from one of bf16 or int8. No passage is encoded by the model again.

Rows, and with them search indexes, duplicates and lists of dead rows, are the same in both stores. So these are taken
over as they are, and both stores find the same passages; `memstore compact` frees what is dead, before or after.

    1. fit       what the codec learns from a sample of the live memories   out/codecs/
    2. segments  each decoded, encoded, sealed and renamed                  out/segments/<id>/
    3. index     the files of the other store's                             out/index/000001/
    4. publish   the generation, then CURRENT

What exists under its final name is complete, so resuming is: skip what exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memstore import checkpoint
from memstore.checkpoint.loading import model_of
from memstore.errors import CodecMismatch, ConfigError, IndexCorrupt
from memstore.files import link_or_copy
from memstore.storage import as_url
from memstore.store import (
    Codec,
    Generation,
    SegmentRef,
    Store,
    find_codec,
    get_codec,
    hash_file,
    index_path,
    publish,
    read_generation,
    remove_leftovers,
    sealed_segment,
    sync_tree,
    write_tables,
)
from memstore.store.copying import encode_again
from memstore.store.deletions import read_dead, write_dead
from memstore.store.duplicates import read_duplicates
from memstore.store.format import CURRENT, TablesRef, generation_path
from memstore.store.working import Place, building, stored_bytes
from memstore_builders.change import made_by
from memstore_builders.estimate import check_disk
from memstore_builders.fit import check_tables
from memstore_builders.progress import Progress, Silent
from memstore_builders.segments import shard_passages
from memstore_builders.state import WORK, check_place, folder_bytes, lock, same_job, writing

SOURCES = ("bf16", "int8")
"""Codecs that may be encoded again: of others, the errors of both would add up."""

_NUMBER = 1  # of the generation that is made
_WINDOW = 256  # passages loaded between two reports of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class RecompressReport:
    """What was made. `resumed_segments` an earlier run had made; `seconds` per stage are this run's."""

    store: str
    out: str
    codec_before: str
    codec: str
    passages: int
    tokens: int
    dead: int
    segments: int
    resumed_segments: int
    bytes_per_token_before: float
    bytes_per_token: float
    store_bytes: int
    seconds: dict[str, float]
    already_done: bool = False


@dataclass(slots=True)
class _Work:
    """From what, into what, with what; `codec` is fitted on the way."""

    source: Store
    place: Place
    codec: Codec
    settings: dict[str, Any]
    progress: Progress
    tables: TablesRef | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.place.folder

    @property
    def identity(self) -> dict[str, dict[str, Any]]:
        return {"settings": self.settings, "fingerprint": asdict(self.source.fingerprint)}

    @property
    def prefix(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:8]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - begin


def recompress(
    store: Path, out: Path, *, codec: str, model: str | None = None, progress: Progress | None = None
) -> RecompressReport:
    """Write a store of another codec, or finish one that a killed run left. The other store stays as it is.

    Memory: one encoded shard a few times, 40 bytes per passage, and for a codec that learns its sample and the model.

    Args:
        store: of bf16 or int8.
        out: folder or URL of the new store.
        codec: name of its codec.
        model: the checkpoint, if it is no longer where the store was built from. Only fitting needs it.
        progress: hears of it.

    Raises:
        StoreNotFound, StoreCorrupt: there is no store; something in it is damaged.
        ConfigError: the codec is unknown, or the store's own; the store's loses too much to be encoded again; `out`
            is the store, holds something else, or cannot be written.
        CheckpointNotFound, CheckpointError, FingerprintMismatch: the store's model is not to be had.
        DiskSpaceError: the new store would not fit, or the disk is full on the way.
    """
    made = get_codec(codec)
    _refuse_same_place(store, out)
    source = Store.open(store)
    try:
        _refuse_codec(source, codec)
        with building(out) as place:
            work = _Work(source, place, made, _settings(source, codec), progress or Silent())
            report = _recompress(work, model)
    finally:
        source.close()
    report = dataclasses.replace(report, store=as_url(store) or str(store), out=as_url(out) or str(out))
    return report if as_url(out) is None else dataclasses.replace(report, store_bytes=stored_bytes(out))


def _refuse_same_place(store: Path, out: Path) -> None:
    if as_url(store) is not None or as_url(out) is not None:
        same = as_url(store) == as_url(out)
    else:
        old, new = (Path(os.path.realpath(path)) for path in (store, out))
        same = old.is_relative_to(new) or new.is_relative_to(old)
    if same:
        raise ConfigError(f"{out} and {store} would lie in each other: choose another --out")


def _refuse_codec(source: Store, codec: str) -> None:
    found = source.generation.codec
    if found == codec:
        raise ConfigError(f"{source.path} keeps its memories as {codec} already: choose another --codec")
    if found not in SOURCES:
        raise ConfigError(
            f"{source.path} keeps its memories as {found}, which has lost too much to be encoded again: begin with a "
            f"store of {' or '.join(SOURCES)}, or build it from its corpus with --codec {codec}"
        )


def _settings(source: Store, codec: str) -> dict[str, Any]:
    """The settings of the source with the new codec, and of which store they are: the same run has the same."""
    generation = source.generation
    manifest = hash_file(generation_path(source.path, generation.number))
    return {**generation.settings, "codec": codec, "recompressed": {"codec": generation.codec, "sha256": manifest}}


def _recompress(work: _Work, model: str | None) -> RecompressReport:
    out = work.out
    check_place(out, ())
    if (out / CURRENT).exists():
        found = read_generation(out)
        if dict(found.settings) != work.settings:
            raise ConfigError(f"{out} holds another finished store: choose another --out, or remove the folder")
        return _report(work, found, resumed=len(found.segments), done=True)
    with lock(out / WORK), writing(out):
        same_job(out / WORK, work.identity, in_force=(), rebuild=False)
        remove_leftovers(out)
        check_disk(out, _expected_bytes(work))
        with work.timed("fit"):
            _fit(work, model)
        with work.timed("segments"):
            segments, resumed = _segments(work)
        with work.timed("index"):
            _take_index(work)
        with work.timed("publish"):
            generation = publish(out, _generation(work, segments))
    report = _report(work, generation, resumed=resumed)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return report


def _expected_bytes(work: _Work) -> int:
    """About what the new store takes: the old one's bytes, but for the memories; less what is there already."""
    generation = work.source.generation
    before, after = (_token_bytes(work, codec) for codec in (work.source.codec, work.codec))
    indexes = folder_bytes(index_path(work.source.path, generation.number))
    others = max(0, sum(ref.bytes for ref in generation.segments) - before * generation.tokens)
    return max(0, others + after * generation.tokens + indexes - folder_bytes(work.out))


def _token_bytes(work: _Work, codec: Codec) -> int:
    fingerprint = work.source.fingerprint
    specs = codec.arrays(d_model=fingerprint.d_model, max_tokens=fingerprint.max_passage_tokens)
    return sum(spec.bytes_per_token for spec in specs)


# --- steps ------------------------------------------------------------------------------------------------------


def _fit(work: _Work, model: str | None) -> None:
    """Learn from a sample of the live memories, evenly spread; or read what an earlier run learned."""
    if not work.codec.sample_tokens:
        return
    found = find_codec(work.out, work.prefix)
    if found is None:
        write_tables(work.out, work.prefix, _fitted(work, model))
        found = find_codec(work.out, work.prefix)  # what is encoded with is what later runs read
        assert found is not None, "the tables were written just now"
    if found[0].name != work.codec.name:
        raise CodecMismatch(f"the tables in {work.out} are of {found[0].name}: remove the folder and run it again")
    work.codec, work.tables = found


def _fitted(work: _Work, model: str | None) -> Codec:
    source = work.source
    loaded, tokenizer = model_of(source, name=model)
    source.fingerprint.require(checkpoint.fingerprint(loaded, tokenizer))
    weights = loaded.first_live_weights
    del loaded
    live = np.setdiff1d(np.arange(len(source)), source.dead_rows())
    if not len(live):
        raise ConfigError(f"{source.path} holds no live passages, and {work.codec.name} learns from them")
    per_passage = max(1.0, source.generation.tokens / max(1, len(source)))
    count = min(len(live), round(work.codec.sample_tokens / per_passage) + 1)
    rows = live[np.arange(count) * len(live) // count]
    work.progress.begin("fit", count)
    states, token_ids = [], []
    for first in range(0, count, _WINDOW):
        some = source.load(source.at(rows[first : first + _WINDOW].tolist(), to_load=True), dtype=torch.float32)
        states.append(some.states)
        token_ids.append(some.token_ids)
        work.progress.advance(len(some.lengths))
    codec = work.codec.fit(torch.cat(states), torch.cat(token_ids), weights=weights)
    work.progress.end()
    return codec


def _segments(work: _Work) -> tuple[list[SegmentRef], int]:
    """A segment for each of the source, of the same rows, made or found sealed; with how many were found."""
    source, fingerprint = work.source, work.source.fingerprint
    shard = shard_passages(work.codec, d_model=fingerprint.d_model, max_tokens=fingerprint.max_passage_tokens)
    old = source.generation.segments
    names = [f"{work.prefix}-{i:05d}" for i in range(len(old))]
    sealed = [sealed_segment(work.out, name) for name in names]
    check_tables(work.out, work.prefix, work.tables, [ref.id for ref in sealed if ref is not None])
    done = sum(ref.passages for ref in sealed if ref is not None)
    work.progress.begin("encode", len(source), done=done)
    made = []
    for number, (name, ref) in enumerate(zip(names, sealed, strict=True)):
        new = ref or encode_again(
            source,
            number,
            work.out,
            segment_id=name,
            codec=work.codec,
            tables=work.tables,
            shard_passages=shard,
            duplicates=read_duplicates(source.segment(number).path, source.segment(number).seal),
            advance=work.progress.advance,
        )
        if work.place.sealed is not None:
            work.place.sealed(new)
        made.append(_with_dead(work, number, new))
    work.progress.end()
    return made, sum(ref is not None for ref in sealed)


def _with_dead(work: _Work, number: int, ref: SegmentRef) -> SegmentRef:
    old = work.source.generation.segments[number]
    if old.dead is None:
        return ref
    rows, lengths = read_dead(work.source.path, old).tolist(), work.source.segment(number).lengths
    return dataclasses.replace(ref, dead=write_dead(work.out, ref, rows, lengths=lengths, number=_NUMBER))


def _take_index(work: _Work) -> None:
    """The files of the source's indexes, which never change, under second names or copied."""
    generation = work.source.generation
    if generation.index is None:
        raise IndexCorrupt(f"generation {generation.number} of {work.source.path} has no search index; build it again")
    before, folder = index_path(work.source.path, generation.number), index_path(work.out, _NUMBER)
    shutil.rmtree(folder, ignore_errors=True)
    for name, known in sorted(generation.index.files.items()):
        if not (before / name).exists() or hash_file(before / name) != known:
            raise IndexCorrupt(f"{before / name} is missing or damaged: run `memstore verify {work.source.path}`")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(before / name, folder / name)
    sync_tree(work.out / "index")


def _generation(work: _Work, segments: list[SegmentRef]) -> Generation:
    return dataclasses.replace(
        work.source.generation,
        number=_NUMBER,
        codec=work.codec.name,
        settings=work.settings,
        segments=tuple(segments),
        ids=None,
        ids_passages=None,
        tables=(),
        change={"kind": "recompress"},
        made_by=made_by(),
    )


def _report(work: _Work, generation: Generation, *, resumed: int, done: bool = False) -> RecompressReport:
    old = work.source.generation
    tokens = max(1, generation.tokens)
    return RecompressReport(
        store=str(work.source.path),
        out=str(work.out),
        codec_before=old.codec,
        codec=generation.codec,
        passages=generation.live,
        tokens=generation.tokens,
        dead=generation.dead,
        segments=len(generation.segments),
        resumed_segments=resumed,
        bytes_per_token_before=sum(ref.bytes for ref in old.segments) / tokens,
        bytes_per_token=sum(ref.bytes for ref in generation.segments) / tokens,
        store_bytes=folder_bytes(work.out) - folder_bytes(work.out / WORK),
        seconds=work.seconds,
        already_done=done,
    )
