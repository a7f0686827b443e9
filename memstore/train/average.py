"""Averages models that were trained from the same start ("model soups", arXiv 2203.05482).

The average is often better than each of them, and keeps what the earlier one knew. Knows checkpoints; refuses to know
runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from memstore import checkpoint
from memstore.errors import CheckpointMismatch, ConfigError
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer

_OF_ANSWERING = {
    "extractive",
    "name",
    "num_beams",
    "retrieval_prior",
    "score_bias",
    "spellings",
}  # settings that no parameter depends on


def average(sources: Sequence[str | Path], weights: Sequence[float] | None = None) -> tuple[MemoryModel, TextTokenizer]:
    """The weighted mean of checkpoints, in float32, with the settings and tokenizer of the first.

    Names may differ, and settings of ranking and decoding.

    Args:
        sources: folders, at least one.
        weights: one for each folder, not negative; they are divided by their sum. None: all equal.

    Raises:
        ConfigError: the weights do not fit.
        CheckpointMismatch: tokenizers or other settings differ.
        CheckpointNotFound, CheckpointError: see `memstore.checkpoint.loading.load`.
    """
    shares = [1.0] * len(sources) if weights is None else [float(w) for w in weights]
    if not sources or len(shares) != len(sources) or min(shares) < 0 or not 0 < sum(shares) < math.inf:
        raise ConfigError(
            f"{len(sources)} checkpoints need as many weights, finite, not negative and not all 0; got {shares}"
        )
    shares = [share / sum(shares) for share in shares]
    model, tokenizer = checkpoint.load(sources[0], dtype=torch.float32)
    first = model.state_dict()
    total = {name: p.clone() for name, p in first.items()}
    for source, share in zip(sources[1:], shares[1:], strict=True):
        other, spoken = checkpoint.load(source, dtype=torch.float32)
        if spoken.fingerprint != tokenizer.fingerprint:
            raise CheckpointMismatch(f"{source} has another tokenizer than {sources[0]}: they cannot be averaged")
        ours, theirs = model.config.to_dict(), other.config.to_dict()
        if differing := sorted(n for n in ours.keys() - _OF_ANSWERING if ours[n] != theirs[n]):
            names = ", ".join(differing)
            raise CheckpointMismatch(f"{source} differs from {sources[0]} in {names}: they cannot be averaged")
        for name, p in other.state_dict().items():
            # By differences: a parameter that is equal in all of them stays so to the bit, such as LUMEN's memories.
            total[name] += (p - first[name]) * share
    model.load_state_dict(total)
    return model, tokenizer
