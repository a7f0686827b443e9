"""Token vectors from co-occurrence, for models that begin from scratch: tokens with the same neighbours are alike.

The positive pointwise mutual information of tokens within a window, weighted by closeness, is factorised by a truncated
SVD (Levy, Goldberg and Dagan, TACL 2015, sections 2 and 3: contexts smoothed by 0.75, singular values to the power of
1/2). A model of a few million parameters that trains for an hour sees most words too rarely to learn that one is a year
and another a town. Counting learns it in a minute. Knows only token ids.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memstore.errors import CheckpointError, CheckpointNotFound
from memstore.files import make_folder, writing_whole
from memstore.train.data.ragged import Ragged

_SMOOTHING = 0.75
_POWER = 0.5
_RANDOM = 0.44  # noise in each vector, so that words of one kind differ; the rest is 0.9: 0.9^2 + 0.44^2 = 1
_LEAST = 5  # occurrences; rarer tokens have random vectors
_ITERATIONS = 3


def cooccurrences(passages: Ragged, *, vocab_size: int, window: int) -> NDArray[np.float32]:
    """How often tokens occur near each other, `(V, V)`, symmetric.

    A pair at distance d counts (window + 1 - d) / window. Counting takes 12 bytes for each pair of vocabulary entries:
    3.2 GB for 16,384 of them.
    """
    ids = np.asarray(passages.values, dtype=np.int64)
    row = np.repeat(np.arange(len(passages)), np.diff(passages.offsets))
    counts = np.zeros(vocab_size * vocab_size, dtype=np.float32)
    for distance in range(1, window + 1):
        within = row[:-distance] == row[distance:]  # no pair reaches into the next passage
        pairs = (ids[:-distance] * vocab_size + ids[distance:])[within]
        counts += np.bincount(pairs, minlength=len(counts)) * np.float32((window + 1 - distance) / window)
    table: NDArray[np.float32] = counts.reshape(vocab_size, vocab_size)
    return table + table.T


def token_vectors(table: NDArray[np.float32], *, width: int, seed: int) -> Tensor:
    """Vectors `(V, width)` float32, each with a root mean square of 1, as T5 initialises its embedding.

    Args:
        table: `(V, V)` of `cooccurrences`; overwritten.
        width: of a vector.
        seed: of the noise, and of the vectors of rare tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(table), width, generator=generator)
    occurrences = torch.from_numpy(table.sum(1))
    context = occurrences**_SMOOTHING
    m = torch.from_numpy(table)
    m.div_(occurrences.clamp_min(1)[:, None]).mul_((context.sum() / context.clamp_min(1))[None, :])
    m.clamp_min_(1.0).log_()  # positive mutual information: log of at least 1
    torch.manual_seed(seed)
    u, s, _ = torch.svd_lowrank(m, q=min(width + 32, len(table)), niter=_ITERATIONS)
    found = _unit(u[:, :width] * s[:width] ** _POWER)
    if found.shape[1] < width:
        found = torch.nn.functional.pad(found, (0, width - found.shape[1]))
    mixed = _unit((1 - _RANDOM**2) ** 0.5 * found + _RANDOM * noise)
    return torch.where((occurrences >= _LEAST)[:, None], mixed, noise)


def write_vectors(path: Path, vectors: Tensor) -> None:
    """Write vectors `(V, D)` as a .npy file. If that fails, no part of it is left.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full.
    """
    make_folder(path.parent)
    with writing_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors.numpy())


def read_vectors(path: Path) -> Tensor:
    """Inverse of `write_vectors`.

    Raises:
        CheckpointNotFound, CheckpointError: there is no such file, or it holds no float32 vectors.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise CheckpointNotFound(f"there is no file of vectors {path}: make it with `memstore vectors`") from None
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} holds no vectors: {error}") from error
    if values.dtype != np.float32 or values.ndim != 2:
        raise CheckpointError(f"{path} must hold float32 vectors (tokens, width), not {values.dtype} {values.shape}")
    return torch.from_numpy(values)


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to a root mean square of 1."""
    return x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)
