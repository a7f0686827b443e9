"""Parameters as int8 with a scale per row, and back: half the bytes of bfloat16.

Row r of a matrix W is kept as `round(W[r] / s)`, where `s = max |W[r]| / 127` is kept beside it, in float32. Tables of
position biases, norms and biases stay what they are: they are small. Knows names and tensors; refuses to know files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALES = ".scales"  # after the name of the parameter whose rows they are of
_LARGEST = 127
_LEFT = "table.weight"  # position biases: a few hundred numbers that every token's attention adds


def quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices `(R, C)` as int8, each with float32 scales `(R,)` beside it under its name and `SCALES`; everything else
    in bfloat16.
    """
    found = {}
    for name, values in tensors.items():
        if values.ndim != 2 or name.endswith(_LEFT):
            found[name] = values.to(torch.bfloat16)
            continue
        scales = values.float().abs().amax(1) / _LARGEST  # (R,)
        divisors = torch.where(scales > 0, scales, torch.ones_like(scales))  # a row of zeros stays zeros
        found[name] = (values.float() / divisors[:, None]).round_().to(torch.int8)
        found[name + SCALES] = scales
    return found


def dequantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `quantised` was given, to within half a scale and bfloat16's rounding; other tensors as they are.

    Always bfloat16, so that whoever computes in float32 has the same numbers, and the fingerprint is the same too.
    """
    found = {}
    for name, values in tensors.items():
        scales = tensors.get(name + SCALES)
        if scales is not None and values.dtype is torch.int8 and values.shape[:1] == scales.shape:
            found[name] = (values.float() * scales[:, None]).to(torch.bfloat16)
        elif not (name.endswith(SCALES) and name.removesuffix(SCALES) in tensors):
            found[name] = values
    return found
