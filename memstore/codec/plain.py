"""Codecs that learn nothing: bfloat16 as it is, and 8-bit integers with a scale a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from memstore.codec.base import Arrays, ArraySpec, LearnsNothing, require_finite
from memstore.codec.int8 import dequantised, int8_arrays, quantised


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
        require_finite(values)
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
        return int8_arrays(d_model=d_model, max_tokens=max_tokens)

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        """See `Codec.encode`."""
        states = states.detach().cpu()  # (T, D)
        largest = states.abs().amax(dim=1).float() if states.numel() else torch.zeros(len(states))  # (T,)
        if not bool(torch.isfinite(largest).all()):  # a NaN is the largest of its row
            require_finite(states)
        return quantised(states, largest)

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        """See `Codec.decode`. Multiplies in float32 and rounds once."""
        return dequantised(arrays, dtype=dtype, device=device)
