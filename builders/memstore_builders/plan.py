"""`memstore plan`: what a build would need, before it is begun. Reads the corpus, encodes a sample, writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from memstore_builders.estimate import estimate
from memstore_builders.fit import fit
from memstore_builders.job import BuildOptions, prepare
from memstore_builders.progress import Progress, Silent
from memstore_builders.reading import read_corpus
from memstore_builders.state import scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a build of this corpus with these options would make, and need.

    `store_bytes` is the finished store; while building, the spool of texts (`spool_bytes`) is on the disk too. `split`,
    `parts` and `cut` are what would become of passages longer than `max_passage_tokens` (see `SpoolCounts`).
    """

    documents: int
    passages: int
    duplicates: int
    rows_skipped: int
    tokens: int
    store_bytes: int
    memory_bytes: int
    index_bytes: int
    spool_bytes: int
    bytes_per_token: float
    passages_per_second: float
    seconds: float
    split: int
    parts: int
    cut: int
    max_passage_tokens: int


def plan(options: BuildOptions, progress: Progress | None = None) -> Plan:
    """Predict passages, bytes and time of `build(options)` on this machine; `options.out` is not touched.

    Raises:
        As `build`, the disk aside.
    """
    progress = progress or Silent()
    job = prepare(options)
    with scratch() as folder:
        spool = read_corpus(job, folder, progress)
        spool_bytes = sum(f.stat().st_size for f in folder.iterdir())
        codec = fit(job, spool, progress)
        expected = estimate(spool, job.encoder, codec, retriever=options.retriever, dim=job.embedding_dim)
    counts = spool.counts
    return Plan(
        documents=counts.documents,
        passages=counts.passages,
        duplicates=counts.duplicates,
        rows_skipped=counts.rows_skipped,
        tokens=expected.tokens,
        store_bytes=expected.total_bytes,
        memory_bytes=expected.segment_bytes,
        index_bytes=expected.index_bytes,
        spool_bytes=spool_bytes,
        bytes_per_token=expected.segment_bytes / max(1, expected.tokens),
        passages_per_second=expected.passages_per_second,
        seconds=expected.seconds,
        split=counts.split,
        parts=counts.parts,
        cut=counts.cut,
        max_passage_tokens=job.fingerprint.max_passage_tokens,
    )
