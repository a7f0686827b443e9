"""What a build is asked for, and everything that is fixed before its first passage is encoded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from memstore import checkpoint
from memstore.errors import ConfigError
from memstore.machine import compute_dtype
from memstore.retrieve.sentence import SentenceEncoder
from memstore.store import Codec, Fingerprint, Generation, TablesRef, get_codec
from memstore_builders.encode import PassageEncoder
from memstore_builders.long_passages import OnLong
from memstore_builders.state import WORK, absolute, describe

RetrieverKind = Literal["bm25", "dense", "hybrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What to build, from what, and how.

    Attributes:
        corpus: files, or folders of files.
        out: the store.
        model: a checkpoint folder, a hub id, or "default".
        codec: how memories are kept; see `memstore.codec.CODECS`.
        retriever: "bm25", "dense" or "hybrid".
        encoder: for dense and hybrid: "memory" (the model's own) or a sentence encoder's folder or hub id.
        corpus_format: a format's name instead of detection.
        on_error: "fail" at the first bad row, or "skip" and count.
        max_words: words per passage at most.
        on_long: what becomes of a passage with more tokens than the model reads: "split" into several, "cut", so that
            its memory lacks its end, or "fail" (see `long_passages`).
        limit: passages at most.
        device, dtype: where and in what to compute; dtype None is bfloat16 where the processor has it.
        segment_passages: passages per segment; None lets the size of the collection decide.
        shard: number of the shard that this is, and of how many; None for a store that is no shard.
        rebuild: build again in place of a finished store, or of what an unfinished build of something else left.
        ray: address of a Ray cluster whose workers encode the segments, "auto" for the one of this machine; None for
            this process.
        ray_workers, ray_threads: how many workers, None for as many as the cluster has room for; threads of each.
    """

    corpus: tuple[Path, ...]
    out: Path
    model: str = "default"
    codec: str = "int8"
    retriever: RetrieverKind = "bm25"
    encoder: str = "memory"
    corpus_format: str | None = None
    on_error: Literal["fail", "skip"] = "fail"
    max_words: int = 100
    on_long: OnLong = "split"
    limit: int | None = None
    device: str = "cpu"
    dtype: str | None = None
    segment_passages: int | None = None
    shard: tuple[int, int] | None = None
    rebuild: bool = False
    ray: str | None = None
    ray_workers: int | None = None
    ray_threads: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """Everything fixed before the first passage is encoded.

    Attributes:
        codec: before it is fitted, if it learns anything; `memstore_builders.fit` gives a job with the fitted one.
        tables: what names what it learned, in the store.
        replaces: the generation in force, where a finished store is built again; `others` are all that are there and
            can be read, and `last` the highest number of one.
    """

    options: BuildOptions
    encoder: PassageEncoder
    codec: Codec
    fingerprint: Fingerprint
    sentence: SentenceEncoder | None
    embedding_dim: int
    settings: dict[str, Any]
    tables: TablesRef | None = None
    replaces: Generation | None = None
    others: tuple[Generation, ...] = ()
    last: int = 0

    @property
    def work(self) -> Path:
        """The folder of what only an unfinished build needs."""
        return self.options.out / WORK

    @property
    def number(self) -> int:
        """Of the generation to publish."""
        return self.last + 1

    @property
    def kept(self) -> frozenset[str]:
        """Names of the segments and tables of all generations that are there."""
        names = ([*(ref.id for ref in one.segments), *(ref.file for ref in one.tables)] for one in self.others)
        return frozenset(chain.from_iterable(names))

    @property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What makes two builds the same."""
        again = {"generation": {"number": self.number}} if self.replaces is not None else {}
        return {"settings": self.settings, "fingerprint": asdict(self.fingerprint), **again}

    @property
    def prefix(self) -> str:
        """What the names of this build's segments and tables begin with."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:8]


def prepare(options: BuildOptions) -> Job:
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
        "on_long": options.on_long,
        "limit": options.limit,
        "segment_passages": options.segment_passages,
        "retriever": options.retriever,
        "codec": options.codec,
    }
    if options.shard is not None:
        settings["shard"] = {"number": options.shard[0], "of": options.shard[1]}
    return Job(
        options=options,
        encoder=PassageEncoder(model, tokenizer, embed=own_vectors),
        codec=codec,
        fingerprint=checkpoint.fingerprint(model, tokenizer),
        sentence=sentence,
        embedding_dim=0 if not dense else model.config.embedding_dim if sentence is None else sentence.dim,
        settings=settings,
    )
