"""Makes a cache's folder: files are written into a folder inside it, then moved up, the manifest last.

That folder is inside `out`, not beside it. So `out` may be a mount point, a link or the current folder: a rename never
leaves the disk. Knows names of files, not their content.
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

PART = ".part"  # where a cache is made; if other files are beside it, a run was killed while it moved them up
_OURS = {PART, "sets", "pretrain", "passages.npy", "passages.lengths.npy", "names.jsonl.gz"}


def is_cache(out: Path) -> bool:
    """Whether a folder holds a finished cache.

    Raises:
        OutputUnwritable: the folder may not be looked into.
    """
    try:
        return (out / MANIFEST).exists()
    except OSError as error:
        raise OutputUnwritable(f"{out} cannot be written: {error.strerror or error}; name another folder") from error


def check_place(out: Path, *, besides: str = "") -> None:
    """See that a cache can be made in a folder, before the work begins. Nothing is made or removed yet.

    A folder called `besides` may be there too, and is left alone.

    Raises:
        ConfigError: something else is there.
        OutputUnwritable: it is a file, lies below one, or may not be written to.
    """
    check_folder(out)
    with naming_refusals(out):
        names = {path.name for path in out.iterdir()} - {besides} if out.exists() else set()
    if names and not (PART in names and names <= _OURS):
        raise ConfigError(f"{out} holds other files than a cache of training data: name another folder")


@contextmanager
def new_cache(out: Path) -> Iterator[Path]:
    """Give an empty folder to write a cache into. After the block its files are in `out`, safe on disk.

    If the block raises, nothing stays. What a killed run left in `out` is removed. Call `check_place` first.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full.
    """
    new, whole, part = not out.exists(), False, out / PART
    try:
        _clear(out)
        part.mkdir(parents=True)
        yield part
        sync_tree(part)
        for path in [p for p in part.iterdir() if p.name != MANIFEST]:  # the manifest says "complete", so it is last
            path.rename(out / path.name)
        sync(out)
        (part / MANIFEST).rename(out / MANIFEST)
        whole = True
        part.rmdir()
        sync(out)
    except MemstoreError:  # some are OSErrors too, with a better message
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
