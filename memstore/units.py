"""Numbers with their units, as people read them: bytes, floating-point operations, seconds."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people: `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def operations(count: float) -> str:
    """Floating-point operations for people: `7.8 GFLOP`."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if abs(count) < 1000 or unit == "TFLOP":
            return f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3.5 min`, `1.2 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
