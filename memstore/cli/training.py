"""Commands that make models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from memstore.cli.app import BuildModel, CorpusOption, Device, Dtype, Json, app, corpora, print_result
from memstore.errors import ConfigError


@app.command()
def prepare(
    store: Annotated[Path, typer.Option(help="The store whose retriever finds the candidates.")],
    out: Annotated[Path, typer.Option(help="Folder of the cache, for `memstore train`.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: questions in KILT's form, such as nq.train=nq.jsonl; repeat for several."),
    ] = None,
    model: BuildModel = "default",
    k: Annotated[int, typer.Option(min=1, help="Candidate passages for each question.")] = 20,
    pretrain: Annotated[bool, typer.Option(help="Also prepare sentences to mask, and lexical neighbours.")] = True,
    pretrain_passages: Annotated[int, typer.Option(min=0, help="More passages of the store, evenly spread.")] = 0,
    pretrain_most: Annotated[
        int, typer.Option(min=0, help="Search this many passages for sentences, evenly spread; 0 for all.")
    ] = 0,
    neighbours: Annotated[int, typer.Option(min=0, help="Lexical neighbours per passage to pretrain on.")] = 8,
    supported: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME of a set made by `memstore questions`: leave out passages that hold an answer by chance."
        ),
    ] = None,
    elsewhere: Annotated[
        list[str] | None,
        typer.Option(help="NAME of a set: leave out passages of the page that a question was made from."),
    ] = None,
    asked: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME of a set made by `memstore generate-questions`: leave out other passages that hold an answer."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the passages for every training question, mark those that hold an answer, and cache all as token arrays."""
    from memstore.cli.show import StageLines, show_prepared
    from memstore.train.data.prepare import model_tokenizer
    from memstore.train.data.prepare import prepare as run
    from memstore.train.data.prepare_options import PrepareOptions

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
        supported=frozenset(supported or ()),
        elsewhere=frozenset(elsewhere or ()),
        asked=frozenset(asked or ()),
    )
    report = run(options, model_tokenizer(model), tick=StageLines(lambda line: typer.echo(line, err=True)))
    print_result(asdict(report), as_json, show_prepared)


@app.command()
def label(
    cache: Annotated[Path, typer.Option(help="A cache of `memstore prepare`. It stays as it is.")],
    out: Annotated[Path, typer.Option(help="Folder of the labelled copy. A run that was stopped goes on there.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder or hub id of a model that reads, or `default`.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME", help="Question set to label; repeat for several [all named *.train]."),
    ] = None,
    max_passages: Annotated[int, typer.Option(min=1, help="Candidates read for a question, at most.")] = 4,
    passage_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a candidate that are read, at most.")] = 160,
    threshold: Annotated[
        float,
        typer.Option(
            max=0, help="Questions whose answer is less likely (mean log-probability of a token) lose all marks."
        ),
    ] = -2.5,
    dtype: Dtype = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Mark, of the passages that hold a question's answer, the one under which a model finds the answer likeliest."""
    from memstore import checkpoint
    from memstore.cli.show import StageLines
    from memstore.cli.show_figures import show_labels
    from memstore.machine import compute_dtype, tune_allocator
    from memstore.train.data.label import LabelOptions
    from memstore.train.data.label import label as run

    options = LabelOptions(
        cache=cache,
        out=out,
        sets=tuple(set_ or ()),
        max_passages=max_passages,
        passage_tokens=passage_tokens,
        threshold=threshold,
    )
    tune_allocator()
    reader, pieces = checkpoint.load(model, dtype=compute_dtype(device, dtype), device=device)
    report = run(options, reader, pieces, tick=StageLines(lambda line: typer.echo(line, err=True)))
    print_result(asdict(report), as_json, show_labels)


@app.command()
def questions(
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="File to write: JSON lines in KILT's form; compressed if it ends in .gz.")],
    most: Annotated[int, typer.Option(min=1, help="Questions made from a passage, at most.")] = 2,
    most_per_answer: Annotated[int, typer.Option(min=1, help="Questions with the same answer, at most.")] = 40,
    every: Annotated[int, typer.Option(min=1, help="Make questions from every Nth passage only.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
) -> None:
    """Make questions from the sentences of a corpus: training data where real questions are few."""
    from itertools import islice

    from memstore.files import make_place, writing_whole
    from memstore.train.data.cache import json_lines, write_gzip_lines
    from memstore.train.data.entity_types import Classes
    from memstore.train.data.synthetic import QuestionMaker, make_questions
    from memstore_builders.corpus import open_corpus

    passages, classes = open_corpus(corpora(corpus)), Classes()
    make_place(out, inputs=passages.formats)
    classes.learn(passages)
    maker = QuestionMaker(classes, most=most, seed=seed)
    asked = islice(iter(passages), 0, None, every)
    made = list(make_questions(asked, maker, most_per_answer=most_per_answer))
    with writing_whole(out) as temporary:
        rows = (question.row(number) for number, question in enumerate(made))
        if out.suffix == ".gz":
            write_gzip_lines(temporary, rows)
        else:
            temporary.write_bytes(b"".join(json_lines(rows)))
    typer.echo(f"wrote {out}: {len(made):,} questions")


@app.command()
def tokenizer(
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option(help="Folder to write tokenizer.json to.")],
    vocab_size: Annotated[int, typer.Option(min=512, help="Number of pieces.")] = 16384,
    lowercase: Annotated[bool, typer.Option(help="Make all text lower case: better for small models.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Learn from every Nth passage only.")] = 1,
) -> None:
    """Train a tokenizer for a model from scratch, from the passages of a corpus."""
    from itertools import islice

    from memstore.checkpoint.files import TOKENIZER
    from memstore.files import make_place, writing_whole
    from memstore.model.tokens import canonical
    from memstore.train.tokenizer import train_tokenizer
    from memstore_builders.corpus import open_corpus

    opened = open_corpus(corpora(corpus))
    make_place(out / TOKENIZER, inputs=opened.formats)
    _refuse_trained(out, "a new tokenizer would make useless")
    passages = islice(iter(opened), 0, None, every)
    made = train_tokenizer((f"{p.title}: {p.text}" for p in passages), vocab_size=vocab_size, lowercase=lowercase)
    if not opened.counts.passages:
        raise ConfigError(f"the corpus holds no passages to learn from ({opened.counts.documents} documents were read)")
    with writing_whole(out / TOKENIZER) as temporary:
        temporary.write_text(canonical(made), encoding="utf-8")
    typer.echo(f"wrote {out / TOKENIZER}: {made.get_vocab_size():,} pieces")


