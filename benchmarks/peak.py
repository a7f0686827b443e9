"""Compares a stage with the highest speed at which its device multiplies matrices, measured in the same run.

The peak is the best of several tries with one large square product in the same dtype. A device reaches less than its
data sheet says (an H200: 989 TFLOP/s in bfloat16). Refuses to know what is measured.
"""

from __future__ import annotations

import torch

from benchmarks.common import Options, take_turns

_SIDES = {"cpu": 4096, "cuda": 8192}  # large enough that only the product takes time
_QUICK_SIDE, _TRIES = 256, 5


@torch.inference_mode()
def peak(options: Options, dtype: torch.dtype) -> float:
    """The operations per second of a square product on the device, the best of five tries."""
    device = torch.device(options.device)
    side = _QUICK_SIDE if options.quick else _SIDES[device.type]
    a, b = (torch.randn(side, side, generator=torch.Generator().manual_seed(i)).to(device, dtype) for i in (0, 1))
    times = take_turns({"product": lambda _: torch.mm(a, b)}, rounds=_TRIES, device=options.device)["product"]
    return 2 * side**3 / (min(times.of()) / 1e3)


def share_row(what: str, *, milliseconds: float, flops: int, peak: float) -> dict[str, float | int | str]:
    """A row of a report: time, operations as `memstore.model.flops` counts them, and the share of the peak."""
    per_second = flops / (milliseconds / 1e3)
    return {"what": what, "ms": milliseconds, "TFLOP": flops / 1e12, "TFLOP/s": per_second / 1e12,
            "of the peak, %": 100 * per_second / peak}  # fmt: skip
