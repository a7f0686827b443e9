"""Bytes of a corpus file, decompressed, as numbered lines. Knows compression and UTF-8, no format of a row.

Memory is bounded: a read buffer and one line, no line longer than `MAX_LINE_BYTES`; for a zstd file what it looks
back too, 2 GiB at most and by default 8 MiB.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from memstore.errors import CorpusFormatError, CorpusUnreadable
from memstore.files import GZIP, ZSTD_WINDOW, is_zstd, zstd_fault

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_BYTES = 64 * 2**20  # a longer row is a bad row
_COMPRESSED_CHUNK = 16 * 2**10  # bytes decompressed at a time: bounds the memory of one step
_REFUSED = {
    b"BZh": "is compressed by bzip2",
    b"\xfd7zXZ\x00": "is compressed by xz",
    b"PK\x03\x04": "is a zip archive",
    b"PAR1": "is a Parquet file",
    b"\xff\xfe": "is UTF-16 text",
    b"\xfe\xff": "is UTF-16 text",
}


class RowError(ValueError):
    """Why one row cannot be used. Readers hand it on in the row's place, so that reading can go on."""


def numbered_lines(
    path: Path, seen: Callable[[bytes], object] = lambda _: None
) -> Generator[tuple[int, str | RowError], None, None]:
    """Yields `(line number from 1, line without its end)`; a line that is no text as its `RowError`.

    Lines end at a line feed only, as JSON lines do. Plain, gzip and zstd are recognised by their first bytes. `seen`
    gets every byte of a line, decompressed, before the line is yielded.

    Raises:
        CorpusFormatError: the file is in a container that is not read (bzip2, zip, UTF-16, ...).
        CorpusUnreadable: the system refuses to read the file, or its compressed data are damaged or cut off.
    """
    number = 0
    try:
        with _open(path) as stream:
            while raw := stream.readline(MAX_LINE_BYTES):
                number += 1
                seen(raw)
                if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    _skip_line(stream, seen)
                    yield number, RowError(f"the row is longer than {MAX_LINE_BYTES:,} bytes")
                    continue
                yield number, _decode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusUnreadable(f"{path}: cannot be read after line {number}: {reason}") from error


def _decode(raw: bytes) -> str | RowError:
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} of the row")


def _skip_line(stream: io.BufferedIOBase, seen: Callable[[bytes], object]) -> None:
    while raw := stream.readline(2**20):
        seen(raw)
        if raw.endswith(b"\n"):
            return


def _open(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        head = file.read(8)
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise CorpusFormatError(f"{path}: {what}; give UTF-8 text, plain or compressed by gzip or zstd")
    if head.startswith(GZIP):
        return gzip.open(path, "rb")
    if is_zstd(head):
        return io.BufferedReader(_ZstdFile(path))
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of a zstd file of one or more frames.

    The package's own stream reader takes a cut-off file for a complete one; this raises `EOFError`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fills `buffer` with decompressed bytes; 0 at the end of the last frame."""
        while not self._output:
            if not self._decompress():
                return 0
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._output))
        view[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def _decompress(self) -> bool:
        data = self._input or self._file.read(_COMPRESSED_CHUNK)
        self._input = b""
        if not data:
            if self._frame is not None:
                raise EOFError("the zstd data are cut off before their end")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        try:
            self._output = memoryview(self._frame.decompress(data))
        except zstandard.ZstdError as error:
            raise EOFError(zstd_fault(error)) from error
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        return True
