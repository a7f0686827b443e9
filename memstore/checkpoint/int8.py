"""Parameters as int8 with scales, and back: little more than half the bytes of bfloat16.

The numbers w of 64 columns of a row are kept as `round(w / s)`, where `s = max |w| / 127` is kept beside them, in
float32. A scale for a whole row is coarser where some inputs have much larger weights than others, as in T5. Tables of
position biases, norms and biases stay what they are: they are small. Knows names and tensors; refuses to know files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

SCALES = ".scales"  # after the name of the parameter that they are of
COLUMNS = 64  # that share a scale
_LARGEST = 127
_LEFT = "table.weight"  # position biases: a few hundred numbers that every token's attention adds


def quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices `(R, C)` as int8, each with float32 scales `(R, ceil(C / COLUMNS))` beside it under its name and
    `SCALES`; everything else in bfloat16.
    """
    found = {}
    for name, values in tensors.items():
        if values.ndim != 2 or name.endswith(_LEFT):
            found[name] = values.to(torch.bfloat16)
            continue
        missing = -values.shape[1] % COLUMNS
        groups = functional.pad(values.float(), (0, missing)).view(len(values), -1, COLUMNS)  # (R, G, COLUMNS)
        scales = groups.abs().amax(2) / _LARGEST  # (R, G)
        divisors = torch.where(scales > 0, scales, torch.ones_like(scales))  # zeros stay zeros
        rounded = (groups / divisors[..., None]).round_().to(torch.int8)
        found[name] = rounded.flatten(1)[:, : values.shape[1]].contiguous()
        found[name + SCALES] = scales
    return found


def dequantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `quantised` was given, to within half a scale and bfloat16's rounding; other tensors as they are.

    Always bfloat16, so that whoever computes in float32 has the same numbers, and the fingerprint is the same too.
    """
    found = {}
    for name, values in tensors.items():
        scales = tensors.get(name + SCALES)
        if scales is not None and _fit(values, scales):
            by_column = scales.repeat_interleave(COLUMNS, 1)[:, : values.shape[1]]
            found[name] = (values.float() * by_column).to(torch.bfloat16)
        elif not (name.endswith(SCALES) and name.removesuffix(SCALES) in tensors):
            found[name] = values
    return found


def _fit(values: Tensor, scales: Tensor) -> bool:
    """Whether the scales are of these numbers."""
    if values.dtype is not torch.int8 or values.ndim != 2:
        return False
    return scales.shape == (values.shape[0], -(-values.shape[1] // COLUMNS))
