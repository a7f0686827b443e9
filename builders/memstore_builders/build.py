"""`memstore build`: a corpus becomes a store. Killed anywhere and run again, it resumes to the same bytes.

    1. spool     the corpus, once, cut into passages, duplicates marked       out/.build/spool.*
    2. fit       what the codec learns from a sample, if it learns anything   out/codecs/
    3. estimate  a sample encoded and written: is there room on the disk?
    4. segments  each encoded, checksummed, sealed and renamed                out/segments/<id>/
    5. index     over exactly those segments                                  out/index/000001/
    6. publish   the generation, then CURRENT                                 out/generations/, out/CURRENT

What exists under its final name is complete, so resuming is: skip what exists. What is
fixed before the first step is in `job.py`, step 4 in `segments.py`. Knows no HTTP and answers nothing.
"""

from __future__ import annotations

import json
import platform
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import memstore
from memstore.errors import ConfigError, MemstoreError
from memstore.files import replacing
from memstore.model.embedding import MemoryTextEncoder
from memstore.retrieve.encoders import EncoderRef
from memstore.storage import as_url
from memstore.store import (
    Generation,
    SegmentRef,
    Store,
    publish,
    read_generation,
    remove_leftovers,
    remove_other_generations,
    sync_tree,
)
from memstore.store.format import CURRENT, codec_path
from memstore.store.history import next_number, numbers
from memstore.store.holding import only_writer
from memstore.store.working import Place, building, stored_bytes
from memstore_builders.cluster import connected, encode_on_cluster
from memstore_builders.content import Content
from memstore_builders.estimate import Estimate, check_disk, estimate
from memstore_builders.fit import fitted
from memstore_builders.index import build_index, fields_of
from memstore_builders.job import BuildOptions, Job, prepare
from memstore_builders.progress import Progress, Silent
from memstore_builders.reading import read_corpus, unchanged
from memstore_builders.segments import encode_here, make_segments, planned_segments
from memstore_builders.spool import Spool
from memstore_builders.state import (
    check_place,
    folder_bytes,
    lock,
    same_job,
    unfinished_number,
    unfinished_segments,
    writing,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did. `seconds` per stage are this run's; `resumed_segments` an earlier run had made.

    `split`, `parts` and `cut` are what became of passages longer than `max_passage_tokens` (see `SpoolCounts`).
    """

    out: str
    passages: int
    tokens: int
    documents: int
    duplicates: int
    rows_skipped: int
    errors: tuple[str, ...]
    split: int
    parts: int
    cut: int
    store_bytes: int
    bytes_per_token: float
    predicted_bytes: int
    segments: int
    resumed_segments: int
    seconds: dict[str, float]
    passages_per_second: float
    peak_resident_bytes: int
    max_passage_tokens: int
    already_built: bool = False


def build(options: BuildOptions, progress: Progress | None = None, *, part: Spool | None = None) -> BuildReport:
    """Build a store, or finish one that a killed build left. A shard's passages are a `part` of what was read already.

    Memory: the model, a few shards (`SHARD_BYTES` each, encoded), one batch's activations, Tantivy's heap, and 8
    bytes per passage; whatever the corpus.

    Raises:
        CorpusError, CorpusFormatError, CorpusNotFound: from the corpus.
        ConfigError: an option is impossible, `out` lies in a folder of the corpus, or without `rebuild` it holds
            another build, finished or with segments sealed: with other settings, or of a corpus that has changed; or
            it cannot be written, any more or at all. Or Ray is missing, or no cluster answers where `ray` says.
        DiskSpaceError: the store would not fit, or the disk is full on the way.
    """
    url = as_url(options.out)
    with connected(options), building(options.out) as place:
        report = _build(replace(options, out=place.folder), progress or Silent(), place, part)
    if url is None:
        return report
    return replace(report, out=url, store_bytes=stored_bytes(options.out))


def _build(options: BuildOptions, progress: Progress, place: Place, part: Spool | None) -> BuildReport:
    check_place(options.out, options.corpus)
    job = prepare(options)
    with writing(options.out):
        finished = (options.out / CURRENT).exists()
    if finished:
        generation = read_generation(options.out)
        if not options.rebuild:
            return _already_built(job, generation, progress)
        job = replace(job, replaces=generation, others=tuple(_others(options.out)), last=next_number(options.out) - 1)
    with lock(job.work), only_writer(options.out) if finished else nullcontext(), writing(options.out):
        same_job(job.work, job.identity, in_force=job.kept, rebuild=options.rebuild)
        remove_leftovers(options.out)
        seconds: dict[str, float] = {}
        with _timed(seconds, "spool"):
            spool = part or read_once(job, progress)
        if not len(spool):
            shutil.rmtree(job.work, ignore_errors=True)
            raise ConfigError(f"the corpus holds no passages ({spool.counts.documents} documents were read)")
        with _timed(seconds, "fit") if job.codec.sample_tokens else nullcontext():
            job = fitted(job, spool, progress)
        with _timed(seconds, "estimate"):
            expected = _estimate(job, spool, place)
        with _timed(seconds, "encode"):
            encode = encode_here if options.ray is None else encode_on_cluster
            segments, resumed = make_segments(job, spool, progress, place.sealed, encode=encode)
        with _timed(seconds, "index"):
            generation = _generation(job, segments)
            progress.begin("index", len(spool))
            index = build_index(
                Store(options.out, generation),
                kind=options.retriever,
                encoder=_vectors_made_by(job),
                dim=job.embedding_dim,
                metadata=bool(spool.counts.fields),
                fields=None if part is None else {n: tuple(kinds) for n, kinds in spool.counts.fields.items()},
                tick=progress.advance,
            )
            progress.end()
            sync_tree(options.out / "index")
        fields = fields_of(options.out, job.number, index)
        made = _generation(job, segments, index=index, source=_source(spool), metadata=fields)
        generation = publish(options.out, made)
        remove_other_generations(options.out, generation)
    report = _report(job, spool, segments, resumed, seconds, expected)
    shutil.rmtree(job.work, ignore_errors=True)  # what stays is removed by the next build
    return report


def _others(store: Path) -> Iterator[Generation]:
    """All generations whose manifests can be read."""
    for number in numbers(store):
        with suppress(MemstoreError):
            yield read_generation(store, number)


# --- steps ------------------------------------------------------------------------------------------------------


def read_once(job: Job, progress: Progress) -> Spool:
    """The corpus as it was read before the build was killed, or else read now.

    Raises:
        CorpusError, CorpusFormatError, CorpusNotFound: from the corpus.
        ConfigError: it has changed since, and segments of it are sealed.
    """
    if (job.work / "spool.json").exists():
        spool = Spool(job.work)
        if unchanged(job, spool.counts.content, progress, stamped=spool.counts.stamp):
            return spool
        _begin_again(job)
    return read_corpus(job, job.work, progress)


def _begin_again(job: Job) -> None:
    """Forget what was made of the corpus before it changed."""
    sealed = unfinished_segments(job.options.out, job.kept)
    if sealed and not job.options.rebuild:
        raise ConfigError(
            f"{job.options.out} holds an unfinished build of the corpus as it was before it changed: choose another "
            "--out, or --rebuild, which begins again"
        )
    for segment in sealed:
        shutil.rmtree(segment)
    codec_path(job.options.out, job.prefix).unlink(missing_ok=True)
    for name in ("estimate.json", "spool.json"):  # the spool last: without it, nobody looks for a change
        (job.work / name).unlink(missing_ok=True)


def _estimate(job: Job, spool: Spool, place: Place) -> Estimate:
    """What the store will need; refused at once if the disk has not got it. Kept, so that a resumed build skips it."""
    kept = job.work / "estimate.json"
    if kept.exists():
        return Estimate(**json.loads(kept.read_text(encoding="utf-8")))
    expected = estimate(spool, job.encoder, job.codec, retriever=job.options.retriever, dim=job.embedding_dim)
    check_disk(job.options.out, _bytes_here(job, spool, expected, place))
    with replacing(kept) as part:
        part.write_text(json.dumps(asdict(expected)), encoding="utf-8")
    return expected


def _bytes_here(job: Job, spool: Spool, expected: Estimate, place: Place) -> int:
    """What a build needs of this disk: the store; of one elsewhere the memories of three segments alone, one being
    made, one uploaded, one waiting for that.
    """
    if place.sealed is None:
        return expected.total_bytes
    segments = planned_segments(job, spool)
    return expected.total_bytes - round(expected.memory_bytes * max(0, segments - 3) / segments)


def _source(spool: Spool) -> dict[str, Any]:
    """What the generation keeps of the corpus."""
    names = ("documents", "duplicates", "rows_skipped", "split", "parts", "cut")
    return {name: getattr(spool.counts, name) for name in names} | {"content": asdict(spool.counts.content)}


def _vectors_made_by(job: Job) -> EncoderRef | None:
    if job.options.retriever == "bm25":
        return None
    source = job.sentence or MemoryTextEncoder(job.encoder.model, job.encoder.tokenizer)
    return source.ref()


def _generation(job: Job, segments: list[SegmentRef], **more: Any) -> Generation:
    return Generation(
        number=job.number,
        fingerprint=job.fingerprint,
        codec=job.codec.name,
        vocab_size=job.encoder.model.config.vocab_size,
        settings=job.settings,
        segments=tuple(segments),
        passages=sum(s.passages for s in segments),
        tokens=sum(s.tokens for s in segments),
        retriever=job.options.retriever,
        made_by={"memstore": memstore.__version__, "torch": torch.__version__, "python": platform.python_version()},
        **more,
    )


# --- what is reported -------------------------------------------------------------------------------------------------


def _already_built(job: Job, generation: Generation, progress: Progress) -> BuildReport:
    if (how := _built_otherwise(job, generation, progress)) is not None:
        raise ConfigError(
            f"{job.options.out} holds a finished store {how}; choose another --out, or --rebuild, which builds it "
            "again in its place"
        )
    if job.work.exists():  # killed between publishing and cleaning up; or another process builds it again
        with suppress(MemstoreError), lock(job.work):
            if unfinished_number(job.work) <= generation.number:
                if not generation.change:  # those before a change are to go back to
                    remove_other_generations(job.options.out, generation)
                shutil.rmtree(job.work, ignore_errors=True)
    return BuildReport(
        out=str(job.options.out),
        passages=generation.live,
        tokens=generation.tokens,
        documents=0,
        duplicates=0,
        rows_skipped=0,
        errors=(),
        split=generation.source.get("split", 0),
        parts=generation.source.get("parts", 0),
        cut=generation.source.get("cut", 0),
        store_bytes=folder_bytes(job.options.out),
        bytes_per_token=sum(s.bytes for s in generation.segments) / max(1, generation.tokens),
        predicted_bytes=0,
        segments=len(generation.segments),
        resumed_segments=len(generation.segments),
        seconds={},
        passages_per_second=0.0,
        peak_resident_bytes=peak_resident_bytes(),
        max_passage_tokens=job.fingerprint.max_passage_tokens,
        already_built=True,
    )


def _built_otherwise(job: Job, generation: Generation, progress: Progress) -> str | None:
    """How a finished store differs from what is asked for; None if it does not."""
    if dict(generation.settings) != job.settings or generation.fingerprint != job.fingerprint:
        return "built otherwise (`memstore inspect` says how)"
    known = generation.source.get("content")
    if known is None:
        return "of a version of memstore that did not keep what the corpus said"
    if not unchanged(job, Content(**known), progress):
        return "of the corpus as it was before it changed, though its name and size are the same"
    return None


def _report(
    job: Job, spool: Spool, segments: list[SegmentRef], resumed: int, seconds: dict[str, float], expected: Estimate
) -> BuildReport:
    tokens = sum(s.tokens for s in segments)
    encoded = sum(s.passages for s in segments[resumed:])
    return BuildReport(
        out=str(job.options.out),
        passages=len(spool),
        tokens=tokens,
        documents=spool.counts.documents,
        duplicates=spool.counts.duplicates,
        rows_skipped=spool.counts.rows_skipped,
        errors=spool.counts.errors,
        split=spool.counts.split,
        parts=spool.counts.parts,
        cut=spool.counts.cut,
        store_bytes=folder_bytes(job.options.out) - folder_bytes(job.work),
        bytes_per_token=sum(s.bytes for s in segments) / max(1, tokens),
        predicted_bytes=expected.total_bytes,
        segments=len(segments),
        resumed_segments=resumed,
        seconds=seconds,
        passages_per_second=encoded / seconds["encode"] if encoded else 0.0,
        peak_resident_bytes=peak_resident_bytes(),
        max_passage_tokens=job.fingerprint.max_passage_tokens,
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - begin


def peak_resident_bytes() -> int:
    """The most memory this process has had resident (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
