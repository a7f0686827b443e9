"""Benchmarks: `python -m benchmarks [NAME ...] [--json FILE] [--quick]`, and `python -m benchmarks table FILE`.

Each compares one part of memstore with an independent baseline, measured in the same run, in turns, on the same
threads and the same input; what it reports first are ratios, since those outlive the machine. Nothing here is needed
to run memstore, and nothing outside this package imports it.
"""

BENCHMARKS = ("reader", "builder", "store", "decode", "retrieval", "load", "growth", "profile")
"""The modules here that measure, in the order in which they run and are told."""

ON_DEVICE = ("reader", "builder")
"""Those that also run on a GPU, at the sizes of T5."""
