"""Who uses a store: one writer by an exclusive lock, and readers that keep their generation from being removed.

Locks are gone with the process that held them. A reader's is shared and on its generation's manifest, so that a
store on a read-only disk can be read. On a file system without locks readers hold nothing, and nobody may write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from memstore import locks
from memstore.errors import ConfigError, StoreBusy, StoreNotFound, StoreUnreadable
from memstore.files import writing_in
from memstore.store.format import CURRENT, LOCK, generation_path, is_folder
from memstore.store.shard_list import refuse_shards

BUSY = "another process is changing"
"""How the message of `StoreBusy` begins, for who sees only that."""


def writing(store: Path) -> AbstractContextManager[None]:
    """Within, the system's refusals to write in a store become errors that say what to do.

    Raises:
        DiskSpaceError: the disk is full, or the user's share of it.
        ConfigError: the store cannot be written.
    """
    return writing_in(
        store,
        if_full=", which is as it was: free some space, or run `memstore forget` and `memstore compact`",
        if_refused="changed ({reason}): make it writable, or change a copy",
    )


@contextmanager
def only_writer(store: Path) -> Iterator[None]:
    """Nobody else changes the store within.

    Raises:
        StoreNotFound: there is no finished store.
        StoreInShards: it is one in shards.
        StoreBusy: another process is changing it.
        ConfigError: the file system has no locks, or the store cannot be written.
    """
    refuse_shards(store)
    if not is_folder(store) or not (store / CURRENT).exists():
        raise StoreNotFound(f"there is no finished store at {store}; `memstore build` makes one")
    with writing(store):
        file = (store / LOCK).open("w")
    with file:
        try:
            alone = locks.lock(file, inherited=True)
        except locks.NoLocks as error:
            raise ConfigError(
                f"the file system of {store} has no locks ({error.strerror}), and without one two changes could write "
                "over each other: copy the store to another disk, change it there, and copy it back"
            ) from error
        if not alone:
            raise StoreBusy(f"{BUSY} {store}: wait for it, and try again")
        yield


class Held:
    """A manifest under a shared lock; let go when closed, or when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        """Open it; see `hold` for errors."""
        self._file: IO[bytes] | None = path.open("rb")

    @property
    def file(self) -> IO[bytes]:
        """The open manifest."""
        assert self._file is not None, "it was closed"
        return self._file

    def close(self) -> None:
        """Let go; once more does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def hold(store: Path, number: int) -> Held | None:
    """Keep a generation from being removed until what is returned is closed; None if it is gone or about to be.

    Raises:
        StoreUnreadable: the system does not let us open its manifest.
    """
    path = generation_path(store, number)
    try:
        held = Held(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnreadable(f"{path} cannot be read: {error}") from error
    with suppress(locks.NoLocks):
        if not locks.share(held.file):
            return None
    # The manifest may have been removed between opening and locking it: only what still has the name is held.
    return held if _is_named(held.file, path) else None


@contextmanager
def unheld(store: Path, number: int) -> Iterator[bool]:
    """Whether no reader holds a generation. If so none can begin to within, but those that were forked already."""
    path = generation_path(store, number)
    with path.open("rb+") as file:
        yield locks.lock(file, inherited=True)


def _is_named(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
