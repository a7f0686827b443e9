"""Reads and hashes files of training data, plain or compressed by gzip or zstd. Knows lines, no rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from memstore.errors import CorpusError, CorpusNotFound, CorpusUnreadable
from memstore.files import read_whole


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, each with its number from 1. A byte order mark is dropped.

    The whole file is held in memory.

    Raises:
        CorpusNotFound, CorpusUnreadable: there is no such file; it is damaged, or the system refuses.
        CorpusError: a line is not UTF-8.
    """
    for number, raw in enumerate(_decompressed(path).split(b"\n"), start=1):
        if raw.strip():
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise CorpusError(f"not UTF-8 ({error})", path=path, line=number) from None


def file_sha256(paths: Sequence[Path]) -> str:
    """Sha256 over the decompressed content of the files, in this order: compression does not change it."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_decompressed(path))
    return digest.hexdigest()


def _decompressed(path: Path) -> bytes:
    try:
        return read_whole(path)
    except FileNotFoundError:
        raise CorpusNotFound(f"there is no file {path}") from None
    except (OSError, EOFError) as error:
        raise CorpusUnreadable(f"{path} cannot be read: {error}") from error
