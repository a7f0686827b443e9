"""Small stores for the tests of the store: made of random states, since no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from memstore.passage import Passage
from memstore.store import Fingerprint, Generation, SegmentRef, SegmentWriter, get_codec, publish

FINGERPRINT = Fingerprint(
    encoder="e" * 64, tokenizer="t" * 64, memory_layers=2, passage_template="{title} {text}",
    max_passage_tokens=9, d_model=6, dtype="float32",
)  # fmt: skip
# Two segments; shards of 3; lengths with 0 and the maximum among them.
SEGMENT_LENGTHS = ((3, 0, 9, 1, 5, 9, 2), (4, 0, 7, 9))


@dataclass(frozen=True)
class TinyStore:
    """A published store and what went into it, in row order."""

    path: Path
    generation: Generation
    passages: list[Passage]
    states: list[torch.Tensor]
    token_ids: list[npt.NDArray[np.int64]]
    embeddings: npt.NDArray[np.float32]

    @property
    def ids(self) -> list[str]:
        return [p.id for p in self.passages]


def write(
    path: Path, *, codec: str = "int8", lengths: Sequence[Sequence[int]] = SEGMENT_LENGTHS, d_model: int = 6,
    max_tokens: int = 9, vocab_size: int = 50, shard: int = 3, deleted: tuple[str, ...] = (),
) -> TinyStore:  # fmt: skip
    """Build a store with one segment per sequence of `lengths`."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    flat = [n for part in lengths for n in part]
    passages = [
        Passage(f"doc{i}:é{i % 2}", f"doc{i}", f"Title {i}", f"text\n“{i}”", f"https://x/{i}", i, i + 8)
        for i in range(len(flat))
    ]
    states = [torch.randn(n, d_model).to(torch.bfloat16).float() for n in flat]
    token_ids = [rng.integers(0, vocab_size, n) for n in flat]
    embeddings = rng.standard_normal((len(flat), 2)).astype(np.float32)
    refs: list[SegmentRef] = []
    start = 0
    for number, part in enumerate(lengths):
        writer = SegmentWriter(
            path, segment_id=f"{number:06d}", codec=get_codec(codec), d_model=d_model, max_tokens=max_tokens,
            vocab_size=vocab_size, num_passages=len(part), shard_passages=shard, embedding_dim=2,
        )  # fmt: skip
        for first in range(start, start + len(part), shard):
            rows = slice(first, min(first + shard, start + len(part)))
            writer.write_shard(passages[rows], token_ids[rows], states[rows], embeddings[rows])
        refs.append(writer.seal())
        start += len(part)
    generation = publish(path, Generation(
        number=1, fingerprint=FINGERPRINT, codec=codec, vocab_size=vocab_size, settings={"max_words": 100},
        segments=tuple(refs), deleted=deleted, passages=len(flat), tokens=sum(flat), retriever="bm25",
        made_by={"memstore": "0"},
    ))  # fmt: skip
    return TinyStore(path, generation, passages, states, token_ids, embeddings)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., TinyStore]:
    """`write` into a fresh folder, or into `name` below it."""

    def make(name: str = "store", **options: object) -> TinyStore:
        return write(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def tiny(make_store: Callable[..., TinyStore]) -> TinyStore:
    """One int8 store."""
    return make_store()


@pytest.fixture
def fingerprint() -> Fingerprint:
    """The one of every tiny store."""
    return FINGERPRINT
