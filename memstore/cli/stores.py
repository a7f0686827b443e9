"""Commands that build and look after stores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from memstore.cli.app import (
    BuildModel,
    CodecName,
    CorpusOption,
    Device,
    Dtype,
    EncoderName,
    Format,
    Json,
    Limit,
    MaxWords,
    Model,
    OnError,
    OnLong,
    RetrieverName,
    StoreDir,
    app,
    corpora,
    print_result,
)
from memstore.errors import ConfigError


@app.command()
def build(
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="Folder of the store; a build that was cut off there goes on.")],
    model: BuildModel = "default",
    codec: CodecName = "int8",
    retriever: RetrieverName = "bm25",
    encoder: EncoderName = "memory",
    corpus_format: Format = None,
    on_error: OnError = "fail",
    max_words: MaxWords = 100,
    on_long: OnLong = "split",
    limit: Limit = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    segment_passages: Annotated[
        int | None, typer.Option(min=1, help="Passages per segment; by default a few shards, more in large stores.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Make a store in so many shards (`docs/sharding.md`).")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build again in place of a finished store, or of an unfinished build.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="auto|ADDRESS", help="Encode on the workers of a Ray cluster [this process].")
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers at most [what the cluster has room for].")
    ] = None,
    ray_threads: Annotated[int, typer.Option(min=1, help="Threads, and so CPUs, of each worker.")] = 1,
    as_json: Json = False,
) -> None:
    """Read a corpus once and write its memories, texts and search index. Safe to kill and run again."""
    from memstore.cli.show import show_build
    from memstore.machine import tune_allocator
    from memstore_builders.build import build as run
    from memstore_builders.progress import for_people
    from memstore_builders.shards import build_shards

    tune_allocator()
    options = _build_options(
        corpus=corpora(corpus), out=out, model=model, codec=codec, retriever=retriever, encoder=encoder,
        corpus_format=corpus_format, on_error=on_error, max_words=max_words, on_long=on_long, limit=limit,
        device=device, dtype=dtype, segment_passages=segment_passages, rebuild=rebuild,
        ray=ray, ray_workers=ray_workers, ray_threads=ray_threads,
    )  # fmt: skip
    report = run(options, for_people()) if shards is None else build_shards(options, shards, for_people())
    print_result(asdict(report), as_json, show_build)


@app.command()
def plan(
    corpus: CorpusOption,
    model: BuildModel = "default",
    codec: CodecName = "int8",
    retriever: RetrieverName = "bm25",
    encoder: EncoderName = "memory",
    corpus_format: Format = None,
    on_error: OnError = "fail",
    max_words: MaxWords = 100,
    on_long: OnLong = "split",
    limit: Limit = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Predict passages, bytes and time of a build: reads the corpus, encodes a sample, writes nothing."""
    from memstore.cli.show import show_plan
    from memstore.machine import tune_allocator
    from memstore_builders.plan import plan as run
    from memstore_builders.progress import for_people

    tune_allocator()
    options = _build_options(
        corpus=corpora(corpus), out=Path(), model=model, codec=codec, retriever=retriever, encoder=encoder,
        corpus_format=corpus_format, on_error=on_error, max_words=max_words, on_long=on_long, limit=limit,
        device=device, dtype=dtype,
    )  # fmt: skip
    print_result(asdict(run(options, for_people())), as_json, show_plan)


