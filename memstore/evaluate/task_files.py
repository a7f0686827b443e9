"""Names of files that belong to one of several tasks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from memstore.errors import ConfigError


def file_of_task(path: Path, task: str, *, tasks: int) -> Path:
    """The file of one task: the path itself if there is only one task, else `out.nq.jsonl` for `out.jsonl`."""
    return path if tasks == 1 else path.with_name(f"{path.stem}.{task}{path.suffix}")


def named_files(entries: Iterable[str]) -> dict[str, Path]:
    """Files by name. An entry is `NAME=FILE`, or `FILE`, whose name is the file's up to the first full stop.

    Raises:
        ConfigError: a name comes twice, or cannot be part of a file's name.
    """
    files: dict[str, Path] = {}
    for entry in entries:
        name, separator, file = entry.partition("=")
        if not separator or os.path.exists(entry):  # noqa: PTH110 - False, too, for what is closed or no name
            name, file = Path(entry).name.partition(".")[0], entry
        if not file or not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"questions must be FILE or NAME=FILE, such as nq=nq.dev.jsonl, not {entry!r}")
        if name in files:
            raise ConfigError(
                f"{files[name]} and {file} are both named {name!r}: give them different names, as NAME=FILE"
            )
        files[name] = Path(file)
    return files
