"""From passage ids to rows, without keeping ids in memory: sorted 64-bit hashes, memory-mapped.

Two different ids may share a hash: a caller compares the id that is stored at the row. Knows no manifests.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memstore.errors import ChecksumMismatch, MissingData, StoreUnreadable

Uint64 = npt.NDArray[np.uint64]


def hash_id(passage_id: str) -> int:
    """A 64-bit hash of an id, the same on every machine."""
    data = passage_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def hash_ids(passage_ids: Iterable[str]) -> Uint64:
    """`hash_id` of each, (N,) uint64."""
    return np.fromiter((hash_id(i) for i in passage_ids), dtype=np.uint64)


def sort_hashes(parts: Sequence[Uint64]) -> Uint64:
    """The id index over segments' hashes in row order: (2, P) uint64, sorted hashes above their rows.

    Takes 40 bytes of memory per passage while it sorts.
    """
    hashes = np.concatenate([np.asarray(p, dtype=np.uint64) for p in parts]) if parts else np.empty(0, np.uint64)
    rows = np.argsort(hashes, kind="stable").astype(np.uint64)
    return np.stack([hashes[rows], rows])


def candidates(index: Uint64, passage_ids: Sequence[str]) -> list[list[int]]:
    """Rows whose id has the hash of each asked one: none, one, or very rarely more."""
    hashes = hash_ids(passage_ids)
    first = np.searchsorted(index[0], hashes, side="left")
    last = np.searchsorted(index[0], hashes, side="right")
    return [index[1, a:b].tolist() for a, b in zip(first.tolist(), last.tolist(), strict=True)]


def save_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file that `open_npy` opens."""
    with path.open("wb") as file:
        file.write(_header(array.dtype, array.shape))
        file.write(np.ascontiguousarray(array).data)


def open_npy(path: Path, *, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A memory-mapped .npy file that must have this type and shape.

    Raises:
        MissingData: there is no such file.
        StoreUnreadable: the system cannot read it.
        ChecksumMismatch: its header or its size is another.
    """
    header = _header(np.dtype(dtype), shape)
    size = len(header) + int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
    try:
        with path.open("rb") as file:
            found = file.read(len(header))
            actual = file.seek(0, 2)
    except FileNotFoundError:
        raise MissingData(f"{path} is missing. Run `memstore verify`.") from None
    except OSError as error:
        raise StoreUnreadable(f"{path} cannot be read: {error}") from error
    if found != header or actual != size:
        raise ChecksumMismatch(
            f"{path} is damaged: not a .npy file of {dtype} {shape} in {size} bytes. Run `memstore verify`."
        )
    if size == len(header):
        return np.empty(shape, dtype)  # nothing to map
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=len(header), shape=shape))


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    values = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, values)
    return buffer.getvalue()
