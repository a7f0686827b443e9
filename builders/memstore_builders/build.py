"""`memstore build`: a corpus becomes a store. Killed anywhere and run again, it resumes to the same bytes.

    1. spool     the corpus, once, cut into passages, duplicates marked       out/.build/spool.*
    2. estimate  a sample encoded and written: is there room on the disk?
    3. segments  each encoded, checksummed, sealed and renamed                out/segments/<id>/
    4. index     over exactly those segments                                  out/index/000001/
    5. publish   the generation, then CURRENT                                 out/generations/, out/CURRENT

What exists under its final name is complete, so resuming is: skip what exists. Knows no HTTP and answers nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import memstore
from memstore import checkpoint
from memstore.embedding import MemoryTextEncoder
from memstore.errors import ConfigError
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.sentence import SentenceEncoder
from memstore.runtime import compute_dtype
from memstore.store import (
    Codec,
    Fingerprint,
    Generation,
    SegmentRef,
    SegmentWriter,
    Store,
    get_codec,
    publish,
    read_generation,
    remove_leftovers,
    sealed_segment,
    sync_tree,
)
from memstore_builders.corpus import open_corpus
from memstore_builders.encode import PassageEncoder
from memstore_builders.estimate import Estimate, check_disk, estimate
from memstore_builders.index import build_index
from memstore_builders.progress import Progress, Silent
from memstore_builders.spool import Spool, write_spool
from memstore_builders.state import absolute, check_place, describe, folder_bytes, lock, same_job, writing

SHARD_BYTES = 64 << 20  # encoded and padded: what bounds the builder's memory beside the model
SHARD_PASSAGES = (64, 4096)  # at least, at most
SEGMENT_SHARDS = 8  # a killed build loses at most one segment's work
MAX_SEGMENTS = 512  # a store of 22 M passages should not open thousands of folders
Retriever = Literal["bm25", "dense", "hybrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What to build, from what, and how.

    Attributes:
        corpus: files, or folders of files.
        out: the store.
        model: a checkpoint folder, a hub id, or "default".
        codec: how memories are kept, "int8" or "bf16".
        retriever: "bm25", "dense" or "hybrid".
        encoder: for dense and hybrid: "memory" (the model's own) or a sentence encoder's folder or hub id.
        corpus_format: a format's name instead of detection.
        on_error: "fail" at the first bad row, or "skip" and count.
        max_words: words per passage at most.
        limit: passages at most.
        device, dtype: where and in what to compute; dtype None is bfloat16 where the processor has it.
        segment_passages: passages per segment; None lets the size of the collection decide.
    """

    corpus: tuple[Path, ...]
    out: Path
    model: str = "default"
    codec: str = "int8"
    retriever: Retriever = "bm25"
    encoder: str = "memory"
    corpus_format: str | None = None
    on_error: Literal["fail", "skip"] = "fail"
    max_words: int = 100
    limit: int | None = None
    device: str = "cpu"
    dtype: str | None = None
    segment_passages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did. `seconds` per stage are this run's; `resumed_segments` an earlier run had made."""

    out: str
    passages: int
    tokens: int
    documents: int
    duplicates: int
    rows_skipped: int
    errors: tuple[str, ...]
    store_bytes: int
    bytes_per_token: float
    predicted_bytes: int
    segments: int
    resumed_segments: int
    seconds: dict[str, float]
    passages_per_second: float
    peak_resident_bytes: int
    already_built: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything fixed before the first passage is encoded."""

    options: BuildOptions
    encoder: PassageEncoder
    codec: Codec
    fingerprint: Fingerprint
    sentence: SentenceEncoder | None
    embedding_dim: int
    settings: dict[str, Any]

    @property
    def work(self) -> Path:
        return self.options.out / ".build"

    @property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What makes two builds the same."""
        return {"settings": self.settings, "fingerprint": asdict(self.fingerprint)}