@app.command()
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Folder or hub id of a stock T5 (v1.0, v1.1 or Flan), or with --weights of one of ours."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    system: Annotated[str | None, typer.Option(help="fid, lumen or glimmer [glimmer].")] = None,
    alpha: Annotated[float | None, typer.Option(help="Share of encoder layers that run live [1/3; FiD: 1].")] = None,
    beta: Annotated[float | None, typer.Option(help="Share of the live layers before the scorer [0.25].")] = None,
    copy_head: Annotated[bool, typer.Option("--copy-head", help="Add a copy head.")] = False,
    embedding_dim: Annotated[int, typer.Option(help="Width of vectors for dense retrieval; 0 for none.")] = 0,
    weights: Annotated[
        str | None, typer.Option(help="What parameters are kept in: float32, bfloat16, int8 [as they are].")
    ] = None,
) -> None:
    """Turn a stock T5 checkpoint into a FiD, LUMEN or GLIMMER; what T5 has not begins small and untrained. Or keep the
    weights of one of ours in other numbers.
    """
    from memstore import checkpoint as checkpoints
    from memstore.checkpoint.files import check_folder

    if weights not in (None, "float32", "bfloat16", "int8"):
        raise ConfigError(f"--weights must be float32, bfloat16 or int8, not {weights!r}")
    if weights is not None and checkpoints.is_own(checkpoint):
        if (system, alpha, beta, copy_head, embedding_dim) != (None, None, None, False, 0):
            raise ConfigError(f"{checkpoint} is memstore's own already: only --weights can be changed")
        check_folder(out, inputs=[checkpoint])
        model, tokenizer = checkpoints.load(checkpoint)
        checkpoints.save(out, model, tokenizer, weights=cast("Any", weights))
        typer.echo(f"wrote {out}: the same model, its weights in {weights}")
        return
    system = system or "glimmer"
    if system not in ("fid", "lumen", "glimmer"):
        raise ConfigError(f"--system must be fid, lumen or glimmer, not {system!r}")
    check_folder(out, inputs=[checkpoint])
    model, tokenizer = checkpoints.from_t5(
        checkpoint,
        system=cast("Any", system),
        alpha=alpha,
        beta=0.25 if beta is None else beta,
        copy_head=copy_head,
        embedding_dim=embedding_dim,
    )
    checkpoints.save(out, model, tokenizer, weights=cast("Any", weights))
    typer.echo(
        f"wrote {out}: {system}, {model.config.num_memory_layers} memory and {model.config.num_live_layers} live layers"
    )


@app.command()
def recompress(
    store: Annotated[Path, typer.Option(help="A store of bf16 or int8; it stays as it is.")],
    codec: CodecName,
    out: Annotated[Path, typer.Option(help="Folder of the new store; a run that was cut off there goes on.")],
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Make a store of another codec from one of bf16 or int8: the same passages, found by the same searches."""
    from memstore.cli.show_changes import show_recompressed
    from memstore.machine import tune_allocator
    from memstore_builders.progress import for_people
    from memstore_builders.recompress import recompress as run

    tune_allocator()
    report = asdict(run(store, out, codec=codec, model=model, progress=for_people()))
    print_result(report, as_json, show_recompressed)


@app.command()
def inspect(store: StoreDir, as_json: Json = False) -> None:
    """Show what a store holds and what made it."""
    from memstore.cli.show import show_store
    from memstore.store.describe import inspect as run

    print_result(run(store), as_json, show_store)


@app.command()
def verify(
    store: StoreDir,
    sample: Annotated[int, typer.Option(min=0, help="Passages to encode again and compare.")] = 64,
    absent: Annotated[
        list[str] | None,
        typer.Option(help="Id of a document of which nothing may be left in any file; repeat for several."),
    ] = None,
    model: Model = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Check every checksum, count and index of a store, its earlier generations, and a sample of memories. Exit code 1
    if anything is wrong.
    """
    from memstore.cli.show import show_verification
    from memstore.machine import tune_allocator
    from memstore.store.shard_list import is_sharded
    from memstore_builders.verify import verify as run
    from memstore_builders.verify_shards import verify_shards

    tune_allocator()
    found = (verify_shards if is_sharded(store) else run)(
        store, sample=sample, model=model, device=device, absent=absent or ()
    )
    print_result(asdict(found) | {"sound": found.sound}, as_json, show_verification)
    if not found.sound:
        raise typer.Exit(1)


def _build_options(**values: Any) -> Any:
    from memstore_builders.job import BuildOptions

    if values["on_error"] not in ("fail", "skip"):
        raise ConfigError(f"--on-error must be fail or skip, not {values['on_error']!r}")
    if values["on_long"] not in ("split", "cut", "fail"):
        raise ConfigError(f"--on-long must be split, cut or fail, not {values['on_long']!r}")
    return BuildOptions(**values)
