"""What the machine offers: its devices, the dtype to compute in, how memory is given back, and a clock.

Settings of the whole process are for a program to choose, never for an import.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from memstore.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP_BYTES = 1 << 30


def tune_allocator() -> bool:
    """Let glibc keep freed blocks up to 1 GiB instead of giving each back to the kernel.

    Activations of some megabytes are allocated and freed in every layer; by default each costs page faults again.
    Returns whether the C library took the settings (glibc only; elsewhere nothing happens).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))


def give_memory_back() -> None:
    """Give the kernel what glibc keeps of freed blocks: for when much was freed that is not needed again."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def why_unusable(device: torch.device | str) -> str:
    """Why no number can be put on a device and read back, in a line; empty if one can."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def compute_dtype(device: str, name: str | None = None) -> torch.dtype:
    """What to compute in: the named dtype, or bfloat16 where the processor multiplies it natively, else float32.

    Raises:
        ConfigError: the name is neither bfloat16 nor float32 (T5's activations overflow float16).
    """
    if name is not None:
        if name not in ("bfloat16", "float32"):
            raise ConfigError(f"dtype must be bfloat16 or float32, not {name!r} (T5's activations overflow float16)")
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


@dataclass(slots=True)
class StageTimer:
    """Milliseconds per named stage."""

    device: torch.device
    milliseconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage; work on a GPU is waited for."""
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + (time.perf_counter() - begin) * 1e3
