"""The command line. The one place that may import every package, and only inside its commands.

Exit codes: 0 done, 1 the check failed (`verify`), 2 a user's mistake, told in one line.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from memstore.errors import ConfigError, MemstoreError, OutputUnwritable

app = typer.Typer(
    name="memstore",
    help="Answer questions over large text collections from precomputed passage memories (GLIMMER).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
StoreDir = Annotated[Path, typer.Argument(metavar="DIR", help="The store.")]
Model = Annotated[
    str | None, typer.Option(help="Checkpoint folder or hub id; by default the one that built the store.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Corpus = Annotated[
    list[Path],
    typer.Option(help="Corpus file or folder, plain, .gz or .zst; repeat for several. `sample` is the bundled one."),
]
BuildModel = Annotated[str, typer.Option(help="Checkpoint folder, hub id, or `default`.")]
CodecName = Annotated[str, typer.Option(help="How memories are kept: int8, or bf16 (exact, twice the size).")]
RetrieverName = Annotated[str, typer.Option(help="bm25, dense or hybrid.")]
EncoderName = Annotated[
    str, typer.Option(help="For dense and hybrid: `memory` (the model's own) or a sentence encoder's folder or hub id.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="jsonl, passages, kilt, dpr, wikiextractor or wikiextractor-json; else detected."),
]
OnError = Annotated[str, typer.Option(help="At a bad row: `fail`, or `skip` it and count.")]
MaxWords = Annotated[int, typer.Option(min=1, help="Words per passage at most.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Build only so many passages.")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16 or float32; by default what the processor is fast at.")]


def main() -> None:
    """Entry point: runs a command, and turns the errors raised on purpose into exit code 2."""
    try:
        app()
    except MemstoreError as error:
        print(f"memstore: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("memstore", "memstore_client"):
            raise
        print(f"memstore: this command needs {error.name}: pip install 'memstore[all]'", file=sys.stderr)  # noqa: T201
        sys.exit(2)


@app.command()
def build(
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Folder of the store; a build that was cut off there goes on.")],
    model: BuildModel = "default",
    codec: CodecName = "int8",
    retriever: RetrieverName = "bm25",
    encoder: EncoderName = "memory",
    corpus_format: Format = None,
    on_error: OnError = "fail",
    max_words: MaxWords = 100,
    limit: Limit = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    segment_passages: Annotated[
        int | None, typer.Option(min=1, help="Passages per segment; by default a few shards, more in large stores.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a corpus once and write its memories, texts and search index. Safe to kill and run again."""
    from memstore.report import show_build
    from memstore.runtime import tune_allocator
    from memstore_builders.build import build as run
    from memstore_builders.progress import for_people

    tune_allocator()
    options = _build_options(
        corpus=_corpora(corpus), out=out, model=model, codec=codec, retriever=retriever, encoder=encoder,
        corpus_format=corpus_format, on_error=on_error, max_words=max_words, limit=limit, device=device, dtype=dtype,
        segment_passages=segment_passages,
    )  # fmt: skip
    report = asdict(run(options, for_people()))
    _print(report, as_json, show_build)


