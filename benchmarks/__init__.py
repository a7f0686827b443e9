"""Benchmarks: `python -m benchmarks [NAME ...] [--json FILE] [--quick]`, and `python -m benchmarks table FILE`.

Each compares one part of memstore with an independent baseline. Both are measured in the same run, in turns, on the
same threads and the same input. Ratios are reported first, since times depend on the machine. Nothing here is needed to
run memstore, and nothing outside this package imports it.
"""

BENCHMARKS = ("reader", "builder", "store", "decode", "retrieval", "filters", "load", "growth", "profile")
"""The modules that measure, in the order in which they run and are reported."""

BY_NAME = ("llm", "budgets", "growing", "adding", "replicas", "overload", "shares", "s3", "codecs")
"""The modules that need an extra of their own, or many minutes, or have no baseline. They run where they are named."""

ON_DEVICE = ("reader", "builder")
"""The modules that also run on a GPU, at the sizes of T5."""
