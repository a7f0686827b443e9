"""Whole files that may be compressed by gzip or zstd, which their first bytes tell. Knows bytes alone."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def read_whole(path: Path) -> bytes:
    """What a file holds, decompressed.

    Raises:
        OSError: the system refuses; FileNotFoundError if there is none.
        EOFError: the compressed data are damaged, or cut off before their end.
    """
    data = path.read_bytes()
    if data.startswith(_GZIP):
        try:
            return gzip.decompress(data)
        except (zlib.error, gzip.BadGzipFile) as error:
            raise EOFError(f"damaged gzip data: {error}") from error
    return _unzstd(data) if data.startswith(_ZSTD) else data


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