@app.command()
def plan(
    corpus: Corpus,
    model: BuildModel = "default",
    codec: CodecName = "int8",
    retriever: RetrieverName = "bm25",
    encoder: EncoderName = "memory",
    corpus_format: Format = None,
    on_error: OnError = "fail",
    max_words: MaxWords = 100,
    limit: Limit = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Predict passages, bytes and time of a build: reads the corpus, encodes a sample, writes nothing."""
    from memstore.report import show_plan
    from memstore.runtime import tune_allocator
    from memstore_builders.plan import plan as run
    from memstore_builders.progress import for_people

    tune_allocator()
    options = _build_options(
        corpus=_corpora(corpus), out=Path(), model=model, codec=codec, retriever=retriever, encoder=encoder,
        corpus_format=corpus_format, on_error=on_error, max_words=max_words, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
    _print(asdict(run(options, for_people())), as_json, show_plan)


@app.command()
def convert(
    t5: Annotated[str, typer.Argument(help="Folder or hub id of a stock T5 (v1.0, v1.1 or Flan).")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    system: Annotated[str, typer.Option(help="fid, lumen or glimmer.")] = "glimmer",
    alpha: Annotated[float | None, typer.Option(help="Share of encoder layers that run live [1/3; FiD: 1].")] = None,
    beta: Annotated[float, typer.Option(help="Share of the live layers before the scorer.")] = 0.25,
    copy_head: Annotated[bool, typer.Option("--copy-head", help="Add a copy head.")] = False,
    embedding_dim: Annotated[int, typer.Option(help="Width of vectors for dense retrieval; 0 for none.")] = 0,
) -> None:
    """Turn a stock T5 checkpoint into a FiD, LUMEN or GLIMMER; what T5 has not begins small and untrained."""
    from memstore import checkpoint

    if system not in ("fid", "lumen", "glimmer"):
        raise ConfigError(f"--system must be fid, lumen or glimmer, not {system!r}")
    model, tokenizer = checkpoint.from_t5(
        t5,
        system=cast("Any", system),
        alpha=alpha,
        beta=beta,
        copy_head=copy_head,
        embedding_dim=embedding_dim,
    )
    checkpoint.save(out, model, tokenizer)
    typer.echo(
        f"wrote {out}: {system}, {model.config.num_memory_layers} memory and {model.config.num_live_layers} live layers"
    )


@app.command()
def inspect(store: StoreDir, as_json: Json = False) -> None:
    """Show what a store holds and what made it."""
    from memstore.inspect import inspect as run
    from memstore.report import show_store

    _print(run(store), as_json, show_store)


@app.command()
def verify(
    store: StoreDir,
    sample: Annotated[int, typer.Option(min=0, help="Passages to encode anew and compare.")] = 64,
    model: Model = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Check every checksum, count and index of a store, and a sample of memories. Exit code 1 if anything is wrong."""
    from memstore.report import show_verification
    from memstore.runtime import tune_allocator
    from memstore_builders.verify import verify as run

    tune_allocator()
    found = run(store, sample=sample, model=model, device=device)
    _print(asdict(found) | {"sound": found.sound}, as_json, show_verification)
    if not found.sound:
        raise typer.Exit(1)


@app.command()
def serve(  # one flag per setting of the server: its `Settings` say what each means
    store: Annotated[Path | None, typer.Option(help="Folder of the store.")] = None,
    model: Model = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 chooses a free one [8080].")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model on a CPU [all].")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Questions answered together at most [8].")] = None,
    max_wait_ms: Annotated[float | None, typer.Option(help="Hold a question back for others to join it [0].")] = None,
    queue_size: Annotated[int | None, typer.Option(help="Questions that may wait; then 429 [64].")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Time to finish when told to stop [5].")] = None,
    retrieve_k: Annotated[int | None, typer.Option(help="Passages retrieved by default [40].")] = None,
    keep_k: Annotated[int | None, typer.Option(help="Passages read by default [10].")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer by default [32].")] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams by default; 1 is greedy [1].")] = None,
    max_retrieve_k: Annotated[int | None, typer.Option(help="Most passages a request may retrieve [200].")] = None,
    max_keep_k: Annotated[int | None, typer.Option(help="Most passages a request may have read [100].")] = None,
    max_new_tokens_limit: Annotated[int | None, typer.Option(help="Most tokens a request may ask for [256].")] = None,
    max_num_beams: Annotated[int | None, typer.Option(help="Most beams a request may ask for [8].")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Size limit of a request [4000000].")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json [text].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
) -> None:
    """Serve a store over HTTP. Every option can also be a variable: MEMSTORE_STORE, MEMSTORE_PORT, ..."""
    flags = dict(locals())
    from memstore.runtime import tune_allocator
    from memstore_server.app import run
    from memstore_server.settings import Settings

    settings = Settings.load(**flags)
    tune_allocator()
    run(settings)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    store: Annotated[Path | None, typer.Option(help="Answer in this process, from this store.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask the server at this address instead.")] = None,
    model: Model = None,
    device: Device = "cpu",
    task: Annotated[str | None, typer.Option(help="A task the model was trained on, such as nq or fever.")] = None,
    retrieve_k: Annotated[int | None, typer.Option(min=1, help="Passages to retrieve and score.")] = None,
    keep_k: Annotated[int | None, typer.Option(min=1, help="Passages to read.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Length limit of the answer.")] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Beams; 1 is greedy.")] = None,
    as_json: Json = False,
) -> None:
    """Ask one question, of a store (--store) or of a running server (--url)."""
    from memstore.report import show_answer

    if (store is None) == (url is None):
        raise ConfigError("name either a store to read (--store DIR) or a server to ask (--url URL)")
    given = {"task": task, "retrieve_k": retrieve_k, "keep_k": keep_k, "max_new_tokens": max_new_tokens,
             "num_beams": num_beams}  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    if url is not None:
        _print(_ask_server(url, question, options), as_json, show_answer)
        return
    assert store is not None
    _print(_ask_store(store, question, options, model=model, device=device), as_json, show_answer)


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="TOML file of the run; a run that was cut off goes on.")],
    plot: Annotated[bool, typer.Option("--plot", help="Only draw the run's losses and scores, as a PNG.")] = False,
    as_json: Json = False,
) -> None:
    """Train FiD, LUMEN or GLIMMER from cached candidates; resumable to the same next batch after a kill."""
    from memstore.train.config import TrainConfig

    settings = TrainConfig.from_file(config)
    if plot:
        from memstore.train.metrics import plot as draw

        typer.echo(f"wrote {draw(Path(settings.out) / 'metrics.jsonl')}")
        return
    from memstore.report import show_training
    from memstore.runtime import tune_allocator
    from memstore.train.loop import train as run

    tune_allocator()
    _print(asdict(run(settings, lambda line: typer.echo(line, err=True))), as_json, show_training)


