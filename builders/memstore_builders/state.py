"""A build's folder: where it may lie, one builder at a time, what a killed build was about. Knows no model."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from memstore import locks
from memstore.errors import ConfigError, DiskSpaceError
from memstore.files import replacing, writing_in
from memstore.store.foreign import is_foreign
from memstore.store.format import CURRENT, TEMPORARY
from memstore.store.shard_list import is_sharded
from memstore_builders.corpus_files import find_files

WORK, LOCK, JOB = ".build", "lock", "job.json"
_WORK_FILE = re.compile(
    r"lock|\.?(job|estimate|spool)\.(json|part|json\.part)|spool\.(jsonl|(offsets|duplicates)\.npy)|offsets\.raw|hashes\.\d\d"
)


def check_place(out: Path, corpus: Sequence[Path]) -> None:
    """Refuse a store that would become a part of its own corpus, or take the place of something else.

    Raises:
        ConfigError: `out` is a file, or a folder of the corpus, or lies in one; or it holds what a build would remove
            or write over, and which no build that can be resumed has left.
        CorpusNotFound, CorpusUnreadable, CorpusFormatError: from `find_files`.
    """
    with writing(out):
        file = out.is_file()
        lost = None if file else _would_be_lost(out)
    if file:
        raise ConfigError(f"{out} is a file, and a store is a folder: choose another --out, or remove the file")
    if lost is not None:
        raise ConfigError(lost)
    real = Path(os.path.realpath(out))
    for path in corpus:
        if any(real.is_relative_to(folder) for folder in find_files(path).folders):
            raise ConfigError(
                f"the store {out} would lie in the corpus folder {path}, and its files be read as corpus when a build "
                "is run again: choose an --out outside that folder, or name the corpus's files one by one"
            )


def _would_be_lost(out: Path) -> str | None:
    """What must not be built over, in words; None if there is no such thing."""
    work = out / WORK
    if (out / CURRENT).exists() or (work / JOB).exists():
        return None
    found = [p.name for p in work.iterdir()] if work.is_dir() else []
    others = sorted(name for name in found if not _WORK_FILE.fullmatch(name) and not is_foreign(name))
    if others:
        return f"{work / others[0]} is no file of a build, and would be removed: choose another --out"
    if is_sharded(out):
        return f"{out} holds a store in shards: choose another --out, or remove the folder"
    if published := sorted(p for p in (out / "generations").glob("*.json") if not is_foreign(p.name)):
        return (
            f"{out} holds a store without its {CURRENT} file, whose {published[-1].name} would be written over: "
            f"restore {CURRENT} from a copy, choose another --out, or remove the folder"
        )
    return None


def writing(folder: Path) -> AbstractContextManager[None]:
    """Within, the system's refusals to write in `folder` become errors that say what to do.

    Raises:
        DiskSpaceError: the disk is full, or the user's share of it.
        ConfigError: the folder cannot be made, or not be written in.
    """
    return writing_in(
        folder,
        if_full=": free some space, choose another disk, or build less (--limit)",
        if_refused="written ({reason}): choose another folder, or make this one writable",
    )


@contextmanager
def scratch() -> Iterator[Path]:
    """Yields a temporary folder, and removes it.

    Raises:
        DiskSpaceError: its disk is full.
        ConfigError: it cannot be made, or not be written in.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="memstore-plan-")
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"no temporary folder can be made ({reason}): name a place by the variable TMPDIR") from error
    with made as folder:
        try:
            with writing(Path(folder)):
                yield Path(folder)
        except (DiskSpaceError, ConfigError) as error:
            message = str(error)
            if folder not in message or "TMPDIR" in message:
                raise
            raise type(error)(f"{message}; TMPDIR names another place") from error


@contextmanager
def lock(work: Path) -> Iterator[None]:
    """One builder per store.

    Raises:
        ConfigError: another one is at work, the file system has no locks, or the folder cannot be made.
        DiskSpaceError: the disk is full.
    """
    with writing(work.parent):
        work.mkdir(parents=True, exist_ok=True)
        file = (work / LOCK).open("w")
    with file:
        with writing(work.parent):
            _hold(file, work.parent)
        yield


def _hold(file: IO[str], out: Path) -> None:
    try:
        alone = locks.lock(file, inherited=True)
    except locks.NoLocks as error:
        raise ConfigError(
            f"the file system of {out} has no locks ({error.strerror}), and without one two builds could write over "
            "each other: choose an --out on another disk, and copy the store when it is built"
        ) from error
    if not alone:
        raise ConfigError(f"another build is working in {out}; wait for it, or choose another --out")


def same_job(work: Path, mine: Mapping[str, Mapping[str, Any]], *, in_force: Collection[str], rebuild: bool) -> None:
    """Note what is being built, part by part (settings, fingerprint). What an earlier build with other settings left is
    removed if it had sealed no segment: it failed on its input, or had no room, and is now asked for otherwise.

    Args:
        work: the build's folder.
        mine: what is being built.
        in_force: ids of the segments of a finished store that is built again; they stay.
        rebuild: remove also what was sealed with other settings.

    Raises:
        ConfigError: segments sealed with other settings, which are named, would be lost; or with settings that can no
            longer be read.
    """
    path = work / JOB
    if path.exists():
        theirs = _read_job(path)
        if theirs is None:
            found = f"an unfinished build, but {path.name}, which says of what, is damaged. Choose"
        else:
            pairs = [(f"{part}.{key}", theirs.get(part, {}).get(key), mine[part][key])
                     for part in mine for key in mine[part]]  # fmt: skip
            differ = [f"{name}: was {old!r}, is {new!r}" for name, old, new in pairs if old != new]
            if not differ:
                return
            found = f"an unfinished build with other settings ({'; '.join(differ)}). Run it again with those, choose"
        if (sealed := unfinished_segments(work.parent, in_force)) and not rebuild:
            raise ConfigError(f"{work.parent} holds {found} another --out, or --rebuild, which begins again.")
        path.unlink()  # first: without it, nothing else here is believed
        for segment in sealed:
            shutil.rmtree(segment)
    for leftover in work.iterdir():
        if leftover.name != LOCK and not is_foreign(leftover.name):
            leftover.unlink()
    with replacing(path) as part:
        part.write_text(json.dumps(mine, indent=1), encoding="utf-8")


def _read_job(path: Path) -> dict[str, dict[str, Any]] | None:
    """What was being built; None if a power cut left something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    parts = values if isinstance(values, dict) else {}
    return values if all(isinstance(parts.get(p), dict) for p in ("settings", "fingerprint")) else None


def unfinished_segments(store: Path, in_force: Collection[str]) -> list[Path]:
    """The sealed segments of a build that is not published."""
    found = sorted((store / "segments").glob("*"))
    return [p for p in found if p.name not in in_force and not p.name.startswith(TEMPORARY) and not is_foreign(p.name)]


def unfinished_number(work: Path) -> int:
    """The number of the generation that the build in a folder is about; 1 also where that cannot be read."""
    parts = (_read_job(work / JOB) if (work / JOB).exists() else None) or {}
    return int(parts.get("generation", {}).get("number", 1))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def describe(path: Path) -> dict[str, Any]:
    """A corpus file as a build remembers it: name and size; a folder by the total of the files that are read."""
    return {"name": path.name, "bytes": sum(file.stat().st_size for file in find_files(path).files)}


def absolute(name: str) -> str:
    """The name of a model as a store keeps it: a folder wherever the next command runs, a hub id as it is."""
    return os.path.abspath(name) if os.path.isdir(name) else name  # noqa: PTH100, PTH112 - keeps links; no error where it is closed
