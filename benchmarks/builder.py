"""Building: the whole encode stage of `memstore build` against the bare encoder forward over the same batches.

The stage reads the spool, tokenises, batches by length, runs the memory encoder, encodes with the codec, and writes and
seals shards with checksums. The baseline gets ready batches of token ids, and keeps no states.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import TOTAL, Options, Report, Times, ratio, take_turns
from benchmarks.inputs import corpus_file, glimmer_checkpoint
from benchmarks.peak import peak, share_row
from memstore.machine import StageTimer
from memstore.model.flops import memory_flops
from memstore.model.packed import Tokens
from memstore.passage import Passage
from memstore.store import Codec, SegmentWriter
from memstore_builders.build import build
from memstore_builders.corpus import open_corpus
from memstore_builders.encode import EncodedPassages, PassageEncoder, length_batches
from memstore_builders.job import BuildOptions, prepare
from memstore_builders.segments import shard_passages

PASSAGES = 4032  # four shards of the default model
OF_T5_ON_CPU = 256  # more would take minutes a round
CODEC = "int8"
AIM = 0.85


def run(options: Options) -> Report:
    """Time both, in turns. Then time each part of the stage alone, on one shard."""
    limit = 96 if options.quick else OF_T5_ON_CPU if options.size and options.device == "cpu" else PASSAGES
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder:
        corpus = corpus_file(options, Path(folder), documents=limit)
        model = "default" if options.size is None else str(glimmer_checkpoint(options, Path(folder) / "model"))
        chosen = BuildOptions(
            corpus=(corpus,), out=Path(folder) / "store", model=model, codec=CODEC, limit=limit, device=options.device
        )
        job = prepare(chosen)
        config = job.encoder.model.config
        shard = shard_passages(job.codec, d_model=config.d_model, max_tokens=config.max_passage_tokens)
        passages = list(open_corpus([corpus], limit=limit))
        batches = _batches(job.encoder, passages, shard)
        subjects = {"forward": lambda _: _forward(job.encoder, batches), "build": lambda s: _build(chosen, s)}
        times = take_turns(subjects, rounds=1 if options.quick else 5, device=options.device)
        parts = _parts(job.encoder, job.codec, passages[:shard], Path(folder))
    stage = Times(tuple({TOTAL: r["encode stage"]} for r in times["build"].rounds))
    lengths = [length for b in batches for length in b.layout.lengths.tolist()]
    most = peak(options, job.encoder.model.dtype)
    return Report(
        name="builder",
        claim="bare encoder forward over the builder's whole encode stage (1 would be: nothing but the forward)",
        settings={
            "passages": len(passages),
            "tokens": sum(lengths),
            "batches": len(batches),
            "codec": CODEC,
            "model": config.name,
            "d_model": config.d_model,
            "memory_layers": config.num_memory_layers,
            "device": options.device,
            "corpus": corpus.name,
            "dtype": str(job.encoder.model.dtype).removeprefix("torch."),
        },
        ratios=[ratio("passages/s", times["forward"].of(), stage.of(), aim=None if options.quick else AIM)],
        times={"forward": times["forward"].summary(), "encode stage": stage.summary()},
        figures={
            "passages/s, encode stage": len(passages) / stage.median() * 1e3,
            "passages/s, forward": len(passages) / times["forward"].median() * 1e3,
            **{f"one shard alone, ms, {name}": value for name, value in parts.items()},
        },
        rows=[
            share_row(name, milliseconds=milliseconds, flops=memory_flops(config, lengths), peak=most)
            for name, milliseconds in (("bare forward", times["forward"].median()), ("encode stage", stage.median()))
        ],
    )


def _batches(encoder: PassageEncoder, passages: list[Passage], shard: int) -> list[Tokens]:
    """The batches that the builder makes, shard by shard."""
    batches = []
    for first in range(0, len(passages), shard):
        ids = [torch.from_numpy(i) for i in encoder.tokenizer.passages(passages[first : first + shard])]
        for batch in length_batches([len(i) for i in ids], encoder.batch_tokens):
            batches.append(Tokens.of([ids[i] for i in batch]).to(encoder.model.device))
    return batches


@torch.inference_mode()
def _forward(encoder: PassageEncoder, batches: list[Tokens]) -> None:
    for batch in batches:
        encoder.model.encode_passages(batch)


def _build(chosen: BuildOptions, stages: StageTimer) -> None:
    """Build from nothing, and take the time of the encode stage from the build's own report."""
    report = build(chosen)
    stages.milliseconds["encode stage"] = report.seconds["encode"] * 1e3
    shutil.rmtree(chosen.out)


def _parts(encoder: PassageEncoder, codec: Codec, passages: list[Passage], folder: Path) -> dict[str, float]:
    """Milliseconds of each part alone. In a build, a shard is written while the next one is encoded."""
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        times[name] = (time.perf_counter() - begin) * 1e3
        return result

    timed("tokenise", lambda: encoder.tokenizer.passages(passages))
    batches = _batches(encoder, passages, len(passages))
    timed("forward", lambda: _forward(encoder, batches))
    encoded: EncodedPassages = timed("tokenise, forward, put in order", lambda: encoder.encode(passages))
    token_ids = torch.from_numpy(np.concatenate(encoded.token_ids).astype(np.int64))
    timed("codec", lambda: codec.encode(torch.cat(encoded.states), token_ids))
    config = encoder.model.config
    writer = SegmentWriter(
        folder,
        segment_id="parts",
        codec=codec,
        d_model=config.d_model,
        max_tokens=config.max_passage_tokens,
        vocab_size=config.vocab_size,
        num_passages=len(passages),
        shard_passages=len(passages),
    )
    timed("codec, compress, write", lambda: writer.write_shard(passages, encoded.token_ids, encoded.states))
    timed("checksum, fsync, seal", writer.seal)
    return times
