"""Commands that measure models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from memstore.cli.app import Device, Filters, Json, KeepMass, MaxGflop, Model, app, print_result
from memstore.errors import ConfigError, OutputUnwritable

# How `evaluate` and `calibrate` ask: a calibration holds for answers that are made as those it was fitted to.
RETRIEVE_K, KEEP_K, MAX_NEW_TOKENS, BATCH = 40, 10, 32, 8
AnsweredFrom = Annotated[Path, typer.Option("--store", help="The store to answer from.")]
RetrieveK = Annotated[int, typer.Option(min=1, help="Passages to retrieve and score.")]
KeepK = Annotated[
    str | None, typer.Option(metavar="N|auto", help=f"Passages to read; auto: by scores [{KEEP_K}, or all if fewer].")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, max=4096, help="Length limit of the answer.")]
NumBeams = Annotated[int | None, typer.Option(min=1, help="Beams; 1 is greedy [the model's].")]
Batch = Annotated[int, typer.Option(min=1, help="Questions answered together.")]
LimitOfEach = Annotated[int | None, typer.Option(min=1, help="Only N questions of each file, evenly spread.")]


@app.command()
def evaluate(
    store: AnsweredFrom,
    data: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]FILE", help="Questions in KILT's form; repeat for several. NAME (by default squad "
                     "for squad.dev.jsonl) is the task that they are asked as, if the model knows it."),
    ],
    train_data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Training questions of a task; its majority answer is from them."),
    ] = None,
    model: Model = None,
    retrieve_k: RetrieveK = RETRIEVE_K,
    keep_k: KeepK = None,
    keep_mass: KeepMass = None,
    max_gflop: MaxGflop = None,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    num_beams: NumBeams = None,
    batch: Batch = BATCH,
    limit: LimitOfEach = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Answers of less confidence count as none.")
    ] = 0.0,
    conditions: Filters = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="File for predictions in KILT's format; OUT.NAME.jsonl for each of several."),
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(help="File for wrong answers, most instructive first: .md to read, or .jsonl.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Folder for the reliability diagram and the curve of precision against coverage."),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Answer files of questions as a server would, and score answers, pages and both orders of the passages."""
    from memstore.answer import keep_of, kept
    from memstore.cli.show_figures import show_evaluation
    from memstore.evaluate.run import EvaluateOptions
    from memstore.evaluate.run import evaluate as run
    from memstore.evaluate.task_files import named_files
    from memstore.machine import tune_allocator
    from memstore.retrieve.filters import parse_words
    from memstore.store import read_generation
    from memstore_builders.progress import for_people

    tune_allocator()
    where = parse_words(conditions, read_generation(store).metadata) if conditions else None
    read, mass = kept(keep_of(keep_k), keep_mass, of=retrieve_k)
    options = EvaluateOptions(
        store=store, data=named_files(data), train_data=named_files(train_data or ()), model=model,
        retrieve_k=retrieve_k, keep_k=read, keep_mass=mass, max_gflop=max_gflop,
        max_new_tokens=max_new_tokens, num_beams=num_beams, batch=batch, limit=limit,
        min_confidence=min_confidence, predictions=predictions, errors=errors, plots=plots, device=device,
        filter=where,
    )  # fmt: skip
    report = run(options, progress=for_people())
    print_result(report, as_json, show_evaluation)
    if report["unwritten"]:
        raise OutputUnwritable("; ".join(report["unwritten"]))


@app.command()
def calibrate(
    store: AnsweredFrom,
    data: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]FILE", help="Development questions in KILT's form, as for `memstore evaluate`; "
                     "repeat for several tasks."),
    ],
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint to keep it in [the model's own folder].")] = None,
    method: Annotated[
        str, typer.Option(help="logistic, or isotonic, which corrects that and needs thousands of questions.")
    ] = "logistic",
    retrieve_k: RetrieveK = RETRIEVE_K,
    keep_k: KeepK = None,
    keep_mass: KeepMass = None,
    max_gflop: MaxGflop = None,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    num_beams: NumBeams = None,
    batch: Batch = BATCH,
    limit: LimitOfEach = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Fit the confidence of answers to development questions, and keep it in the checkpoint beside the weights."""
    from memstore.answer import keep_of, kept
    from memstore.cli.show_figures import show_calibration
    from memstore.evaluate.calibrate import CalibrateOptions
    from memstore.evaluate.calibrate import calibrate as run
    from memstore.evaluate.run import EvaluateOptions
    from memstore.evaluate.task_files import named_files
    from memstore.machine import tune_allocator
    from memstore_builders.progress import for_people

    if method not in ("logistic", "isotonic"):
        raise ConfigError(f"--method must be logistic or isotonic, not {method!r}")
    tune_allocator()
    read, mass = kept(keep_of(keep_k), keep_mass, of=retrieve_k)
    asked = EvaluateOptions(
        store=store, data=named_files(data), model=model, retrieve_k=retrieve_k,
        keep_k=read, keep_mass=mass, max_gflop=max_gflop, max_new_tokens=max_new_tokens,
        num_beams=num_beams, batch=batch, limit=limit, device=device,
    )  # fmt: skip
    options = CalibrateOptions(asked=asked, method="isotonic" if method == "isotonic" else "logistic", out=out)
    print_result(run(options, progress=for_people()), as_json, show_calibration)


@app.command()
def score(
    gold: Annotated[Path, typer.Argument(help="Questions with answers and provenance, in KILT's form.")],
    predictions: Annotated[Path, typer.Argument(help="Predictions in KILT's form.")],
    as_json: Json = False,
) -> None:
    """Score KILT-format predictions as KILT's official evaluation does, with bootstrap intervals."""
    from memstore.cli.show_figures import show_scores
    from memstore.evaluate import score_files

    print_result(score_files(gold, predictions).as_dict(), as_json, show_scores)


@app.command()
def flops(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder, hub id, or `default`; only its shape matters.")
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
    from memstore.cli.show_figures import show_costs
    from memstore.compare.costs import Lengths, costs

    lengths = Lengths(
        question_tokens=question_tokens, passage_tokens=passage_tokens, retrieve_k=retrieve_k, keep_k=keep_k,
        new_tokens=new_tokens, num_beams=num_beams,
    )  # fmt: skip
    print_result(asdict(costs(model, lengths)), as_json, show_costs)


@app.command()
def compare(
    config: Annotated[Path, typer.Option(help="TOML file of the comparison. One that was interrupted goes on.")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Train and measure only this system, and take no times; repeat for several."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train or load several systems, measure quality and cost over a grid, and write one report.

    While it trains, control-C or SIGTERM saves the training's state and stops. Run the command again to go on.
    """
    from functools import partial

    from memstore.cli.show_figures import show_comparison
    from memstore.cli.stopping import asked_to_stop
    from memstore.compare.config import CompareConfig
    from memstore.compare.run import compare as run
    from memstore.machine import tune_allocator

    tune_allocator()
    settings = CompareConfig.from_file(config)
    listen = partial(asked_to_stop, announce=True)
    found = run(settings, lambda line: typer.echo(line, err=True), only=tuple(only or ()), listen=listen)
    print_result(found | {"out": str(settings.out)}, as_json, show_comparison)
