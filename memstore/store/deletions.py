"""Dead rows of segments: which passages are still on disk but no longer in the collection. Knows no passages.

A list is a .npy file of ascending uint32: rows of one segment, and above them places of its duplicates (the first
one has the number of rows). A list never changes; a later generation that adds to it writes a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memstore.errors import ChecksumMismatch, CountMismatch, MissingData
from memstore.files import sync
from memstore.store.format import TEMPORARY, DeadRef, SegmentRef, deletions_path, hash_file
from memstore.store.ids import open_npy, save_npy

Rows = npt.NDArray[np.int64]
NONE: Rows = np.empty(0, dtype=np.int64)


def read_dead(store: Path, ref: SegmentRef) -> Rows:
    """The dead rows of a segment, ascending, and above them its dead duplicates.

    Raises:
        MissingData, ChecksumMismatch, StoreUnreadable: the list is absent, damaged, or closed to us.
        CountMismatch: it is not of as many rows as its generation says.
    """
    if ref.dead is None:
        return NONE
    path = deletions_path(store, ref.id, ref.dead.number)
    try:
        found = hash_file(path)
    except FileNotFoundError:
        raise MissingData(f"{path} is missing. Run `memstore verify`.") from None
    if found != ref.dead.sha256:
        raise ChecksumMismatch(f"{path} is damaged: not what its generation was made with. Run `memstore verify`.")
    rows = open_npy(path, dtype="uint32", shape=(ref.dead.passages + ref.dead.duplicates,)).astype(np.int64)
    if int(np.searchsorted(rows, ref.passages)) != ref.dead.passages or (np.diff(rows) <= 0).any():
        raise CountMismatch(f"{path} does not list {ref.dead.passages} rows of {ref.passages} in order")
    return rows


def write_dead(
    store: Path, ref: SegmentRef, rows: Iterable[int], *, lengths: npt.NDArray[np.int32], number: int
) -> DeadRef:
    """Write the list of a segment's dead rows for generation `number`, whole and on the disk.

    Args:
        store: the store.
        ref: the segment.
        rows: all of them, those of earlier lists too; places of duplicates above the rows.
        lengths: (P,) tokens per passage of the segment.
        number: the generation that is being made.
    """
    values = np.unique(np.fromiter(rows, dtype=np.uint32))
    passages = int(np.searchsorted(values, ref.passages))
    path = deletions_path(store, ref.id, number)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(TEMPORARY + path.name)
    save_npy(temporary, values)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
    return DeadRef(
        number=number,
        passages=passages,
        tokens=int(lengths[values[:passages].astype(np.int64)].sum(dtype=np.int64)),
        duplicates=len(values) - passages,
        sha256=hash_file(path),
    )
