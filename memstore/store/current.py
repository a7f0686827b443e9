"""Which generation is in force, and reading its manifest. Knows no segments."""

from __future__ import annotations

import time
from pathlib import Path

from memstore.errors import ChecksumMismatch, MissingData, StoreFormatError, StoreNotFound, StoreUnreadable
from memstore.store.format import CURRENT, Current, Generation, generation_path, hash_bytes, is_folder, read_bytes
from memstore.store.holding import Held, hold
from memstore.store.mirror import looked, mirror_of
from memstore.store.shard_list import refuse_shards

_TRIES, _PAUSE = 100, 0.01  # of opening a generation that is being replaced; the pause in seconds


def read_current(store: Path) -> Current:
    """What CURRENT says.

    Raises:
        StoreNotFound: no store is at the path.
        StoreInShards: it is one in shards.
        StoreUnreadable, ChecksumMismatch, StoreFormatError: it is closed to us, damaged, or not understood.
    """
    store = looked(store)
    path = store / CURRENT
    if not is_folder(store):
        raise StoreNotFound(f"there is no store at {store}; `memstore build` makes one")
    try:
        return Current.from_bytes(read_bytes(path), path=path)
    except FileNotFoundError:
        refuse_shards(store)
        raise StoreNotFound(f"{store} has no {CURRENT} file: it is no store, or its build has not finished") from None


def read_generation(store: Path, number: int | None = None) -> Generation:
    """The generation in force, or a numbered one, held against CURRENT's checksum where that names it.

    Raises:
        StoreNotFound: no store is at the path, or it has no such generation.
        StoreUnreadable: the system does not let us.
        MissingData: CURRENT names a generation whose file is absent.
        ChecksumMismatch, StoreFormatError: a manifest is damaged, or not understood.
    """
    store = looked(store)
    current = read_current(store)
    wanted = current.generation if number is None else number
    path = generation_path(store, wanted)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        if wanted == current.generation:
            raise MissingData(f"{path} is missing, though {CURRENT} names it") from None
        raise StoreNotFound(f"{store} has no generation {wanted}; {current.generation} is in force") from None
    generation = Generation.from_bytes(data, path=path)
    if wanted == current.generation and hash_bytes(data) != current.sha256:
        raise ChecksumMismatch(f"{path} is not the generation that {CURRENT} names")
    if generation.number != wanted:
        raise StoreFormatError(f"{path} holds generation {generation.number}")
    return generation


def read_held(store: Path, number: int | None = None) -> tuple[Generation, Held]:
    """`read_generation`, and what keeps it from being removed until that is closed. Raises what that raises."""
    for _ in range(_TRIES):
        generation = _read_present(store, number)
        held = None if generation is None else hold(store, generation.number)
        if generation is not None and held is not None:
            return generation, held
        time.sleep(_PAUSE)  # removed while we looked: another one is in force by then
    raise StoreUnreadable(f"{store} changes faster than it can be opened; try again")


def open_held(store: Path, number: int | None = None) -> tuple[Path, Generation, Held]:
    """`read_held`, and the folder to read from: the store itself, or its mirror with all that a reader needs whole.

    Raises:
        StoreNotFound, StoreUnreadable, StoreCorrupt, StoreFormatError: see `read_generation`.
    """
    mirror = mirror_of(store)
    if mirror is None:
        return store, *read_held(store, number)
    with mirror.alone():
        mirror.look()
        generation, held = read_held(mirror.folder, number)
        for _, error in mirror.bring(generation):
            held.close()
            raise error
    return mirror.folder, generation, held


def _read_present(store: Path, number: int | None) -> Generation | None:
    """`read_generation`; None where the one in force was replaced and removed while we looked."""
    try:
        return read_generation(store, number)
    except MissingData:
        if number is None and not generation_path(store, read_current(store).generation).exists():
            raise
        return None
