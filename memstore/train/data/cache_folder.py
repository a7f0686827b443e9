"""A cache's folder while it is made: written in a folder of its own inside, then moved up, the manifest last.

Inside, and not beside: so a folder that is a disk of its own, a link or the current one can be filled too. Knows names
of files, nothing of what they hold.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memstore.errors import ConfigError, MemstoreError, OutputUnwritable
from memstore.files import check_folder, naming_refusals, sync
from memstore.store.publish import sync_tree
from memstore.train.data.cache import MANIFEST

PART = ".part"  # where a cache is made; what is beside it, a killed run was moving up
_OURS = {PART, "sets", "pretrain", "passages.npy", "passages.lengths.npy", "names.jsonl.gz"}


def is_cache(out: Path) -> bool:
    """Whether a finished cache is in a folder.

    Raises:
        OutputUnwritable: the system does not tell: it is closed to us.
    """
    try:
        return (out / MANIFEST).exists()
    except OSError as error:
        raise OutputUnwritable(f"{out} cannot be written: {error.strerror or error}; name another folder") from error


def check_place(out: Path) -> None:
    """See that a cache can be made in a folder, before the work begins. Nothing is made or removed yet.

    Raises:
        ConfigError: something else is there.
        OutputUnwritable: it is a file, below one, or the system lets nobody write there.
    """
    check_folder(out)
    with naming_refusals(out):
        names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names and not (PART in names and names <= _OURS):
        raise ConfigError(f"{out} is not empty and no cache of training data: name another folder")


@contextmanager
def new_cache(out: Path) -> Iterator[Path]:
    """Yields an empty folder to write a cache into, which then is in `out`, complete on disk.

    If the block raises, nothing of it stays; what a killed run left is discarded. See `check_place` first.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full.
    """
    new, whole, part = not out.exists(), False, out / PART
    try:
        _clear(out)
        part.mkdir(parents=True)
        yield part
        sync_tree(part)
        for path in [p for p in part.iterdir() if p.name != MANIFEST]:
            path.rename(out / path.name)
        sync(out)
        (part / MANIFEST).rename(out / MANIFEST)
        whole = True
        part.rmdir()
        sync(out)
    except MemstoreError:  # some are OSErrors too, and know better
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OutputUnwritable(
            f"{out} cannot be written: {error.strerror or error}{where}. Make room there, or name another folder."
        ) from error
    finally:
        if not whole:
            _clear(out)
            if new:
                with suppress(OSError):
                    out.rmdir()


def _clear(out: Path) -> None:
    for name in _OURS:
        if (out / name).is_dir():
            shutil.rmtree(out / name, ignore_errors=True)
        else:
            with suppress(OSError):
                (out / name).unlink()
