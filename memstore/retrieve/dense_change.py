"""A dense index made from an earlier one with more passages. Refuses to know stores and our model.

A faiss file never changes: the earlier ones are hard links, and the new vectors are a flat part of their own. A part
less than `GROWTH` times as large as the one after it is joined with that, so that few are left and each vector is
copied a few times at most. When the parts hold too many vectors for what a search costs, the whole index is built
again. Dead rows stay in the index; who opens it says which they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from memstore.files import link_or_copy, system_errors
from memstore.names import accepted
from memstore.retrieve.dense import (
    FLAT_LIMIT,
    INDEX,
    DenseSettings,
    build_dense,
    read_dense_settings,
    unit_chunks,
)
from memstore.retrieve.dense_parts import read_part
from memstore.retrieve.folder import new_index_folder, write_settings

GROWTH = 4
MOST_SHARE = 8  # an index with clusters is built again when the parts beside it hold more than an eighth of it

VectorChunks = Iterable[npt.NDArray[Any]]


def change_dense(
    folder: Path, old: Path, *, vectors: Callable[[int], VectorChunks], count: int, flat_limit: int = FLAT_LIMIT
) -> DenseSettings:
    """Makes the index in `folder` from the one in `old`, which stays as it is.

    Args:
        folder: becomes the index, complete and on disk when this returns.
        old: an index over the first rows.
        vectors: the vectors of all rows from a given one on, as `build_dense` takes them.
        count: rows that the index is to cover.
        flat_limit: see `build_dense`.

    Raises:
        IndexCorrupt: `old` cannot be read, or there are not so many vectors.
        InvalidMemory: a vector is of another width or not finite.
        OSError: the system refuses to write.
    """
    settings = read_dense_settings(old)
    base, start = settings.passages - sum(settings.more), settings.passages
    beside = count - base
    most = max(flat_limit, base // MOST_SHARE) if settings.kind == "ivf" else min(base, flat_limit - base)
    if beside > most:
        return build_dense(folder, vectors(0), count=count, dim=settings.dim, encoder=settings.encoder)
    more = [*settings.more, *([count - start] if count > start else [])]
    while len(more) > 1 and more[-2] < GROWTH * more[-1] and count > start:
        more[-2:] = [more[-2] + more[-1]]
    changed = dataclasses.replace(settings, passages=count, more=tuple(more))
    with new_index_folder(folder) as part, system_errors():
        kept = {name for name, first, n in settings.parts() if (name, first, n) in changed.parts()}
        for name in sorted(kept):
            link_or_copy(old / name, part / name)
        for name, first, rows in changed.parts():
            if name not in kept:
                _write_part(part / name, old, settings, vectors, first=first, rows=rows)
        write_settings(part, changed.to_dict())
    return changed


def _write_part(
    path: Path, old: Path, settings: DenseSettings, vectors: Callable[[int], VectorChunks], *, first: int, rows: int
) -> None:
    """A flat part of `rows` rows from `first` on: old parts, which are joined, and then new vectors."""
    index = faiss.IndexFlatIP(settings.dim)
    for name, begin, count in settings.parts():
        if begin >= first and name != INDEX:
            earlier = read_part(old / name, count=count, dim=settings.dim, mapped=False)
            index.add(faiss.vector_to_array(earlier.codes).view(np.float32).reshape(count, settings.dim))
    missing = first + rows - settings.passages
    for chunk in unit_chunks(vectors(settings.passages), count=missing, dim=settings.dim):
        index.add(chunk)
    name, _handle = accepted(path)
    faiss.write_index(index, name)
