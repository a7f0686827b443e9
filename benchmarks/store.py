"""Loading 50 random passages from a store: ours against zarr-python and a raw memory map, from a warm page cache.

All subjects give the same packed bfloat16 states, token ids and lengths, decoded by the same codec. The baselines know
the rows and lengths beforehand; ours looks ids up. The memory map holds the encoded arrays uncompressed and packed, but
only those of passages that will be loaded: with a warm page cache that makes no difference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr

from benchmarks.common import Options, Report, Subject, ratio, take_turns
from benchmarks.inputs import TINY, write_store
from memstore.model.config import ModelConfig
from memstore.store import Store, segment_path
from memstore.store.format import MEMORY

LOADED = 50
DTYPE = torch.bfloat16
Rows = npt.NDArray[np.int64]


def run(options: Options) -> Report:
    """Time all subjects, in turns. Each round loads other passages."""
    rounds, warm_ups = (3, 1) if options.quick else (60, 20)
    with _store(options) as store:
        rng = np.random.default_rng(0)
        asked = [np.sort(rng.choice(len(store), LOADED, replace=False)) for _ in range(rounds + warm_ups)]
        ids = [store.ids(rows.tolist()) for rows in asked]
        for batch in ids:  # warms the page cache for all subjects; what this Store caches itself helps none of them
            store.load(batch)
        with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder:
            mapped = MemoryMap.write(Path(folder), store, asked)
            names = ("memstore", "memstore, TensorStore", "zarr-python", "memory map")
            other = Store.open(store.path, shard_reader="tensorstore")
            works = (Store.open(store.path), other, ZarrPython(store), mapped)
            subjects = {name: _subject(work, asked, ids) for name, work in zip(names, works, strict=True)}
            _check_equal(works, asked[0], ids[0])
            times = take_turns(subjects, rounds=rounds, warm_ups=warm_ups)
        settings = {"passages": len(store), "loaded": LOADED, "tokens": store.generation.tokens,
                    "codec": store.generation.codec, "d_model": store.fingerprint.d_model,
                    "segments": len(store.generation.segments), "page_cache": "warm",
                    "store": "given" if options.store else "random"}  # fmt: skip
    ours = times["memstore"]
    return Report(
        name="store",
        claim=f"loading {LOADED} random passages of {settings['passages']:,}; other readers' times over ours",
        settings=settings,
        ratios=[
            ratio("zarr-python", times["zarr-python"].of(), ours.of()),
            ratio("TensorStore", times["memstore, TensorStore"].of(), ours.of()),
            ratio("raw memory map, nothing to decompress", times["memory map"].of(), ours.of()),
            ratio("5 ms (the project's aim)", [5.0] * rounds, ours.of(), aim=1.0),
        ],
        times={name: t.summary() for name, t in times.items()},
    )


@contextmanager
def _store(options: Options) -> Iterator[Store]:
    """The given store, or one of random memories as wide as the default model's."""
    if options.store is not None:
        yield Store.open(options.store)
        return
    count, shape = (128, TINY) if options.quick else (8192, TINY | {"d_model": 256})
    config = ModelConfig.from_dict(shape | {"num_decoder_layers": 1})
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(60, 151, (count,), generator=generator).tolist()
    memories = (
        (np.full(n, 3, np.int64), torch.randn(n, config.d_model, generator=generator).to(DTYPE)) for n in lengths
    )
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder:
        yield write_store(Path(folder), memories, count=count, config=config)


Loaded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # states, lengths, token ids


def _subject(work: Any, asked: list[Rows], ids: list[list[str]]) -> Subject:
    turns = iter(range(len(asked)))

    def load(_: object) -> None:
        turn = next(turns)
        work.load(ids[turn] if isinstance(work, Store) else asked[turn])

    return load


def _check_equal(works: tuple[Any, ...], rows: Rows, ids: list[str]) -> None:
    """Check that the baselines give what ours gives. The store's own tests check TensorStore."""
    wanted = works[0].load(ids, dtype=DTYPE)
    for work in works[2:]:
        states, lengths, token_ids = work.load(rows)
        assert torch.equal(states, wanted.states)
        assert torch.equal(lengths, wanted.lengths)
        assert torch.equal(token_ids, wanted.token_ids)


def _decoded(store: Store, packed: dict[str, npt.NDArray[Any]], lengths: Rows) -> Loaded:
    """The last step of every subject: the codec."""
    token_ids = torch.from_numpy(packed.pop("token_ids").astype(np.int64))
    return store.codec.decode(packed, token_ids, dtype=DTYPE, device="cpu"), torch.from_numpy(lengths), token_ids


class ZarrPython:
    """Reads by zarr-python: one orthogonal selection for each array and segment. Arrays are opened beforehand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        segments = store.generation.segments
        groups = [zarr.open_group(segment_path(store.path, s.id) / MEMORY, mode="r") for s in segments]
        self.names = [n for n in groups[0] if n not in ("lengths", "embeddings")]
        self.arrays = [{n: g[n] for n in self.names} for g in groups]
        self.lengths = np.concatenate([g["lengths"][:] for g in groups]).astype(np.int64)
        self.starts = np.cumsum([0, *(s.passages for s in segments)])

    def load(self, rows: Rows) -> Loaded:
        """The states, lengths and token ids of rows, which ascend."""
        lengths = self.lengths[rows]
        segment_of = np.searchsorted(self.starts, rows, side="right") - 1
        packed = {}
        for name in self.names:
            parts: list[Any] = []
            for s in np.unique(segment_of):
                parts.extend(
                    self.arrays[s][name].oindex[rows[segment_of == s] - self.starts[s]]
                )  # (max_tokens, ...) each
            packed[name] = np.concatenate([p[:n] for p, n in zip(parts, lengths, strict=True)])
        return _decoded(self.store, packed, lengths)


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The same encoded arrays, packed, uncompressed and memory-mapped. `first` is the place of a row's first token."""

    store: Store
    arrays: dict[str, npt.NDArray[Any]]
    first: dict[int, int]
    lengths: dict[int, int]

    @classmethod
    def write(cls, folder: Path, store: Store, asked: list[Rows]) -> MemoryMap:
        """Copy the passages that will be loaded from a store."""
        source = ZarrPython(store)
        rows = np.unique(np.concatenate(asked))
        lengths = source.lengths[rows]
        first = np.cumsum(lengths) - lengths
        arrays = {}
        for name in source.names:
            sample = source.arrays[0][name]
            shape = (int(lengths.sum()), *sample.shape[2:])
            values = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=sample.dtype, shape=shape)
            for row, begin, length in zip(rows.tolist(), first.tolist(), lengths.tolist(), strict=True):
                segment = int(np.searchsorted(source.starts, row, side="right")) - 1
                values[begin : begin + length] = source.arrays[segment][name][row - source.starts[segment]][:length]
            values.flush()
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        keys = rows.tolist()
        return cls(
            store, arrays, dict(zip(keys, first.tolist(), strict=True)), dict(zip(keys, lengths.tolist(), strict=True))
        )

    def load(self, rows: Rows) -> Loaded:
        """The states, lengths and token ids of rows, in any order. All must have been copied."""
        keys = rows.tolist()
        parts = [slice(self.first[r], self.first[r] + self.lengths[r]) for r in keys]
        packed = {name: np.concatenate([array[p] for p in parts]) for name, array in self.arrays.items()}
        return _decoded(self.store, packed, np.array([self.lengths[r] for r in keys]))
