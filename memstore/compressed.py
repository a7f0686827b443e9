"""Whole files that may be compressed by gzip or zstd, which their first bytes tell. Knows bytes alone."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

GZIP = b"\x1f\x8b"
"""What a gzip file begins with."""
_ZSTD, _SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"  # the latter behind a byte from 0x50 to 0x5f


def is_zstd(head: bytes) -> bool:
    """Whether a file that begins so is zstd's: with data, or with a frame that is skipped, as pzstd writes it."""
    return head.startswith(_ZSTD) or (head[1:4] == _SKIPPABLE and head[0] >> 4 == 5)


def read_whole(path: Path) -> bytes:
    """What a file holds, decompressed.

    Raises:
        OSError: the system refuses; FileNotFoundError if there is none.
        EOFError: the compressed data are damaged, or cut off before their end.
    """
    data = path.read_bytes()
    if data.startswith(GZIP):
        try:
            return gzip.decompress(data)
        except (zlib.error, gzip.BadGzipFile) as error:
            raise EOFError(f"damaged gzip data: {error}") from error
    return _unzstd(data) if is_zstd(data[:4]) else data


def _unzstd(data: bytes) -> bytes:
    """All frames of a zstd file; one that is cut off is an error, which the package's own reader would hide."""
    import zstandard  # only here: a machine that trains from a cache need not have it

    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise EOFError(f"damaged zstd data: {error}") from error
        if not frame.eof:
            raise EOFError("the zstd data are cut off before their end")
        data = frame.unused_data
    return b"".join(parts)
