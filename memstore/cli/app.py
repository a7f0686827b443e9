"""The application that every command joins, arguments that several share, and how results are printed."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from memstore.errors import ConfigError, OutputUnwritable

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
CorpusOption = Annotated[
    list[Path],
    typer.Option(help="Corpus file or folder, plain, .gz or .zst; repeat for several. `sample` is the bundled one."),
]
BuildModel = Annotated[str, typer.Option(help="Checkpoint folder, hub id, or `default`.")]
CodecName = Annotated[
    str, typer.Option(help="How memories are kept: bf16 (exact), int8, int8-fitted, pq or pq16 (`docs/codecs.md`).")
]
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
OnLong = Annotated[
    str,
    typer.Option(
        help="At a passage of more tokens than the model reads: `split` it (p, p#2, ...), `cut` its end, `fail`."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Build only so many passages.")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16 or float32; by default what the processor is fast at.")]

ApiKeyFile = Annotated[
    Path | None,
    typer.Option(help="With --url: file whose only line is a key of the server's [the variable MEMSTORE_API_KEY]."),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="CONDITION",
        help="Only passages with such metadata: lang=en, lang!=en, year>=2000, or a JSON object; may be repeated.",
    ),
]


KeepMass = Annotated[
    float | None,
    typer.Option(min=1e-6, max=1, help="Read the best until the softmax of their rerank scores holds so much [0.9]."),
]
MaxGflop = Annotated[
    float | None, typer.Option(min=1e-6, help="Billions of operations for an answer: fewer passages, if need be [any].")
]


def corpora(paths: list[Path]) -> tuple[Path, ...]:
    """The files and folders as given, `sample` as the bundled corpus (unless there is something of that name)."""
    from memstore_builders.corpus import sample_corpus

    return tuple(sample_corpus() if str(p) == "sample" and not p.exists() else p for p in paths)


def api_key_of(file: Path | None, *, url: str | None) -> str | None:
    """The key to show to a server, out of a file or else of the variable; None for none.

    Raises:
        ConfigError: no server is asked; the file cannot be read; what is there is no key.
    """
    from memstore_client.base import API_KEY_VARIABLE

    if file is None:
        place, key = f"the variable {API_KEY_VARIABLE}", os.environ.get(API_KEY_VARIABLE, "")
        if not key:
            return None
    elif url is None:
        raise ConfigError("--api-key-file is for --url: a store asks for no key")
    else:
        place = f"--api-key-file {file}"
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{place} cannot be read: {error}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{place} must hold one key, as `memstore keys add` prints it, and nothing else")
    return key


def show_any_character() -> None:
    """Let what is printed hold characters that the terminal's encoding does not: they are escaped as in Python.

    File names that are not UTF-8 go through as they are where the system says so (the locale C), else as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            unicode = codecs.lookup(stream.encoding).name.startswith("utf")
            if stream.errors == "strict" or not unicode:
                stream.reconfigure(errors="backslashreplace")


def print_result(values: dict[str, Any], as_json: bool, show: Any) -> None:
    """Print a result: one JSON object, or as `show` lays it out for people.

    Raises:
        OutputUnwritable: the output is a file on a disk that is full, or that the system refuses to write.
    """
    try:
        if as_json:
            print(_as_json(values, sys.stdout.encoding or "utf-8"))  # noqa: T201
        else:
            show(values)
        print(end="", flush=True)  # noqa: T201
    except BrokenPipeError:  # nobody reads any more
        raise
    except OSError as error:
        with suppress(OSError):  # what is left of it would be tried again, and fail again, as the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputUnwritable(
            f"the result cannot be printed: {error.strerror or error}. Make room where the output goes, or print it "
            "elsewhere, and run the command again."
        ) from error


def _as_json(values: dict[str, Any], encoding: str) -> str:
    """JSON in one line. Where the encoding does not hold a character, all beyond ASCII are JSON's own escapes."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(values, default=str)
    return text