def prepare(options: BuildOptions) -> _Job:
    """Open the model and fix the settings that name the build.

    Raises:
        ConfigError, CheckpointNotFound, CheckpointError: an option or the model cannot be used.
    """
    codec = get_codec(options.codec)
    if options.retriever not in ("bm25", "dense", "hybrid"):
        raise ConfigError(f"retriever must be bm25, dense or hybrid, not {options.retriever!r}")
    dtype = compute_dtype(options.device, options.dtype)
    model, tokenizer = checkpoint.load(options.model, dtype=dtype, device=options.device)
    dense = options.retriever != "bm25"
    own_vectors = dense and options.encoder == "memory"
    if own_vectors and model.projection is None:
        raise ConfigError(
            f"the model {options.model!r} has no projection for dense retrieval (embedding_dim is 0): "
            "name a sentence encoder with --encoder, or choose --retriever bm25"
        )
    encoder = "memory" if options.encoder == "memory" else absolute(options.encoder)
    sentence = SentenceEncoder(encoder) if dense and not own_vectors else None
    name = options.model if options.model == "default" else absolute(options.model)
    settings = {
        "model": name,
        "model_name": model.config.name,
        "trained": model.config.trained,
        "encoder": encoder if dense else None,
        "corpus": [describe(path) for path in options.corpus],
        "corpus_format": options.corpus_format,
        "on_error": options.on_error,
        "max_words": options.max_words,
        "limit": options.limit,
        "segment_passages": options.segment_passages,
        "retriever": options.retriever,
        "codec": options.codec,
    }
    return _Job(
        options=options,
        encoder=PassageEncoder(model, tokenizer, embed=own_vectors),
        codec=codec,
        fingerprint=checkpoint.fingerprint(model, tokenizer),
        sentence=sentence,
        embedding_dim=0 if not dense else model.config.embedding_dim if sentence is None else sentence.dim,
        settings=settings,
    )


def build(options: BuildOptions, progress: Progress | None = None) -> BuildReport:
    """Build a store, or finish one that a killed build left.

    Memory: the model, a few shards (`SHARD_BYTES` each, encoded), one batch's activations, Tantivy's heap, and 8
    bytes per passage; whatever the corpus.

    Raises:
        CorpusError, CorpusFormatError, CorpusNotFound: from the corpus.
        ConfigError: an option is impossible, `out` lies in a folder of the corpus, or it holds another build, finished
            or with segments sealed.
        DiskSpaceError: the store would not fit, or there is no room for the corpus's passages.
    """
    progress = progress or Silent()
    check_place(options.out, options.corpus)
    job = prepare(options)
    with writing(options.out):
        finished = (options.out / "CURRENT").exists()
    if finished:
        return _already_built(job)
    with lock(job.work):
        with writing(options.out):
            same_job(job.work, job.identity)
            remove_leftovers(options.out)
        seconds: dict[str, float] = {}
        with _timed(seconds, "spool"):
            spool = _spool(job, progress)
        if not len(spool):
            shutil.rmtree(job.work)
            raise ConfigError(f"the corpus holds no passages ({spool.counts.documents} documents were read)")
        with _timed(seconds, "estimate"):
            expected = _estimate(job, spool)
        with _timed(seconds, "encode"):
            segments, resumed = _segments(job, spool, progress)
        with _timed(seconds, "index"):
            generation = _generation(job, segments)
            progress.begin("index", len(spool))
            index = build_index(
                Store(options.out, generation),
                kind=options.retriever,
                encoder=_vectors_made_by(job),
                dim=job.embedding_dim,
                tick=progress.advance,
            )
            progress.end()
            sync_tree(options.out / "index")
        publish(options.out, _generation(job, segments, index=index))
    report = _report(job, spool, segments, resumed, seconds, expected)
    shutil.rmtree(job.work)
    return report


# --- steps ------------------------------------------------------------------------------------------------------


def _spool(job: _Job, progress: Progress) -> Spool:
    if (job.work / "spool.json").exists():
        return Spool(job.work)
    o = job.options
    corpus = open_corpus(
        list(o.corpus), format=o.corpus_format, on_error=o.on_error, max_words=o.max_words, limit=o.limit
    )
    progress.begin("read", None)
    spool = write_spool(corpus, job.work, tick=progress.advance)
    progress.end()
    return spool


def _estimate(job: _Job, spool: Spool) -> Estimate:
    """What the store will need; refused at once if the disk has not got it. Kept, so that a resumed build skips it."""
    kept = job.work / "estimate.json"
    if kept.exists():
        return Estimate(**json.loads(kept.read_text(encoding="utf-8")))
    expected = estimate(spool, job.encoder, job.codec, retriever=job.options.retriever, dim=job.embedding_dim)
    check_disk(job.options.out, expected.total_bytes)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(asdict(expected)), encoding="utf-8")
    part.rename(kept)
    return expected


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


