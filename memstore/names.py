"""Paths that TensorStore, Tantivy and faiss do not take, under names that they do. Knows paths, no contents."""

from __future__ import annotations

import os
import re
import threading
import weakref
from pathlib import Path

from memstore.errors import ConfigError

# Python has a lone surrogate for each byte that is not UTF-8.
_UNACCEPTED = re.compile(r"\A\.\.\Z|\.__lock\Z|\\|[\udc80-\udcff]")


class _Handle:
    """A folder kept open; closed when nothing refers to it any more."""

    def __init__(self, folder: str) -> None:
        # O_PATH: as for any folder on the way, it is enough that we may search it.
        self.number = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


_handles: weakref.WeakValueDictionary[tuple[int, int], _Handle] = weakref.WeakValueDictionary()  # by device and inode
_handles_lock = threading.Lock()


def accepted(path: Path) -> tuple[str, object]:
    """A name by which TensorStore, Tantivy and faiss take the folder or file at `path`, and what keeps it valid: the
    name holds as long as the second value is referred to. The folder that `path` is in must exist.

    TensorStore takes no `..` and no name that ends in `.__lock`, and takes a backslash for a slash; none of them takes
    a name that is not UTF-8. A path with such a name is resolved. If that does not mend it, the name goes through an
    open folder, `/proc/self/fd/7/...`, whose own name does not matter.

    Raises:
        ConfigError: the name is such a one, and the system has no `/proc`.
        OSError: a folder on the way cannot be opened.
    """
    if not any(map(_UNACCEPTED.search, path.parts)):
        return str(path), None
    real = Path(os.path.realpath(path.parent), path.name)  # unlike Path.resolve, with no errors of its own
    strange = max((i for i, name in enumerate(real.parts) if _UNACCEPTED.search(name)), default=-1)
    if strange < 0:
        return str(real), None
    folder = Path(*real.parts[: strange + 1])
    with _handles_lock:
        found = folder.stat()
        handle = _handles.get((found.st_dev, found.st_ino)) or _Handle(str(folder))
        _handles[found.st_dev, found.st_ino] = handle
    name = Path(f"/proc/self/fd/{handle.number}")
    if not name.exists():
        raise ConfigError(
            f"{path}: without /proc on this system no store can be in a folder of this name: choose one in UTF-8 "
            "without a backslash that does not end in .__lock"
        )
    return str(name.joinpath(*real.parts[strange + 1 :])), handle


def keep(handle: object, *, until_gone: object) -> None:
    """Refer to a handle of `accepted` for as long as another object lives."""
    if handle is not None:
        weakref.finalize(until_gone, id, handle).atexit = False  # the call does nothing; it is its argument that lives
