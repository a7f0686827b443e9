"""Files of results: tried before the work begins, then written whole or not at all. Knows paths, no contents."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from memstore.errors import ConfigError, OutputUnwritable
from memstore.whole import replacing, temporary_name


def check_outputs(outputs: Iterable[Path], *, inputs: Iterable[Path]) -> None:
    """Make sure that every output can be written, so that no work is lost to a wrong path.

    Raises:
        ConfigError: an output is also an input, or two outputs are one file.
        OutputUnwritable: a folder is missing, or the system refuses.
    """
    taken = {path.resolve(): "is read from" for path in inputs}
    for path in outputs:
        if path.resolve() in taken:
            raise ConfigError(f"{path} {taken[path.resolve()]} in this run: name another file to write")
        taken[path.resolve()] = "is written already"
        if path.is_dir():
            raise OutputUnwritable(f"{path} is a folder: name a file to write")
        temporary = temporary_name(path)
        try:
            with temporary.open("wb"):
                pass
            temporary.unlink()
        except OSError as error:
            raise OutputUnwritable(f"{path} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Raises:
        OutputUnwritable: the system refuses; nothing is left behind, and what was at the path before still is.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputUnwritable(f"{path} cannot be written: {error.strerror or error}") from error


def file_of_task(path: Path, task: str, *, tasks: int) -> Path:
    """The file of one task: the path itself if there is only one, else `out.nq.jsonl` of `out.jsonl`."""
    return path if tasks == 1 else path.with_name(f"{path.stem}.{task}{path.suffix}")


def named_files(entries: Iterable[str]) -> dict[str, Path]:
    """Files by name: of `NAME=FILE`, or of `FILE`, whose name is that of the file up to its first full stop.

    Raises:
        ConfigError: a name comes twice, or cannot be part of a file's name.
    """
    files: dict[str, Path] = {}
    for entry in entries:
        name, separator, file = entry.partition("=")
        if not separator or Path(entry).exists():
            name, file = Path(entry).name.partition(".")[0], entry
        if not file or not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"questions must be FILE or NAME=FILE, such as nq=nq.dev.jsonl, not {entry!r}")
        if name in files:
            raise ConfigError(f"{files[name]} and {file} are both named {name!r}: name them apart, as NAME=FILE")
        files[name] = Path(file)
    return files
