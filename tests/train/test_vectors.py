"""Token vectors from co-occurrence: counts by hand, like vectors for like neighbours, and models that use them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from memstore.errors import CheckpointError, CheckpointMismatch, CheckpointNotFound, ConfigError, OutputUnwritable
from memstore.train.config import ModelTable
from memstore.train.data.ragged import Ragged
from memstore.train.initial_model import open_model
from memstore.train.vectors import cooccurrences, read_vectors, token_vectors, write_vectors
from tests import tiny


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged.of([np.array(r) for r in rows], dtype=np.uint16)


def test_counts_by_hand() -> None:
    got = cooccurrences(ragged([[0, 1, 2], [2, 0]]), vocab_size=4, window=2)
    want = np.zeros((4, 4))
    for a, b, count in ((0, 1, 1.0), (1, 2, 1.0), (0, 2, 0.5), (2, 0, 1.0)):  # never across passages
        want[a, b] += count
        want[b, a] += count
    np.testing.assert_allclose(got, want)


def test_like_neighbours_make_like_vectors_of_unit_size() -> None:
    rng = np.random.default_rng(0)
    years, towns = [10, 11, 12], [20, 21, 22]
    rows = [[1, int(rng.choice(years)), 2] for _ in range(300)] + [[3, int(rng.choice(towns)), 4] for _ in range(300)]
    table = cooccurrences(ragged(rows), vocab_size=32, window=2)
    vectors = token_vectors(table, width=16, seed=0)
    torch.testing.assert_close(vectors[1:5].square().mean(1), torch.ones(4))
    unit = torch.nn.functional.normalize(vectors, dim=1)
    assert unit[10] @ unit[11] > 0.6
    assert unit[10] @ unit[20] < 0.3
    torch.testing.assert_close(
        vectors, token_vectors(cooccurrences(ragged(rows), vocab_size=32, window=2), width=16, seed=0)
    )


def test_a_model_from_scratch_begins_with_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tiny.tokenizer().to_str())
    vectors = torch.randn(tiny.VOCAB_SIZE, 32)
    write_vectors(tmp_path / "v.npy", vectors)
    config = {k: v for k, v in tiny.config().to_dict().items() if k != "trained"}
    table = ModelTable(source="scratch", tokenizer=str(tmp_path), vectors=str(tmp_path / "v.npy"), config=config)
    model, _ = open_model(table, seed=0)
    assert torch.equal(model.embedding.weight, vectors)
    assert model.embedding.weight.requires_grad
    write_vectors(tmp_path / "v.npy", vectors[:, :8].contiguous())
    with pytest.raises(CheckpointMismatch, match="with this tokenizer and width"):
        open_model(table, seed=0)


def test_other_files_than_vectors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="memstore vectors"):
        read_vectors(tmp_path / "none.npy")
    (tmp_path / "bad.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="holds no vectors"):
        read_vectors(tmp_path / "bad.npy")
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    with pytest.raises(CheckpointError, match="tokens, width"):
        read_vectors(tmp_path / "flat.npy")
    with pytest.raises(ConfigError, match="a checkpoint has its own"):
        ModelTable(source="checkpoint", path="p", vectors="v.npy")


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputUnwritable, match=r"v\.npy cannot be written: No space left on device"):
        write_vectors(tmp_path / "v.npy", torch.zeros(2, 3))
    assert list(tmp_path.iterdir()) == []
