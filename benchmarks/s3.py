"""Texts and memories of 40 passages from object storage: cold and warm, with latency added, against a folder.

A SeaweedFS server of the run holds a store of random memories as wide as the default model's. A proxy before it delays
each answer. Cold: no passage was read before; what a reader fetches when it opens the store is there. Warm: the same
passages again, from the cache on the local disk. The folder has the same files, in a warm page cache.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks import faulty_proxy, object_server
from benchmarks.common import TOTAL, Options, Report, Times, ratio
from benchmarks.faulty_proxy import Proxy
from benchmarks.inputs import TINY, write_store
from memstore.errors import ConfigError
from memstore.model.config import ModelConfig
from memstore.store import Store
from memstore.store.mirror import Mirror
from memstore.store.uploading import push

LOADED = 40
LATENCIES = (0, 2, 20)  # milliseconds added to each answer
URL = f"s3://{object_server.BUCKET}/bench"


def run(options: Options) -> Report:
    """Time all cases, one latency after another, each question cold and then warm and from the folder."""
    rounds, count, width = (2, 256, 32) if options.quick else (15, 2048, 256)
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        folder = Path(name)
        local = _written(folder / "store", count=count, width=width)
        with _served(folder) as (server, proxy):
            _upload(local, server, folder)
            begin = time.perf_counter()
            remote = Store.open(URL)
            opened = (time.perf_counter() - begin) * 1e3, len(proxy.requests), proxy.bytes
            times, rows = _measure(local, remote, proxy, rounds=rounds)
            remote.close()
    return Report(
        name="s3",
        claim=f"texts and memories of {LOADED} passages from a folder's time over that from object storage",
        settings={
            "passages": count,
            "loaded": LOADED,
            "d_model": width,
            "codec": local.generation.codec,
            "server": "SeaweedFS",
            "requests_at_once": 128,
        },
        ratios=[
            ratio(case, times["folder"].of()[: len(t.of())], t.of()) for case, t in times.items() if case != "folder"
        ],
        times={case: t.summary() for case, t in times.items()},
        figures={"opening, ms": opened[0], "opening, requests": opened[1], "opening, bytes": opened[2]},
        rows=rows,
    )


def _measure(
    local: Store, remote: Store, proxy: Proxy, *, rounds: int
) -> tuple[dict[str, Times], list[dict[str, float | int | str]]]:
    order = np.random.default_rng(0).permutation(len(local))
    questions = iter([order[i : i + LOADED].tolist() for i in range(0, len(order) - LOADED + 1, LOADED)])
    _load(remote, next(questions))  # connections
    taken: dict[str, list[float]] = {"folder": []}
    rows: list[dict[str, float | int | str]] = []
    for latency in LATENCIES:
        proxy.delay = latency / 1e3
        cold, warm = f"cold, {latency} ms", f"warm, {latency} ms"
        taken[cold], taken[warm] = [], []
        requests = came = 0
        for _ in range(rounds):
            if (asked := next(questions, None)) is None:
                break
            before = len(proxy.requests), proxy.bytes
            taken[cold].append(_load(remote, asked))
            requests, came = requests + len(proxy.requests) - before[0], came + proxy.bytes - before[1]
            taken[warm].append(_load(remote, asked))
            _load(local, asked)
            taken["folder"].append(_load(local, asked))
        done = max(1, len(taken[cold]))
        rows.append(
            {"added latency, ms": latency, "requests per question": requests / done, "bytes per question": came / done}
        )
    return {case: Times(tuple({TOTAL: ms} for ms in each)) for case, each in taken.items() if each}, rows


def _load(store: Store, rows: list[int]) -> float:
    """Milliseconds of one question's texts and memories."""
    begin = time.perf_counter()
    store.load(store.at(rows, to_load=True))
    return (time.perf_counter() - begin) * 1e3


def _written(folder: Path, *, count: int, width: int) -> Store:
    config = ModelConfig.from_dict(TINY | {"d_model": width, "num_decoder_layers": 1})
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(60, 151, (count,), generator=generator).tolist()
    memories = (
        (np.full(n, 3, np.int64), torch.randn(n, width, generator=generator).to(torch.bfloat16)) for n in lengths
    )
    return write_store(folder, memories, count=count, config=config)


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, Proxy]]:
    """A server and a proxy before it; within, the variables name the proxy."""
    before = dict(os.environ)
    try:
        with object_server.serving(folder / "server") as server, faulty_proxy.between(server) as proxy:
            os.environ.update(object_server.environment(proxy.url, folder / "cache"))
            yield server, proxy
    except object_server.NoServer as error:
        raise ConfigError(f"no S3 server can be started: {error}") from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def _upload(local: Store, server: str, folder: Path) -> None:
    """Past the proxy."""
    named = os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = server
    (folder / "work").symlink_to(local.path)
    push(Mirror(folder / "work", URL), tag=None)
    (local.path / ".remote").unlink()  # it is a folder again
    os.environ["AWS_ENDPOINT_URL"] = named
