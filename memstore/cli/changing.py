"""Commands that change stores: documents more and fewer, generations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from memstore.cli.app import CorpusOption, Device, Format, Json, Model, OnError, app, corpora, print_result
from memstore.cli.stopping import undone_when_ended
from memstore.errors import ConfigError, DataNotFound, DataUnreadable
from memstore.storage.place import as_url

ChangedStore = Annotated[Path, typer.Option("--store", help="The store.")]
ProgressForm = Annotated[
    str, typer.Option("--progress", help="`auto`: bars or lines; `json`: an object a line on standard error.")
]


@app.command()
def add(
    store: ChangedStore,
    corpus: CorpusOption,
    on_existing: Annotated[
        str, typer.Option(help="A document that is there and says something else: `replace`, `skip` or `fail`.")
    ] = "replace",
    corpus_format: Format = None,
    on_error: OnError = "fail",
    model: Model = None,
    device: Device = "cpu",
    as_json: Json = False,
    progress: ProgressForm = "auto",
) -> None:
    """Put documents into a store, by id: new ones are added, changed ones replaced. One generation, or nothing."""
    from memstore.cli.show_changes import show_change
    from memstore.machine import tune_allocator
    from memstore_builders.add import AddOptions
    from memstore_builders.add import add as run
    from memstore_builders.progress import named

    tune_allocator()
    if on_error not in ("fail", "skip"):
        raise ConfigError(f"--on-error must be fail or skip, not {on_error!r}")
    if on_existing not in ("replace", "skip", "fail"):
        raise ConfigError(f"--on-existing must be replace, skip or fail, not {on_existing!r}")
    options = AddOptions(
        store=store, corpus=corpora(corpus), on_existing=on_existing,  # type: ignore[arg-type]
        corpus_format=corpus_format, on_error=on_error, model=model, device=device,  # type: ignore[arg-type]
    )  # fmt: skip
    with undone_when_ended():
        report = run(options, named(progress))
    print_result(asdict(report), as_json, show_change)


@app.command()
def delete(
    store: ChangedStore,
    document: Annotated[list[str] | None, typer.Option("--id", help="Id of a document; repeat for several.")] = None,
    ids: Annotated[Path | None, typer.Option(help="File of document ids, one on each line.")] = None,
    as_json: Json = False,
    progress: ProgressForm = "auto",
) -> None:
    """Delete documents from a store. Their bytes go with `compact`."""
    from memstore.cli.show_changes import show_change
    from memstore.store.shard_list import refuse_shards
    from memstore_builders.change import delete as run
    from memstore_builders.progress import named

    wanted = [*(document or []), *(_lines(ids) if ids is not None else [])]
    if not wanted:
        raise ConfigError("no document is named: give --id ID, or --ids FILE")
    refuse_shards(store, wanted)
    with undone_when_ended():
        report = run(store, wanted, named(progress))
    print_result(asdict(report), as_json, show_change)


@app.command()
def compact(store: ChangedStore, as_json: Json = False, progress: ProgressForm = "auto") -> None:
    """Write a store again without what is dead, as one build would have: frees its bytes. Needs no model."""
    from memstore.cli.show_changes import show_compacted
    from memstore_builders.compact import compact as run
    from memstore_builders.progress import named

    with undone_when_ended():
        report = run(store, named(progress))
    print_result(asdict(report), as_json, show_compacted)


@app.command()
def generations(store: ChangedStore, as_json: Json = False) -> None:
    """List the generations of a store that can be gone back to, and what made each."""
    from memstore.cli.show_changes import show_generations
    from memstore.store.history import generations as run

    print_result({"store": as_url(store) or str(store), "generations": run(store)}, as_json, show_generations)


@app.command()
def rollback(
    store: ChangedStore,
    to: Annotated[int | None, typer.Option(help="Number of the generation; by default the one before.")] = None,
    as_json: Json = False,
) -> None:
    """Put an earlier generation in force again. Nothing is removed: a later one can be gone back to as well."""
    from memstore.cli.show_changes import show_rollback
    from memstore.store.working import rollback as run

    found = run(store, to=to)
    values = {"store": as_url(store) or str(store), "generation": found.number, "passages": found.live}
    print_result(values, as_json, show_rollback)


@app.command()
def forget(
    store: ChangedStore,
    keep: Annotated[
        int, typer.Option(min=1, help="Generations that stay: the one in force, and the latest others.")
    ] = 1,
    unnamed_hours: Annotated[
        float,
        typer.Option(
            min=0,
            help="In object storage, what no generation names goes once it is this old: until then it "
            "may be of a writer at work.",
        ),
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Remove other generations than the one in force, and the files that only they need."""
    from memstore.cli.show_changes import show_forgotten
    from memstore.store.working import forget as run

    print_result(
        {"store": as_url(store) or str(store)} | asdict(run(store, keep=keep, hours=unnamed_hours)),
        as_json,
        show_forgotten,
    )


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataNotFound(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnreadable(f"{path} cannot be read as UTF-8 text: {error}") from error
    return [line for line in text.split("\n") if line.strip()]