def _segments(job: _Job, spool: Spool, progress: Progress) -> tuple[list[SegmentRef], int]:
    """Every segment, made or found sealed; with how many were found."""
    config = job.encoder.model.config
    shard = shard_passages(job.codec, d_model=config.d_model, max_tokens=config.max_passage_tokens)
    plans = plan_segments(len(spool), shard, job.options.segment_passages)
    prefix = hashlib.sha256(json.dumps(job.identity, sort_keys=True).encode()).hexdigest()[:8]
    names = [f"{prefix}-{i:05d}" for i in range(len(plans))]
    sealed = [sealed_segment(job.options.out, name) for name in names]
    done = sum(len(rows) for rows, ref in zip(plans, sealed, strict=True) if ref is not None)
    progress.begin("encode", len(spool), done=done)
    references = [
        ref or _encode_segment(job, spool, name, rows, shard, progress.advance)
        for name, rows, ref in zip(names, plans, sealed, strict=True)
    ]
    progress.end()
    return references, sum(ref is not None for ref in sealed)


def _encode_segment(
    job: _Job, spool: Spool, name: str, rows: range, shard: int, advance: Callable[[int], None]
) -> SegmentRef:
    """Encode one segment shard by shard. A GPU encodes the next shard while one is written; a CPU does not: there the
    writer's threads and the encoder's would take the cores from each other. Nor does another thread write while this
    one waits: torch would keep a team of threads for each, more than there are cores, and OpenMP then puts threads to
    sleep at every barrier, which slowed the encoder by 10 to 20%.
    """
    config = job.encoder.model.config
    with (
        SegmentWriter(
            job.options.out,
            segment_id=name,
            codec=job.codec,
            d_model=config.d_model,
            max_tokens=config.max_passage_tokens,
            vocab_size=config.vocab_size,
            num_passages=len(rows),
            shard_passages=shard,
            embedding_dim=job.embedding_dim,
        ) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        pending: Future[None] | None = None
        for first in range(rows.start, rows.stop, shard):
            passages = list(spool.read(first, min(first + shard, rows.stop)))
            encoded = job.encoder.encode(passages)
            embeddings = encoded.embeddings
            if job.sentence is not None:
                embeddings = np.asarray(job.sentence.encode_passages(passages), dtype=np.float32)
            done = (passages, encoded.token_ids, encoded.states, embeddings)
            if job.encoder.model.device.type == "cpu":
                writer.write_shard(*done)
            else:
                if pending is not None:
                    pending.result()
                pending = pool.submit(writer.write_shard, *done)
            advance(len(passages))
        if pending is not None:
            pending.result()
        return writer.seal()


def _vectors_made_by(job: _Job) -> EncoderRef | None:
    if job.options.retriever == "bm25":
        return None
    source = job.sentence or MemoryTextEncoder(job.encoder.model, job.encoder.tokenizer)
    return source.ref()


def _generation(job: _Job, segments: list[SegmentRef], **more: Any) -> Generation:
    return Generation(
        number=1,
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


# --- what is told -------------------------------------------------------------------------------------------------


def _already_built(job: _Job) -> BuildReport:
    generation = read_generation(job.options.out)
    if dict(generation.settings) != job.settings or generation.fingerprint != job.fingerprint:
        raise ConfigError(
            f"{job.options.out} holds a finished store built otherwise (`memstore inspect` says how); "
            "choose another --out, or remove it first"
        )
    leftovers = job.work
    if leftovers.exists():  # killed between publishing and cleaning up
        shutil.rmtree(leftovers)
    return BuildReport(
        out=str(job.options.out),
        passages=generation.passages,
        tokens=generation.tokens,
        documents=0,
        duplicates=0,
        rows_skipped=0,
        errors=(),
        store_bytes=folder_bytes(job.options.out),
        bytes_per_token=sum(s.bytes for s in generation.segments) / max(1, generation.tokens),
        predicted_bytes=0,
        segments=len(generation.segments),
        resumed_segments=len(generation.segments),
        seconds={},
        passages_per_second=0.0,
        peak_resident_bytes=peak_resident_bytes(),
        already_built=True,
    )


def _report(
    job: _Job, spool: Spool, segments: list[SegmentRef], resumed: int, seconds: dict[str, float], expected: Estimate
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
        store_bytes=folder_bytes(job.options.out) - folder_bytes(job.work),
        bytes_per_token=sum(s.bytes for s in segments) / max(1, tokens),
        predicted_bytes=expected.total_bytes,
        segments=len(segments),
        resumed_segments=resumed,
        seconds=seconds,
        passages_per_second=encoded / seconds["encode"] if encoded else 0.0,
        peak_resident_bytes=peak_resident_bytes(),
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - begin


def peak_resident_bytes() -> int:
    """The most memory this process has had resident (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
