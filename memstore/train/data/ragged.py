"""Many short integer arrays in one flat array with offsets, saved as .npy files that can be memory-mapped.

Knows numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from memstore.errors import CandidatesCorrupt

Ints = NDArray[Any]  # of some integer type; which one depends on the vocabulary


def id_type(vocab_size: int) -> np.dtype[Any]:
    """The integer type for token ids of a vocabulary: uint16 up to 65,536 tokens, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


@dataclass(frozen=True, slots=True)
class Ragged:
    """N arrays in one; array i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: `(T, ...)`.
        offsets: `(N + 1,)` int64, from 0 to T, never descending.
    """

    values: Ints
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Ints], *, dtype: Any, width: tuple[int, ...] = ()) -> Self:
        """Join arrays of shape `(n_i, *width)`."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(r) for r in rows], out=offsets[1:])
        values = np.zeros((int(offsets[-1]), *width), dtype=dtype)
        if len(values):
            # An empty row has shape (0,): `reshape` gives it its width. A value that `dtype` does not hold would wrap
            # around, so callers choose a type that holds all.
            np.concatenate([np.asarray(r).reshape(-1, *width) for r in rows], out=values, casting="unsafe")
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Ints:
        found: Ints = self.values[self.offsets[i] : self.offsets[i + 1]]
        return found

    def __iter__(self) -> Iterator[Ints]:
        return (self[i] for i in range(len(self)))

    def save(self, folder: Path, name: str) -> None:
        """Write `{name}.npy` and `{name}.lengths.npy`. Lengths take fewer bytes than offsets."""
        np.save(folder / f"{name}.npy", self.values)
        lengths = np.diff(self.offsets)
        small = not len(lengths) or int(lengths.max()) < 1 << 16
        np.save(folder / f"{name}.lengths.npy", lengths.astype(np.uint16 if small else np.int64))

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Inverse of `save`; the values are memory-mapped.

        Raises:
            CandidatesCorrupt: a file is missing or unreadable, or lengths and values do not fit.
        """
        lengths = load_array(folder, f"{name}.lengths")
        values = load_array(folder, name)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] != len(values):
            raise CandidatesCorrupt(
                f"{folder / name}.npy holds {len(values)} values, its lengths sum to {offsets[-1]}; prepare it again"
            )
        return cls(values, offsets)


def load_array(folder: Path, name: str) -> Ints:
    """The array of `{name}.npy`, memory-mapped.

    Raises:
        CandidatesCorrupt: the file is missing or no array.
    """
    path = folder / f"{name}.npy"
    try:
        # As a plain array: `np.memmap` takes three times as long to give a slice.
        array: Ints = np.load(path, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        raise CandidatesCorrupt(f"{path} cannot be read: {error}; prepare the cache again") from error
    return array
