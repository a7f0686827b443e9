"""A build's folder: where it may lie, one builder at a time, what a killed build was about. Knows no model."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memstore.errors import ConfigError, DiskSpaceError, MemstoreError
from memstore.store.format import TEMPORARY
from memstore_builders.corpus import files_below

LOCK = "lock"


def check_place(out: Path, corpus: Sequence[Path]) -> None:
    """Refuse a store that would become a part of its own corpus, or take a file's place.

    Raises:
        ConfigError: `out` is a file, or a folder of the corpus, or lies in one.
    """
    with writing(out):
        file = out.is_file()
    if file:
        raise ConfigError(f"{out} is a file, and a store is a folder: choose another --out, or remove the file")
    for path in corpus:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise ConfigError(
                f"the store {out} would lie in the corpus folder {path}, and its files be read as corpus when a build "
                "is run again: choose an --out outside that folder, or name the corpus's files one by one"
            )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within, the system's refusals to write in `folder` become errors that say what to do.

    Raises:
        DiskSpaceError: the disk is full, or the user's share of it.
        ConfigError: the folder cannot be made, or not be written in.
    """
    try:
        yield
    except MemstoreError:  # some are OSErrors too, and know better
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # numpy gives a short write no number
            raise DiskSpaceError(
                f"no room is left in {folder} ({reason}): free some space, choose another disk, or build less (--limit)"
            ) from error
        raise ConfigError(
            f"{folder} cannot be written ({reason}): choose another folder, or make this one writable"
        ) from error


@contextmanager
def lock(work: Path) -> Iterator[None]:
    """One builder per store.

    Raises:
        ConfigError: another one is at work, or the folder cannot be made.
        DiskSpaceError: the disk is full.
    """
    with writing(work.parent):
        work.mkdir(parents=True, exist_ok=True)
        file = (work / LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another build is working in {work.parent}; wait for it, or choose another --out"
            ) from None
        yield


def same_job(work: Path, mine: Mapping[str, Mapping[str, Any]]) -> None:
    """Note what is being built, part by part (settings, fingerprint). What an earlier build with other settings left is
    removed if it had sealed no segment: it failed on its input, or had no room, and is now asked for otherwise.

    Raises:
        ConfigError: segments sealed with other settings, which are named, would be lost.
    """
    path = work / "job.json"
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        differ = [f"{part}.{key}: was {theirs[part].get(key)!r}, is {mine[part].get(key)!r}"
                  for part in mine for key in mine[part] if theirs[part].get(key) != mine[part].get(key)]  # fmt: skip
        if not differ:
            return
        if _has_segments(work.parent):
            raise ConfigError(
                f"{work.parent} holds an unfinished build with other settings ({'; '.join(differ)}). "
                "Run it again with those, choose another --out, or remove the folder."
            )
        path.unlink()  # first: without it, nothing else here is believed
    for leftover in work.iterdir():
        if leftover.name != LOCK:
            leftover.unlink()
    part = path.with_suffix(".part")
    part.write_text(json.dumps(mine, indent=1), encoding="utf-8")
    part.rename(path)


def _has_segments(store: Path) -> bool:
    return any(not p.name.startswith(TEMPORARY) for p in (store / "segments").glob("*"))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def describe(path: Path) -> dict[str, Any]:
    """A corpus file as a build remembers it: name and size; a folder by the total of the files that are read."""
    if path.is_dir():
        return {"name": path.name, "bytes": sum(file.stat().st_size for file in files_below(path))}
    return {"name": path.name, "bytes": path.stat().st_size if path.is_file() else None}


def absolute(name: str) -> str:
    """The name of a model as a store keeps it: a folder wherever the next command runs, a hub id as it is."""
    return os.path.abspath(name) if Path(name).is_dir() else name  # noqa: PTH100 - keeps links as they are