@app.command()
def new(
    config: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The model's config.json; vocab_size may be left out.")
    ],
    tokenizer: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of its tokenizer.json.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the weights.")] = 0,
) -> None:
    """Make a model with random weights. With it, a first store can be built, whose passages training reads."""
    from memstore import checkpoint
    from memstore.checkpoint.files import check_folder, read_json, read_tokenizer

    check_folder(out)
    _refuse_trained(out, "random weights would replace")
    values, pieces = read_json(config), read_tokenizer(tokenizer)
    try:
        model, tokens = checkpoint.from_scratch(values | {"trained": False}, tokenizer=pieces, seed=seed)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None
    checkpoint.save(out, model, tokens)
    typer.echo(f"wrote {out}: {sum(p.numel() for p in model.parameters()):,} parameters, untrained")


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="TOML file of the run. A run that was interrupted goes on.")],
    plot: Annotated[bool, typer.Option("--plot", help="Only draw the run's losses and scores, as a PNG.")] = False,
    as_json: Json = False,
) -> None:
    """Train FiD, LUMEN or GLIMMER from cached candidates.

    Control-C or SIGTERM saves the state and stops. Run the command again to go on; after a kill, it goes on from the
    last saved state. No batch is lost or repeated. For several processes, run
    `torchrun --nproc-per-node 2 --no-python memstore train ...`: each reads its own batches, and one writes and prints.
    The settings are explained in `memstore/train/config.py`, those of [data] in `memstore/train/data/settings.py`.
    """
    from memstore.cli.stopping import asked_to_stop
    from memstore.train.config import TrainConfig

    settings = TrainConfig.from_file(config)
    if plot:
        from memstore.train.metrics import plot as draw

        typer.echo(f"wrote {draw(Path(settings.out) / 'metrics.jsonl')}")
        return
    from memstore.cli.show import show_training
    from memstore.machine import tune_allocator
    from memstore.train.loop import train as run
    from memstore.train.processes import first

    tune_allocator()
    with asked_to_stop(announce=first()) as asked:
        report = run(settings, lambda line: typer.echo(line, err=True), stopping=asked)
    if first():
        print_result(asdict(report), as_json, show_training)


def _refuse_trained(folder: Path, harm: str) -> None:
    """Check that a folder whose files are to be replaced holds no trained model. `harm` says what that would do.

    Raises:
        ConfigError: the folder holds a trained model.
    """
    from memstore.checkpoint.files import CONFIG, has_weights, read_json

    if has_weights(folder) and (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("trained") is not False:
        raise ConfigError(f"{folder} holds a trained model, which {harm}: name another folder")
