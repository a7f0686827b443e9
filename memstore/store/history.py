"""The generations of a store: which there are, going back to one, and forgetting others. Knows no memories."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore.errors import ConfigError, MissingData, StoreNotFound
from memstore.files import sync
from memstore.store.current import read_current, read_generation
from memstore.store.foreign import is_foreign
from memstore.store.format import (
    FOLDERS,
    TEMPORARY,
    Generation,
    generation_path,
    ids_path,
    index_path,
    list_files,
)
from memstore.store.holding import only_writer, unheld, writing
from memstore.store.mirror import looked
from memstore.store.publish import parts_of, remove_leftovers, set_current
from memstore.store.reader import Store

_MANIFEST = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What `forget` did: generations that are gone, those that readers still hold, and bytes freed."""

    removed: tuple[int, ...]
    in_use: tuple[int, ...]
    kept: tuple[int, ...]
    bytes_freed: int


def numbers(store: Path) -> list[int]:
    """Numbers of all generations that are there, ascending; but what a killed change wrote and did not publish.

    Raises:
        StoreNotFound: there is no store.
    """
    store = looked(store)
    current = read_current(store)
    found = (_MANIFEST.fullmatch(path.name) for path in (store / "generations").iterdir())
    there = sorted(number for match in found if match and (number := int(match[1])) <= current.last)
    if current.kept is None:
        return there
    return [n for n in there if n == current.generation or str(n) in current.kept]  # others are held by readers here


def next_number(store: Path) -> int:
    """The number of the next change: above all that were ever in force, also after going back."""
    return read_current(store).last + 1


def generations(store: Path) -> list[dict[str, Any]]:
    """All generations as plain values, the oldest first: number, whether in force, counts, what made it, and when its
    manifest was written (seconds since 1970).

    Raises:
        StoreNotFound, StoreUnreadable, StoreCorrupt, StoreFormatError: from the manifests.
    """
    current = read_current(store).generation
    listed = []
    for number in numbers(store):
        generation = read_generation(store, number)
        listed.append({
            "generation": number,
            "in_force": number == current,
            "passages": generation.live,
            "dead_passages": generation.dead,
            "dead_bytes": dead_bytes(generation),
            "segments": len(generation.segments),
            "change": dict(generation.change) or {"kind": "build"},
            "written": generation_path(looked(store), number).stat().st_mtime,
        })  # fmt: skip
    return listed


def dead_bytes(generation: Generation) -> int:
    """About how many bytes of the segments are of dead passages: their share of each segment's tokens."""
    parts = (s.bytes * s.dead.tokens / s.tokens for s in generation.segments if s.dead is not None and s.tokens)
    return round(sum(parts))


def rollback(store: Path, *, to: int | None = None) -> Generation:
    """Put an earlier generation in force again, by default the one before. Nothing is removed: a later generation
    stays, and can be gone back to in the same way.

    Raises:
        StoreNotFound: there is no store, or it has no such generation.
        ConfigError: there is none before, or another process is changing the store.
        StoreCorrupt: a file of the generation is missing or damaged.
    """
    with only_writer(store), writing(store):
        current = read_current(store).generation
        if to is None:
            before = [number for number in numbers(store) if number < current]
            if not before:
                raise ConfigError(f"generation {current} is the first that {store} has: there is none to go back to")
            to = before[-1]
        if to not in numbers(store):
            raise StoreNotFound(f"{store} has no generation {to}; `memstore generations` lists those that there are")
        generation = read_generation(store, to)
        _require_files(store, generation)
        if to != current:
            set_current(store, to)
        return generation


def _require_files(store: Path, generation: Generation) -> None:
    """Opens what reading the generation would; checksums of large files are for `verify`."""
    opened = Store.open(store, generation=generation.number)
    try:
        opened.open_segments()
    finally:
        opened.close()
    files = generation.index.files if generation.index is not None else {}
    if missing := sorted(set(files) - set(list_files(index_path(store, generation.number)))):
        raise MissingData(f"generation {generation.number} of {store} lacks its index file {missing[0]}")


def forget(store: Path, *, keep: int = 1) -> Forgotten:
    """Remove earlier and later generations than the one in force, and every file that no generation left needs.

    Args:
        store: the store.
        keep: how many generations stay: the one in force, and the latest of the others.

    Raises:
        StoreNotFound: there is no store.
        ConfigError: `keep` is below 1, or another process is changing the store.
        StoreCorrupt: a manifest that stays is damaged, so that nobody knows which files it needs.
    """
    if keep < 1:
        raise ConfigError(f"at least the generation in force is kept, not {keep}")
    with only_writer(store), writing(store):
        return forget_locked(store, keep=keep)


def forget_locked(store: Path, *, keep: int) -> Forgotten:
    """`forget` for who holds the writer's lock."""
    current = read_current(store).generation
    others = [number for number in numbers(store) if number != current]
    staying = {current, *others[len(others) - keep + 1 :]} if keep > 1 else {current}
    needed = [read_generation(store, number) for number in sorted(staying)]
    removed, in_use = [], []
    for number in sorted(set(others) - staying):
        with unheld(store, number) as free:
            if free:
                generation_path(store, number).unlink()
                removed.append(number)
            else:
                in_use.append(number)
                needed.append(read_generation(store, number))
    sync(store / "generations")
    remove_leftovers(store)
    freed = _remove_unneeded(store, needed)
    kept = tuple(sorted(g.number for g in needed))
    return Forgotten(removed=tuple(removed), in_use=tuple(in_use), kept=kept, bytes_freed=freed)


def remove_unfinished(store: Path, number: int) -> None:
    """Remove what a killed change left that was making generation `number`; of who holds the writer's lock."""
    remove_leftovers(store)
    own = [
        *(store / "segments").glob(f"g{number:06d}-*"),
        *(store / "lookups").glob(f"g{number:06d}-*"),
        *(store / "deletions").glob(f"*.{number:06d}.npy"),
        index_path(store, number),
        ids_path(store, number),
        generation_path(store, number),
    ]
    for path in own:
        _remove(path)


def unneeded(store: Path, needed: Iterable[Generation]) -> list[Path]:
    """Files and folders of a store that these generations do not name, but what systems leave in any folder."""
    keep = {path for generation in needed for path in parts_of(store, generation)}
    folders = [store / folder for folder in FOLDERS if (store / folder).is_dir()]
    found = (path for folder in folders for path in sorted(folder.iterdir()))
    return [path for path in found if path not in keep and not is_foreign(path.name)]


def _remove_unneeded(store: Path, needed: Iterable[Generation]) -> int:
    """Remove all that these generations do not name; bytes freed."""
    freed = 0
    for path in unneeded(store, needed):
        freed += _bytes(path)
        _remove(path)
    for folder in FOLDERS:
        if (store / folder).is_dir():
            sync(store / folder)
    return freed


def _bytes(path: Path) -> int:
    """Bytes that are free when a file or folder is removed: those of files that have no other name."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(found.st_size for p in files if p.is_file() and (found := p.stat()).st_nlink == 1)


def _remove(path: Path) -> None:
    if path.is_dir():
        hidden = path.with_name(TEMPORARY + path.name)  # killed half-way, it is no folder of a store any more
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)
