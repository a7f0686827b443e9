"""Commands that make questions by a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from memstore.cli.app import Device, Dtype, Json, app, print_result
from memstore.errors import ConfigError

_Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")]


@app.command("prepare-asker")
def prepare_asker(
    cache: Annotated[Path, typer.Option(help="A cache of `memstore prepare` or `memstore label`. It stays as it is.")],
    out: Annotated[Path, typer.Option(help="Folder of the asker's training data, for `memstore train`.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder or hub id with the cache's tokenizer, or `default`.")],
    style: Annotated[
        list[str],
        typer.Option(help="STYLE=SET: learn to ask as a question set does, such as ask=squad.train; may be repeated."),
    ],
    passage_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a passage that are read, at most.")] = 160,
    seed: _Seed = 0,
    as_json: Json = False,
) -> None:
    """Make training data for a model that asks: for each answer and its passage, the question to write."""
    from memstore.cli.show_figures import show_asker_data
    from memstore.train.data.asker import AskerOptions
    from memstore.train.data.asker import prepare_asker as run
    from memstore.train.data.prepare import model_tokenizer

    styles: dict[str, tuple[str, ...]] = {}
    for name, named in _pairs(style, "--style must be STYLE=SET, such as ask=squad.train"):
        styles[name] = (*styles.get(name, ()), named)
    options = AskerOptions(cache=cache, out=out, styles=styles, passage_tokens=passage_tokens, seed=seed)
    print_result(asdict(run(options, model_tokenizer(model))), as_json, show_asker_data)


@app.command("generate-questions")
def generate_questions(
    store: Annotated[Path, typer.Option(help="The store whose passages are asked about.")],
    asker: Annotated[str, typer.Option(help="Checkpoint folder of a model that asks: see `memstore prepare-asker`.")],
    reader: Annotated[str, typer.Option(help="Checkpoint folder or hub id of a model that answers, or `default`.")],
    out: Annotated[Path, typer.Option(help="Folder for questions.jsonl. A run that was stopped goes on there.")],
    passages: Annotated[int, typer.Option(min=1, help="Passages drawn, at most.")] = 10_000,
    style: Annotated[
        list[str] | None,
        typer.Option(help="STYLE=SHARE: how often the asker asks so; may be repeated [all its styles alike]."),
    ] = None,
    leave_out: Annotated[
        list[Path] | None,
        typer.Option(help="File of titles, or of questions (.jsonl) with their pages: nothing is asked about these."),
    ] = None,
    most: Annotated[int, typer.Option(min=2, help="Questions asked about a passage, at most; two at least.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Of sampling; 0 for the likeliest question.")] = 0.4,
    threshold: Annotated[
        float,
        typer.Option(max=0, help="Questions less likely (mean log-probability of a token) are left out."),
    ] = -1.0,
    seed: _Seed = 0,
    dtype: Dtype = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Let a model ask about a store's passages; keep the questions that a reader answers again."""
    from memstore import checkpoint
    from memstore.cli.show import StageLines
    from memstore.cli.show_figures import show_generated
    from memstore.machine import compute_dtype, tune_allocator
    from memstore.train.data.asking import Writer
    from memstore.train.data.generate import GenerateOptions
    from memstore.train.data.generate import generate_questions as run

    options = GenerateOptions(
        store=store,
        out=out,
        passages=passages,
        styles={name: _share(text) for name, text in _pairs(style or [], "--style must be STYLE=SHARE, such as ask=2")},
        leave_out=tuple(leave_out or ()),
        most_answers=most,
        temperature=temperature,
        threshold=threshold,
        seed=seed,
    )
    tune_allocator()
    kind = compute_dtype(device, dtype)
    asks, reads = (Writer(*checkpoint.load(name, dtype=kind, device=device)) for name in (asker, reader))
    report = run(options, asks, reads, tick=StageLines(lambda line: typer.echo(line, err=True)))
    print_result(asdict(report), as_json, show_generated)


def _pairs(entries: list[str], rule: str) -> list[tuple[str, str]]:
    found = []
    for entry in entries:
        name, _, value = entry.partition("=")
        if not name or not value:
            raise ConfigError(f"{rule}, not {entry!r}")
        found.append((name, value))
    return found


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"a share must be a number, not {text!r}") from None
