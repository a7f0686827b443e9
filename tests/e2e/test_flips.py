"""Random byte flips anywhere in a built store: each is reported by `verify`, by its own error, and never read as good.

MEMSTORE_FLIPS sets their number (200 by default).
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch

from memstore import errors
from memstore.errors import MemstoreError
from memstore.store import Store
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_builders.verify import verify
from tests import tiny

FLIPS = int(os.environ.get("MEMSTORE_FLIPS", "200"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    model = tiny.save_checkpoint(folder / "model", embedding_dim=8)
    rows = [{"id": f"d{i}", "title": p.title, "text": f"{p.text} {i}.", "metadata": {"n": i, "tags": [p.title]}}
            for i, p in enumerate(tiny.passages(60))]  # fmt: skip
    corpus = folder / "docs.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(model), dtype="float32", retriever="hybrid",
                       segment_passages=20))  # fmt: skip
    return folder / "store"


def files(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if p.is_file() and not p.name.endswith(".lock"))


def test_each_flip_is_reported(store: Path) -> None:
    """Half of them in files chosen evenly, so that small ones have their share; half in proportion to size."""
    rng = random.Random(0)
    everything = files(store)
    sizes = [p.stat().st_size for p in everything]
    hit: set[str] = set()
    for n in range(FLIPS):
        path = rng.choice([p for p in everything if p.stat().st_size]) if n % 2 else rng.choices(everything, sizes)[0]
        good = path.read_bytes()
        at, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
        path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        try:
            found = verify(store, sample=0)
            assert not found.sound, f"{path.relative_to(store)} byte {at} bit {bit} was not noticed"
            for problem in found.problems:
                assert issubclass(getattr(errors, problem.kind), MemstoreError)
        finally:
            path.write_bytes(good)
        hit.add(path.relative_to(store).parts[0])
    assert hit == {"CURRENT", "generations", "segments", "index", "lookups"}
    assert verify(store, sample=60).sound


def test_a_flip_in_what_is_read_is_an_error_or_changes_nothing(store: Path) -> None:
    """Reading all passages and memories of a damaged store gives an error, or exactly what was written."""

    def read() -> tuple[torch.Tensor, list[str]]:
        opened = Store.open(store)
        ids = [p.id for p in opened.iter_passages()]
        return opened.load(ids, dtype=torch.float32).states, [p.text for p in opened.passages(ids)]

    states, texts = read()
    rng = random.Random(1)
    touched = files(store / "segments")
    told = 0
    for _ in range(60):
        path = rng.choice([p for p in touched if p.stat().st_size])
        good = path.read_bytes()
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        try:
            found_states, found_texts = read()
            assert torch.equal(found_states, states)
            assert found_texts == texts
        except MemstoreError:
            told += 1
        finally:
            path.write_bytes(good)
    assert told > 20
