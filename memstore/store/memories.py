"""Memories as a load gives them: packed, passage after passage. Knows tensors, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, slots=True)
class Memories:
    """Memories of N passages, packed: passages one after another, no padding.

    Attributes:
        states: (T, D), bfloat16 or float32.
        lengths: (N,) int64, tokens per passage; they sum to T.
        token_ids: (T,) int64.
        bytes_read: bytes of encoded memory fetched, before compression, token ids included.
    """

    states: torch.Tensor
    lengths: torch.Tensor
    token_ids: torch.Tensor
    bytes_read: int


def in_order(groups: Sequence[npt.NDArray[np.int64]], parts: Sequence[Memories]) -> Memories:
    """Memories that were read apart, at the positions that each group names."""
    order = np.argsort(np.concatenate(groups))
    lengths = torch.cat([part.lengths for part in parts])
    ends = lengths.cumsum(0).tolist()
    rows = [slice(ends[i] - int(lengths[i]), ends[i]) for i in order.tolist()]  # in the parts, one after another
    states, token_ids = torch.cat([part.states for part in parts]), torch.cat([part.token_ids for part in parts])
    return Memories(
        states=torch.cat([states[r] for r in rows]),
        lengths=lengths[torch.from_numpy(order).to(lengths.device)],
        token_ids=torch.cat([token_ids[r] for r in rows]),
        bytes_read=sum(part.bytes_read for part in parts),
    )