@app.command()
def prepare(
    store: Annotated[Path, typer.Option(help="The store whose retriever finds the candidates.")],
    out: Annotated[Path, typer.Option(help="Folder of the cache, for `memstore train`.")],
    task: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: questions in KILT's form, such as nq.train=nq.jsonl.")
    ] = None,
    model: BuildModel = "default",
    k: Annotated[int, typer.Option(min=1, help="Passages per question.")] = 20,
    pretrain: Annotated[bool, typer.Option(help="Also sentences to mask, and their lexical neighbours.")] = True,
    pretrain_passages: Annotated[
        int, typer.Option(min=0, help="Passages of the store, evenly spread, beside the candidates.")
    ] = 0,
    pretrain_most: Annotated[
        int, typer.Option(min=0, help="Look for sentences in so many passages, evenly spread; 0 for all.")
    ] = 0,
    neighbours: Annotated[int, typer.Option(min=0, help="Lexical neighbours per passage to pretrain on.")] = 8,
    as_json: Json = False,
) -> None:
    """Find every training question's passages once, mark those that hold an answer, and cache them as token arrays."""
    from memstore.report import StageLines, show_prepared
    from memstore.train.prepare import PrepareOptions, model_tokenizer
    from memstore.train.prepare import prepare as run

    tasks: dict[str, tuple[Path, ...]] = {}
    for entry in task or ():
        name, separator, file = entry.partition("=")
        if not separator:
            raise ConfigError(f"--task must be NAME=FILE, such as nq.train=nq.jsonl, not {entry!r}")
        tasks[name] = (*tasks.get(name, ()), Path(file))
    options = PrepareOptions(
        out=out,
        store=store,
        tasks=tasks,
        k=k,
        pretrain=pretrain,
        pretrain_passages=pretrain_passages,
        pretrain_most=pretrain_most,
        neighbours=neighbours,
    )
    report = run(options, model_tokenizer(model), tick=StageLines(lambda line: typer.echo(line, err=True)))
    _print(asdict(report), as_json, show_prepared)


