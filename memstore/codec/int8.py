"""8-bit integers with a float32 scale a token, and a scale a dimension where there is one: what both int8 codecs do."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from memstore.codec.base import SERIAL_VALUES, Arrays, ArraySpec

_MAX = 127  # symmetric: -128 is not used, so that a sign flip of the states is one of the codes


def int8_arrays(*, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
    """What is kept of a passage; see `Codec.arrays`."""
    return (
        ArraySpec("states", "int8", (max_tokens, d_model)),
        ArraySpec("scales", "float32", (max_tokens,)),
    )


def quantised(states: torch.Tensor, largest: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
    """The arrays of states (T, D) on the CPU, whose largest magnitudes are (T,) float32, all finite."""
    scales = largest / _MAX
    # A token of zeros, or so small that its scale underflows, divides by one and stays zero.
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = (states / divisors[:, None]).round_().clamp_(-_MAX, _MAX).to(torch.int8)
    return {"states": codes.numpy(), "scales": scales.numpy()}


def dequantised(
    arrays: Arrays,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    of_dimension: torch.Tensor | None = None,
) -> torch.Tensor:
    """The states (T, D) of arrays, times a scale (D,) float32 of each dimension if there is one.

    Multiplies in float32 and rounds once.
    """
    codes = torch.from_numpy(arrays["states"]).to(device)  # (T, D)
    scales = torch.from_numpy(arrays["scales"]).to(device)  # (T,)
    of_dimension = None if of_dimension is None else of_dimension.to(device)
    states = torch.empty(codes.shape, dtype=dtype, device=device)
    step = max(1, SERIAL_VALUES // codes.shape[1]) if states.is_cpu else max(1, len(codes))
    for first in range(0, len(codes), step):
        part = slice(first, first + step)
        values = codes[part].to(torch.float32).mul_(scales[part, None])
        states[part].copy_(values if of_dimension is None else values.mul_(of_dimension))
    return states
