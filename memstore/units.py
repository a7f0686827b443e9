"""Numbers with their units, as people read them: bytes, floating-point operations, seconds."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people.

    >>> size(999), size(1_500_000_000)
    ('999 bytes', '1.5 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def operations(count: float) -> str:
    """Floating-point operations for people.

    >>> operations(7.84e9)
    '7.8 GFLOP'
    """
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if abs(count) < 1000 or unit == "TFLOP":
            return f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42), duration(210), duration(7200)
    ('42.0 s', '3.5 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