@app.command()
def tokenizer(
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Folder to write tokenizer.json to.")],
    vocab_size: Annotated[int, typer.Option(min=512, help="Pieces in all.")] = 16384,
    lowercase: Annotated[bool, typer.Option(help="Make capitals small: better for small models.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Learn from every so many passages.")] = 1,
) -> None:
    """Train a tokenizer for a model from scratch, from the passages of a corpus."""
    from itertools import islice

    from memstore.checkpoint import TOKENIZER
    from memstore.tokens import canonical
    from memstore.train.tokenizer import train_tokenizer
    from memstore_builders.corpus import open_corpus

    passages = islice(iter(open_corpus(_corpora(corpus))), 0, None, every)
    made = train_tokenizer((f"{p.title}: {p.text}" for p in passages), vocab_size=vocab_size, lowercase=lowercase)
    out.mkdir(parents=True, exist_ok=True)
    (out / TOKENIZER).write_text(canonical(made), encoding="utf-8")
    typer.echo(f"wrote {out / TOKENIZER}: {made.get_vocab_size():,} pieces")


@app.command()
def new(
    config: Annotated[Path, typer.Option(help="The model's config.json; vocab_size may be left out.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of its tokenizer.json.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the weights.")] = 0,
) -> None:
    """Make a model with random weights: something to build a first store with, whose passages training reads."""
    from memstore import checkpoint

    values = checkpoint.read_json(config)
    model, tokens = checkpoint.from_scratch(
        values | {"trained": False}, tokenizer=checkpoint.read_tokenizer(tokenizer), seed=seed
    )
    checkpoint.save(out, model, tokens)
    typer.echo(f"wrote {out}: {sum(p.numel() for p in model.parameters()):,} parameters, untrained")


@app.command()
def vectors(
    cache: Annotated[Path, typer.Option(help="A cache of `memstore prepare`, whose passages are counted.")],
    out: Annotated[Path, typer.Option(help="File to write, for `vectors` of a training config.")],
    width: Annotated[int, typer.Option(min=1, help="Of the model, d_model.")],
    window: Annotated[int, typer.Option(min=1, help="Tokens on either side that count as company.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of noise and of rare tokens.")] = 0,
) -> None:
    """Make token vectors from co-occurrence counts, for models from scratch to begin with."""
    from memstore.train.candidates import read_manifest
    from memstore.train.ragged import Ragged
    from memstore.train.vectors import cooccurrences, token_vectors, write_vectors

    size, passages = read_manifest(cache).vocab_size, Ragged.load(cache, "passages")
    write_vectors(out, token_vectors(cooccurrences(passages, vocab_size=size, window=window), width=width, seed=seed))
    typer.echo(f"wrote {out}: {size:,} tokens, width {width}, from {len(passages.values):,} tokens of passages")


@app.command()
def score(
    gold: Annotated[Path, typer.Argument(help="Questions with answers and provenance, in KILT's form.")],
    predictions: Annotated[Path, typer.Argument(help="Predictions in KILT's form.")],
    as_json: Json = False,
) -> None:
    """Score KILT-format predictions as KILT's official evaluation does, with bootstrap intervals."""
    from memstore.evaluate import score_files
    from memstore.report import show_scores

    _print(score_files(gold, predictions).as_dict(), as_json, show_scores)


