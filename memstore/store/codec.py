"""How memories become arrays and back. Knows tensors and numpy arrays; neither files nor the model.

A codec turns states of shape (T, D) into arrays whose leading axis is the token, and those back into states. What
decoding needs besides the arrays: small settings are its `attributes`, which the store keeps with each segment; what
`fit` learned from a sample of the store's passages (a product quantizer's codebooks) is its `tables`, which the store
keeps once (`codec_tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from memstore.errors import CodecMismatch, ConfigError, InvalidMemory, StoreFormatError

Arrays = Mapping[str, npt.NDArray[Any]]
Tables = Mapping[str, npt.NDArray[Any]]
_INT8_MAX = 127  # symmetric: -128 is not used, so that a sign flip of the states is one of the codes

# Below this torch works in the calling thread. Decoding is so short that waking its other threads, which then
# spin on the cores that TensorStore reads with, costs more than they save: 50 passages loaded on two busy
# cores took 15 ms at the median with them and 6 to 10 without.
_SERIAL_VALUES = 32767


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

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor) -> Codec:
        """This codec with tables learned from a sample. The same sample gives the same tables.

        Args:
            states: (T, D), as the memory encoder made them, on the CPU; fewer than `sample_tokens` in a small store.
            token_ids: (T,) int64.
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

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor) -> Self:
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


@dataclass(frozen=True, slots=True)
class Bfloat16Codec(LearnsNothing):
    """Bit patterns of bfloat16 in uint16, since Zarr has no bfloat16: exact for states that are bfloat16.

    >>> codec, ids = Bfloat16Codec(), torch.tensor([7])
    >>> codec.decode(codec.encode(torch.tensor([[1.5, -2.0]]), ids), ids, dtype=torch.float32, device="cpu")
    tensor([[ 1.5000, -2.0000]])
    """

    name: str = "bf16"

    def attributes(self) -> dict[str, Any]:
        """See `Codec.attributes`."""
        return {"name": self.name, "version": 1}

    def arrays(self, *, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
        """See `Codec.arrays`."""
        return (ArraySpec("states", "uint16", (max_tokens, d_model)),)

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        """See `Codec.encode`."""
        values = states.detach().to("cpu", torch.bfloat16).contiguous()
        _require_finite(values)
        return {"states": values.view(torch.uint16).numpy()}

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        """See `Codec.decode`."""
        return torch.from_numpy(arrays["states"]).view(torch.bfloat16).to(device).to(dtype)


@dataclass(frozen=True, slots=True)
class Int8Codec(LearnsNothing):
    """Symmetric 8-bit integers with one float32 scale per token: within half a scale of the states.

    >>> codec, ids = Int8Codec(), torch.tensor([7])
    >>> arrays = codec.encode(torch.tensor([[1.0, -127.0, 30.4]]), ids)
    >>> arrays["states"], arrays["scales"]
    (array([[   1, -127,   30]], dtype=int8), array([1.], dtype=float32))
    >>> codec.decode(arrays, ids, dtype=torch.float32, device="cpu")
    tensor([[   1., -127.,   30.]])
    """

    name: str = "int8"

    def attributes(self) -> dict[str, Any]:
        """See `Codec.attributes`."""
        return {"name": self.name, "version": 1}

    def arrays(self, *, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
        """See `Codec.arrays`."""
        return (
            ArraySpec("states", "int8", (max_tokens, d_model)),
            ArraySpec("scales", "float32", (max_tokens,)),
        )

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        """See `Codec.encode`."""
        states = states.detach().cpu()  # (T, D)
        largest = states.abs().amax(dim=1).float() if states.numel() else torch.zeros(len(states))  # (T,)
        if not bool(torch.isfinite(largest).all()):  # a NaN is the largest of its row
            _require_finite(states)
        scales = largest / _INT8_MAX
        # A token of zeros, or so small that its scale underflows, divides by one and stays zero.
        divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
        codes = (states / divisors[:, None]).round_().clamp_(-_INT8_MAX, _INT8_MAX).to(torch.int8)
        return {"states": codes.numpy(), "scales": scales.numpy()}

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        """See `Codec.decode`. Multiplies in float32 and rounds once."""
        codes = torch.from_numpy(arrays["states"]).to(device)  # (T, D)
        scales = torch.from_numpy(arrays["scales"]).to(device)  # (T,)
        states = torch.empty(codes.shape, dtype=dtype, device=device)
        step = max(1, _SERIAL_VALUES // codes.shape[1]) if states.is_cpu else max(1, len(codes))
        for first in range(0, len(codes), step):
            part = slice(first, first + step)
            states[part].copy_(codes[part].to(torch.float32).mul_(scales[part, None]))
        return states


CODECS: dict[str, Callable[[], Codec]] = {"bf16": Bfloat16Codec, "int8": Int8Codec}
"""What makes each codec, by the name that `--codec` and the manifests call it; before `fit`, if it learns."""

CODEC_NAMES = tuple(CODECS)


def get_codec(name: str) -> Codec:
    """The codec of that name, for writing; one with `sample_tokens` must be fitted first.

    Raises:
        ConfigError: there is none.
    """
    if name not in CODECS:
        raise ConfigError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    return CODECS[name]()


def codec_from(attributes: Mapping[str, Any], tables: Tables | None = None) -> Codec:
    """The codec that a segment's attributes and its tables describe, for reading.

    Raises:
        StoreFormatError: unknown name, version or setting.
        CodecMismatch: the tables are not of that codec, or it needs some.
    """
    name = attributes.get("name")
    make = CODECS.get(name) if isinstance(name, str) else None
    codec = None if make is None else _with_tables(make(), tables or {})
    if codec is None or codec.attributes() != dict(attributes):
        raise StoreFormatError(
            f"the memories are in a codec that this memstore does not know: {dict(attributes)!r}; "
            f"known: {', '.join(CODECS)}. Read them with the memstore version that wrote them."
        )
    return codec


def _with_tables(codec: Codec, tables: Tables) -> Codec:
    if codec.sample_tokens and not tables:
        raise CodecMismatch(f"the codec {codec.name!r} decodes by tables that it learned, and none are named")
    try:
        return codec.with_tables(tables)
    except ValueError as error:
        raise CodecMismatch(f"the tables are not of the codec {codec.name!r}: {error}") from error


def _require_finite(states: torch.Tensor) -> None:
    if not bool(torch.isfinite(states).all()):
        bad = int((~torch.isfinite(states)).any(dim=1).nonzero()[0, 0])
        raise InvalidMemory(
            f"the states of token {bad} of {len(states)} are not finite; "
            "compute them in bfloat16 or float32 (T5 overflows float16)"
        )
