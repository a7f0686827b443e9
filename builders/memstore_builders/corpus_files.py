"""The files of a corpus: what the names on a command line lead to. Knows folders and links, no contents."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memstore.errors import ConfigError, CorpusFormatError, CorpusNotFound, CorpusUnreadable


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What one path of a corpus leads to.

    `files` are in reading order, each with the place where it really is; `folders` are the real places of all the
    folders that were looked through, none where the path is a file.
    """

    files: dict[Path, str]
    folders: frozenset[str]


def find_files(path: Path) -> FoundFiles:
    """A file itself; of a folder every file below it, sorted by path, hidden files and folders left out.

    Links are followed. A folder or a file that several links lead to is read once, so links in a circle end.

    Raises:
        CorpusNotFound: there is nothing at the path, or a folder has no files, or a link in it leads to nothing.
        CorpusUnreadable: the path, or a folder below it, is closed to us, or the system cannot follow a link.
        CorpusFormatError: the path, or what lies in the folder, is neither a file nor a folder.
    """
    files: dict[str, Path] = {}  # by real place
    folders: set[str] = set()
    waiting = [(path, os.path.realpath(path))]
    while waiting:
        place, real = waiting.pop()
        mode = _mode(place)
        if stat.S_ISREG(mode):
            files.setdefault(real, place)
        elif not stat.S_ISDIR(mode):
            raise CorpusFormatError(f"{place}: is neither a file nor a folder; a corpus is read more than once")
        elif real not in folders:
            folders.add(real)
            waiting += reversed(_entries(place, real))
    if not files:
        raise CorpusNotFound(f"{path}: there are no files in this folder")
    return FoundFiles({place: real for real, place in files.items()}, frozenset(folders))


def corpus_files(paths: Sequence[Path]) -> list[Path]:
    """The files that `paths` name, in reading order.

    Raises:
        As `find_files`.
        ConfigError: there are no paths, or two of them lead to one file.
    """
    if not paths:
        raise ConfigError("no corpus given: name at least one file or folder")
    found: dict[str, Path] = {}
    for path in paths:
        for file, real in find_files(Path(path)).files.items():
            if real in found:
                raise ConfigError(f"{file}: this corpus file is named twice")
            found[real] = file
    return list(found.values())


def stamp(paths: Sequence[Path]) -> str:
    """A hash of where the files are and when they changed: files of one stamp need not be read to be the same."""
    return hashlib.sha256(json.dumps([_stamp(path) for path in paths]).encode()).hexdigest()


def _stamp(path: Path) -> list[str | int]:
    try:
        found = path.stat()
    except OSError:  # whoever reads the file reports it
        return [str(path)]
    return [str(path), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _entries(folder: Path, real: str) -> list[tuple[Path, str]]:
    """What lies in a folder, by name, each with its real place; nothing hidden."""
    try:
        with os.scandir(folder) as entries:
            shown = sorted((e.name, e.is_symlink()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error, "this folder") from error
    return [
        (folder / name, os.path.realpath(folder / name) if is_link else os.path.join(real, name))  # noqa: PTH118
        for name, is_link in shown
    ]


def _mode(path: Path) -> int:
    """What is at a path, links followed."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise CorpusNotFound(
                f"{path}: this link leads to nothing ({path.readlink()}): restore what it led to, or remove it"
            ) from error
        raise CorpusNotFound(f"{path}: no such corpus file or folder") from error
    except OSError as error:
        raise _unreadable(path, error, "it") from error


def _unreadable(path: Path, error: OSError, what: str) -> CorpusUnreadable:
    return CorpusUnreadable(f"{path}: {what} cannot be read: {error.strerror or error}")
