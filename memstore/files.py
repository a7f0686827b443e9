"""Files on disk: outputs tried before the work begins, written whole or not at all; inputs that may be compressed.

Knows paths and bytes, no contents.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from memstore.errors import ConfigError, DiskSpaceError, MemstoreError, NotWritable, OutputUnwritable

_DEVICES = Path("/dev")  # /dev/stdout may lead to a file, but to write there whole would be to replace the link
GZIP = b"\x1f\x8b"
"""What a gzip file begins with."""
_ZSTD, _SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"  # the latter follows a byte from 0x50 to 0x5f
ZSTD_WINDOW = 1 << 31
"""Bytes that a zstd file may look back, as by `zstd --long=31`: the most that the format's library reads. Memory for
it is taken as a file needs it; the library's own default, 128 MiB, refuses files of `--long=28` and more."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
_NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""The disk, the user's share of it, or the largest file that may be; numpy gives a short write no number."""


def check_outputs(outputs: Iterable[Path], *, inputs: Iterable[Path]) -> None:
    """Make sure that every output can be written, so that no work is lost to a wrong path.

    Args:
        outputs: files to write.
        inputs: files that are read, and folders in which nothing may be written.

    Raises:
        ConfigError: an output is also an input, or lies in one, or two outputs are one file.
        OutputUnwritable: a folder is missing, what is there is no file, or the system refuses.
    """
    taken = {_real(path): "is read from" for path in inputs}
    for path in outputs:
        with naming_refusals(path):
            place = _real(path)
            if place in taken:
                raise ConfigError(f"{path} {taken[place]} in this run: name another file to write")
            if folder := next((p for p in place.parents if p in taken), None):
                raise ConfigError(f"{path} lies in {folder}, which {taken[folder]} in this run: name a file elsewhere")
            taken[place] = "is written already"
            if path.is_dir():
                raise OutputUnwritable(f"{path} is a folder: name a file to write")
            if path.exists() and (not path.is_file() or _real(path.parent) == _DEVICES):
                raise OutputUnwritable(f"{path} is a device or a pipe, which cannot be replaced: name a file to write")
            if path.exists() and not os.access(path, os.W_OK):  # a new file would take its place all the same
                raise OutputUnwritable(f"{path} cannot be written: it is there, and write-protected; name another file")
            temporary = temporary_name(place)
            with temporary.open("wb"):
                pass
            temporary.unlink()


def make_place(out: Path, *, inputs: Iterable[Path]) -> None:
    """Make the folder of one file to write, and see that it can be written and is no input, before the work begins.

    Raises:
        ConfigError: it is one of the inputs, or lies in one.
        OutputUnwritable: it is no file, or the system refuses.
    """
    make_folder(out.parent)
    check_outputs([out], inputs=inputs)


def make_folder(folder: Path) -> None:
    """Make a folder to write to, and those above it.

    Raises:
        OutputUnwritable: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputUnwritable(f"{folder} cannot be a folder to write to: {error.strerror or error}") from error


def check_folder(out: Path) -> None:
    """See that a folder can be written to, or made, before the work begins. Nothing is made yet, so work that fails
    leaves nothing there.

    Raises:
        OutputUnwritable: it is a file, lies below one, or may not be written to.
    """
    with naming_refusals(out):
        there = next(folder for folder in (out, *out.parents) if folder.exists())
        if not there.is_dir():
            raise OutputUnwritable(f"{out} cannot be written: {there} is a file; name a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise OutputUnwritable(f"{out} cannot be written: no permission to write to {there}")


@contextmanager
def writing_whole(path: Path) -> Iterator[Path]:
    """As `replacing`, but a refusal by the system names the path. A link stays a link: its target is written.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full. Nothing new is left, and the old file stays.
    """
    with naming_refusals(path), replacing(_real(path)) as temporary:
        yield temporary


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Raises:
        OutputUnwritable: see `writing_whole`.
    """
    with writing_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def naming_refusals(path: Path) -> Iterator[None]:
    """Turn the system's refusals within the block into errors that name the path.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full.
    """
    try:
        yield
    except MemstoreError:  # some are OSErrors too, and know better
        raise
    except OSError as error:
        raise OutputUnwritable(f"{path} cannot be written: {error.strerror or error}") from error


def _real(path: Path) -> Path:
    """Where a path leads; `Path.resolve` raises a RuntimeError of its own on links in a circle."""
    return Path(os.path.realpath(path))


def temporary_name(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to. When the block ends, that file is flushed to the disk and renamed to `path`.

    Its permissions are those of any new file. When the block fails, it is removed, and the old file at `path` stays.
    """
    temporary = temporary_name(path)
    try:
        temporary.unlink(missing_ok=True)  # left by a process that was killed
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_in(folder: Path, *, if_full: str, if_refused: str) -> Iterator[None]:
    """Within, the system's refusals to write in a folder become errors that name it and say what to do.

    Args:
        folder: where is written.
        if_full: what follows "no room is left in FOLDER (reason)".
        if_refused: what follows "FOLDER cannot be "; `{reason}` stands for the system's.

    Raises:
        DiskSpaceError: the disk is full, or the user's share of it.
        NotWritable: the folder may not be written.
        ConfigError: it cannot be written for another reason.
    """
    try:
        yield
    except MemstoreError:  # some are OSErrors too, and know better
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            raise DiskSpaceError(f"no room is left in {folder} ({reason}){if_full}") from error
        refused = NotWritable if error.errno in _NOT_ALLOWED else ConfigError
        raise refused(f"{folder} cannot be {if_refused.replace('{reason}', reason)}") from error


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn what TensorStore, Tantivy, faiss and safetensors raise within the block, when the system refuses to write,
    back into the OSError it was.
    """
    try:
        yield
    except (ValueError, RuntimeError, SafetensorError) as error:
        found = re.search(r"(?:os[ _]error(?:_code=')? ?|Os \{ code: )(\d+)", str(error))
        named = (n for n in errno.errorcode if f"({os.strerror(n)})" in str(error))  # faiss gives no number
        number = int(found[1]) if found else next(named, None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number)) from error


def link_or_copy(source: Path, target: Path) -> None:
    """A file that never changes, under a second name: a hard link, or a copy where the system makes none.

    Raises:
        OSError: the system refuses.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOENT, *_NO_ROOM):
            raise
        shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def zstd_fault(error: Exception) -> str:
    """What an error of the zstandard package says of the file."""
    if "requires too much memory" in str(error):
        return "the zstd data look back more than 2 GiB: compress the file again, with --long=31 or less"
    return f"damaged zstd data: {error}"


def _unzstd(data: bytes) -> bytes:
    """All frames of a zstd file; one that is cut off is an error, which the package's own reader would hide."""
    import zstandard  # only here: a machine that trains from a cache need not have it

    parts = []
    while data:
        frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        try:
            parts.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise EOFError(zstd_fault(error)) from error
        if not frame.eof:
            raise EOFError("the zstd data are cut off before their end")
        data = frame.unused_data
    return b"".join(parts)
