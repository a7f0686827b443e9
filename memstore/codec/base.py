"""What a codec is: how memories become arrays and back. Knows tensors and numpy arrays; neither files nor the model.

A codec turns states of shape (T, D) into arrays whose leading axis is the token, and those back into states. What
decoding needs besides the arrays: small settings are its `attributes`, which a store keeps with each segment; what
`fit` learned from a sample of the store's passages (a product quantizer's codebooks) is its `tables`, which a store
keeps once (`memstore/store/codec_tables.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from memstore.errors import InvalidMemory

Arrays = Mapping[str, npt.NDArray[Any]]
Tables = Mapping[str, npt.NDArray[Any]]

# Below this torch works in the calling thread. Decoding is so short that waking its other threads, which then
# spin on the cores that TensorStore reads with, costs more than they save: 50 passages loaded on two busy
# cores took 15 ms at the median with them and 6 to 10 without.
SERIAL_VALUES = 32767


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a passage's memory: `shape` is per passage, its first axis the tokens."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token, before compression."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape[1:], dtype=np.int64))


class Codec(Protocol):
    """How states are kept: `name` goes into manifests, `attributes` into each segment, `tables` once into the store.

    A codec is a value: `fit` and `with_tables` give another one.
    """

    @property
    def name(self) -> str:
        """What `--codec` and the manifests call it."""
        ...

    @property
    def sample_tokens(self) -> int:
        """Tokens of the store's own passages that `fit` wants to see; 0 for a codec that learns nothing."""
        ...

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor, *, weights: torch.Tensor | None = None) -> Codec:
        """This codec with tables learned from a sample. The same sample gives the same tables.

        Args:
            states: (T, D), as the memory encoder made them, on the CPU; fewer than `sample_tokens` in a small store.
            token_ids: (T,) int64.
            weights: (D,) what an error in each dimension counts: the weights of the live stack's first norm. None
                for all the same.
        """
        ...

    def tables(self) -> Tables:
        """What was learned, by name: empty before `fit`, and for a codec that learns nothing."""
        ...

    def with_tables(self, tables: Tables) -> Codec:
        """This codec with what `tables` gave.

        Raises:
            ValueError: they are not of this codec: other names, shapes or types.
        """
        ...

    def attributes(self) -> dict[str, Any]:
        """What `codec_from` needs besides the tables: at least name and version; JSON values only."""
        ...

    def arrays(self, *, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
        """The arrays of one passage. One is named "states"."""
        ...

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        """States (T, D) of tokens (T,) int64 to arrays with leading axis T.

        Raises:
            InvalidMemory: a value is not finite.
        """
        ...

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        """Arrays with leading axis T, of tokens (T,) int64, to states (T, D) in `dtype` on `device`."""
        ...


class LearnsNothing:
    """The part of `Codec` that is about tables, for a codec without any."""

    __slots__ = ()
    sample_tokens = 0

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor, *, weights: torch.Tensor | None = None) -> Self:
        """See `Codec.fit`."""
        return self

    def tables(self) -> Tables:
        """See `Codec.tables`."""
        return {}

    def with_tables(self, tables: Tables) -> Self:
        """See `Codec.with_tables`."""
        if tables:
            raise ValueError(f"this codec has no tables, not {', '.join(sorted(tables))}")
        return self


def require_finite(states: torch.Tensor) -> None:
    """Refuse states (T, D) that are no numbers.

    Raises:
        InvalidMemory: a value is not finite.
    """
    if not bool(torch.isfinite(states).all()):
        bad = int((~torch.isfinite(states)).any(dim=1).nonzero()[0, 0])
        raise InvalidMemory(
            f"the states of token {bad} of {len(states)} are not finite; "
            "compute them in bfloat16 or float32 (T5 overflows float16)"
        )


def as_tensors(tables: Tables, wanted: Mapping[str, tuple[str, tuple[int | None, ...]]]) -> dict[str, torch.Tensor]:
    """Tables by name, checked and copied: `wanted` has a type and a shape for each, where None is any length.

    Raises:
        ValueError: other names, types or shapes.
    """
    if tables.keys() != wanted.keys():
        raise ValueError(f"{', '.join(sorted(wanted))} are wanted, not {', '.join(sorted(tables)) or 'none'}")
    for name, (dtype, shape) in wanted.items():
        found = tables[name]
        fits = len(shape) == found.ndim and all(w in (None, n) for w, n in zip(shape, found.shape, strict=True))
        if str(found.dtype) != dtype or not fits:
            raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, not {dtype} of {shape}")
    return {name: torch.from_numpy(np.array(table)) for name, table in tables.items()}


def spaced(count: int, most: int) -> torch.Tensor:
    """At most so many places of `count`, evenly spread, (n,) int64."""
    return torch.arange(min(count, most)) * count // max(1, min(count, most))
