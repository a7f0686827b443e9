"""What a build will need, from a sample: bytes on disk and seconds. `plan` prints it; `build` checks the disk by it.

The sample is really encoded and really written, then scaled by the characters of the whole collection, which the
first pass over the corpus has counted: tokens and bytes follow characters far more closely than passages.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memstore.errors import DiskSpaceError
from memstore.passage import Passage
from memstore.store import Codec, SegmentWriter, write_tables
from memstore_builders.encode import PassageEncoder
from memstore_builders.spool import Spool
from memstore_builders.state import scratch

SAMPLE_PASSAGES = 1024
ENCODED_PASSAGES = 256  # of the sample; encoding is what takes time
VECTOR_INDEX_BYTES = 1.05  # faiss: bytes per byte of vector at most: flat, with ids; IVF keeps a quarter
INDEX_TEXT_RATIO = 0.26  # Tantivy: bytes of index per character of titles and texts (Simple Wikipedia: 0.254)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a build of these passages is expected to need.

    `segment_bytes` are memories, what their codec learned, token ids and passage texts; `index_bytes` the search
    indexes; `seconds` the encoding alone, at the rate of the sample; `memory_bytes` memories and token ids alone.
    """

    passages: int
    tokens: int
    segment_bytes: int
    index_bytes: int
    passages_per_second: float
    seconds: float
    memory_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All that the finished store occupies."""
        return self.segment_bytes + self.index_bytes


def estimate(spool: Spool, encoder: PassageEncoder, codec: Codec, *, retriever: str, dim: int) -> Estimate:
    """Encode and write a sample, and scale by characters.

    Args:
        spool: the whole collection.
        encoder: what would encode it.
        codec: how memories would be kept; fitted, if it learns anything.
        retriever: "bm25", "dense" or "hybrid".
        dim: width of the vectors for dense retrieval; 0 for none.
    """
    sample = spool.sample(SAMPLE_PASSAGES)
    if not sample:
        return Estimate(0, 0, 0, 0, 0.0, 0.0)
    sample_tokens = sum(len(ids) for ids in encoder.tokenizer.passages(sample))
    tokens = sample_tokens * spool.counts.characters / _characters(sample)
    step = max(1, len(sample) // ENCODED_PASSAGES)
    chosen = range(0, len(sample), step)
    rate, token_bytes, passage_bytes = _write_sample([sample[i] for i in chosen], encoder, codec, dim)
    lines = passage_bytes * spool.counts.characters / _characters([sample[i] for i in chosen])
    lexical = 0.0 if retriever == "dense" else INDEX_TEXT_RATIO * spool.counts.characters
    dense = 0.0 if retriever == "bm25" else VECTOR_INDEX_BYTES * dim * 4 * len(spool)
    return Estimate(
        passages=len(spool),
        tokens=round(tokens),
        segment_bytes=round(tokens * token_bytes + lines + dim * 4 * len(spool)) + _table_bytes(codec),
        index_bytes=round(lexical + dense),
        passages_per_second=rate,
        seconds=len(spool) / rate,
        memory_bytes=round(tokens * token_bytes),
    )


def _write_sample(
    passages: list[Passage], encoder: PassageEncoder, codec: Codec, dim: int
) -> tuple[float, float, float]:
    """Passages per second; bytes per token of memories and token ids; bytes of everything else for these passages."""
    encoder.encode(passages[:32])  # warm up: the first calls choose kernels
    begin = time.perf_counter()
    encoded = encoder.encode(passages)
    with scratch() as folder:
        config = encoder.model.config
        writer = SegmentWriter(
            folder,
            segment_id="sample",
            codec=codec,
            d_model=config.d_model,
            max_tokens=config.max_passage_tokens,
            vocab_size=config.vocab_size,
            num_passages=len(passages),
            shard_passages=len(passages),
            embedding_dim=dim,
            tables=write_tables(folder, "sample", codec),
        )
        vectors = encoded.embeddings
        if dim and vectors is None:
            vectors = np.zeros((len(passages), dim), np.float32)
        writer.write_shard(passages, encoded.token_ids, encoded.states, vectors)
        reference = writer.seal()
        seconds = time.perf_counter() - begin
        memory = folder / "segments" / "sample" / "memory.zarr"
        memory_bytes = sum(f.stat().st_size for f in memory.rglob("*") if f.is_file()) - dim * 4 * len(passages)
    return len(passages) / seconds, memory_bytes / reference.tokens, reference.bytes - memory_bytes


def _table_bytes(codec: Codec) -> int:
    """What the codec learned, which is kept once."""
    return sum(table.nbytes for table in codec.tables().values())


def _characters(passages: list[Passage]) -> int:
    return max(1, sum(len(p.title) + len(p.text) for p in passages))


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DiskSpaceError: the folder's disk has less than `needed` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskSpaceError(
            f"the store needs about {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free at {folder}. "
            "Free some space, choose another --out, or build less (--limit, --codec int8)."
        )
