"""Files that are there whole or not at all. Knows paths, no contents."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def temporary_name(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to. When the block ends, what is there is flushed to the disk and renamed to
    `path`, to be read by whom the umask lets; when it fails, it is removed, and what was at `path` before still is.
    """
    temporary = temporary_name(path)
    try:
        temporary.unlink(missing_ok=True)  # a killed process's
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def system_errors() -> Iterator[None]:
    """Within, what TensorStore, Tantivy, faiss and safetensors raise when the system refuses to write becomes the
    OSError it was.
    """
    try:
        yield
    except (ValueError, RuntimeError, SafetensorError) as error:
        found = re.search(r"(?:os[ _]error(?:_code=')? ?|Os \{ code: )(\d+)", str(error))
        named = (n for n in errno.errorcode if f"({os.strerror(n)})" in str(error))  # faiss tells no number
        number = int(found[1]) if found else next(named, None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number)) from error


def sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
