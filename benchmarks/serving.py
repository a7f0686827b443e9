"""Starts servers for the benchmarks that need one, on a free port of the loopback interface.

Does what a user would do: `memstore serve`, and HTTP. Refuses to know what is asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memstore_builders.build import build
from memstore_builders.job import BuildOptions

_READY = "memstore: serving on "
KEY = "the-benchmark's-write-key"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready. `start_up`: milliseconds from starting its process until it said that it is ready."""

    url: str
    start_up: float
    process: subprocess.Popen[str]


@contextmanager
def serving(
    store: Path,
    *,
    max_batch: int | None = None,
    watch: float | None = None,
    write_key: str | None = None,
    queue_seconds: float | None = None,
) -> Iterator[Server]:
    """Serve a store within the block, in a process of its own; the options are those of `memstore serve`.

    Raises:
        RuntimeError: the server ended before it was ready; its output says why.
    """
    command = [sys.executable, "-m", "memstore", "serve", "--store", str(store), "--port", "0"]
    command += ["--log-level", "warning"]
    if max_batch is not None:
        command += ["--max-batch", str(max_batch)]
    if watch is not None:
        command += ["--watch", str(watch)]
    if queue_seconds is not None:
        command += ["--queue-seconds", str(queue_seconds)]
    environment = os.environ if write_key is None else {**os.environ, "MEMSTORE_WRITE_KEY": write_key}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_READY):
                yield Server(line.removeprefix(_READY).strip(), (time.perf_counter() - begin) * 1e3, process)
                break
        else:
            raise RuntimeError("the server ended before it was ready")
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()


def built_store(corpus: Path, out: Path, *, limit: int, model: str = "default") -> Path:
    """The folder of a store that is built from the first passages of a corpus."""
    build(BuildOptions(corpus=(corpus,), out=out, limit=limit, model=model))
    return out