@app.command()
def compare(
    config: Annotated[Path, typer.Option(help="TOML file of the comparison; one that was cut off goes on.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Train and measure this system alone, timing none; repeat for several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train or load several systems, measure quality and cost over a grid, and write one report."""
    from memstore.compare.config import CompareConfig
    from memstore.compare.run import compare as run
    from memstore.report import show_comparison
    from memstore.runtime import tune_allocator

    tune_allocator()
    settings = CompareConfig.from_file(config)
    found = run(settings, lambda line: typer.echo(line, err=True), only=tuple(only or ()))
    _print(found | {"out": str(settings.out)}, as_json, show_comparison)


@app.command()
def flops(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder, hub id, or `default`: whose shape counts.")
    ] = "default",
    question_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the question.")] = 20,
    passage_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each passage.")] = 128,
    retrieve_k: Annotated[int, typer.Option(min=1, help="Passages retrieved.")] = 40,
    keep_k: Annotated[int, typer.Option(min=1, help="Passages kept after reranking.")] = 10,
    new_tokens: Annotated[int, typer.Option(min=1, help="Decoder steps of the answer.")] = 16,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams; 1 is greedy.")] = 1,
    as_json: Json = False,
) -> None:
    """Count what one question costs FiD, LUMEN and GLIMMER: operations, bytes and parameters, stage by stage."""
    from memstore.compare.costs import Lengths, costs
    from memstore.report import show_costs

    lengths = Lengths(
        question_tokens=question_tokens, passage_tokens=passage_tokens, retrieve_k=retrieve_k, keep_k=keep_k,
        new_tokens=new_tokens, num_beams=num_beams,
    )  # fmt: skip
    _print(asdict(costs(model, lengths)), as_json, show_costs)


@app.command()
def evaluate(
    store: Annotated[Path, typer.Option(help="The store to answer from.")],
    data: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]FILE", help="Questions in KILT's form; the name, by default squad of "
                     "squad.dev.jsonl, is the task they are asked as, if the model knows it. Repeat for several."),
    ],
    train_data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Training questions of a task: take its majority answer from them."),
    ] = None,
    model: Model = None,
    retrieve_k: Annotated[int, typer.Option(min=1, help="Passages to retrieve and score.")] = 40,
    keep_k: Annotated[int | None, typer.Option(min=1, help="Passages to read [10, or all if fewer].")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of the answer.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many questions of a file, evenly spread.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write predictions in KILT's format; of several files, OUT.NAME.jsonl each."),
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(help="Write the wrong answers, most instructive first: .md to read, or .jsonl.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Answer files of questions as a server would, and score answers, pages and both orders of the passages."""
    from memstore.evaluate.outputs import named_files
    from memstore.evaluate.run import EvaluateOptions
    from memstore.evaluate.run import evaluate as run
    from memstore.report import show_evaluation
    from memstore.runtime import tune_allocator
    from memstore_builders.progress import for_people

    tune_allocator()
    options = EvaluateOptions(
        store=store, data=named_files(data), train_data=named_files(train_data or ()), model=model,
        retrieve_k=retrieve_k, keep_k=min(10, retrieve_k) if keep_k is None else keep_k,
        max_new_tokens=max_new_tokens, batch=batch, limit=limit, predictions=predictions, errors=errors, device=device,
    )  # fmt: skip
    report = run(options, progress=for_people())
    _print(report, as_json, show_evaluation)
    if report["unwritten"]:
        raise OutputUnwritable("; ".join(report["unwritten"]))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to build the sample's store.")] = Path("demo-store"),
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Do not stop the server at the end.")] = False,
) -> None:
    """Build a store from the bundled sample, serve it on a free port, and ask it five questions over HTTP."""
    from memstore.demo import run

    run(out, keep_serving=keep_serving, ask=lambda url, question: _ask_server(url, question, {}))


# --- helpers --------------------------------------------------------------------------------------------------


def _build_options(**values: Any) -> Any:
    from memstore_builders.build import BuildOptions

    if values["on_error"] not in ("fail", "skip"):
        raise ConfigError(f"--on-error must be fail or skip, not {values['on_error']!r}")
    return BuildOptions(**values)


def _corpora(paths: list[Path]) -> tuple[Path, ...]:
    from memstore_builders.corpus import sample_corpus

    return tuple(sample_corpus() if str(p) == "sample" and not p.exists() else p for p in paths)


def _ask_store(
    store: Path, question: str, options: dict[str, Any], *, model: str | None, device: str
) -> dict[str, Any]:
    from memstore.answer import Answerer, Question
    from memstore.runtime import tune_allocator

    tune_allocator()
    answerer = Answerer.open(store, model=model, device=device)
    if "retrieve_k" in options and "keep_k" not in options:
        options["keep_k"] = min(options["retrieve_k"], Question(text=question).keep_k)
    reply = asdict(answerer.answer([Question(text=question, **options)])[0])
    reply["answer"] = reply.pop("text")
    reply["passages"] = [one.pop("passage") | one for one in reply["passages"]]
    return reply | answerer.info()


def _ask_server(url: str, question: str, options: dict[str, Any]) -> dict[str, Any]:
    from memstore_client import Client, MemstoreClientError

    try:
        with Client(url) as client:
            return client.answer(question, **options).model_dump()
    except MemstoreClientError as error:
        raise ConfigError(f"{url}: {error}") from error


def _print(values: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(values, ensure_ascii=False, default=str))  # noqa: T201
    else:
        show(values)
