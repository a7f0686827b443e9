"""The mean memory of each token id: what a word says without its passage. Residuals against it are smaller."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memstore.codec.base import Tables

_PRIOR = 2.0  # tokens of the common mean that each id's own mean is taken together with
_LEAST = 2  # times that an id is seen in the sample to have a mean of its own


@dataclass(frozen=True, slots=True, eq=False)
class TokenMeans:
    """Means `(K + 1, D)` bfloat16, the common one first, and the K ids `(K,)` int32 that the others are of, ascending.

    `rows` `(largest id + 2,)` int32 has each id's row; its last entry is for all ids beyond.
    """

    means: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def fit(cls, states: torch.Tensor, token_ids: torch.Tensor) -> TokenMeans:
        """Of states (T, D) float32 with ids (T,) int64."""
        ids, inverse, counts = torch.unique(token_ids, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(ids), states.shape[1]).index_add_(0, inverse, states)
        common = states.mean(0)
        kept = counts >= _LEAST
        own = (sums[kept] + _PRIOR * common) / (counts[kept, None] + _PRIOR)
        means = torch.cat([common[None], own]).to(torch.bfloat16)
        return cls._of(means, ids[kept].to(torch.int32))

    @classmethod
    def of_tables(cls, found: dict[str, torch.Tensor]) -> TokenMeans:
        """What `tables` gave.

        Raises:
            ValueError: there are not as many means as ids and one, or the ids do not ascend.
        """
        means, ids = found["means"].view(torch.bfloat16), found["mean_ids"]
        if len(means) != len(ids) + 1:
            raise ValueError(f"{len(ids)} token ids have {len(means)} means, not one more")
        if bool((ids.diff() <= 0).any()) or bool((ids < 0).any()):
            raise ValueError("the token ids of means must ascend from 0 or above")
        return cls._of(means, ids)

    @classmethod
    def _of(cls, means: torch.Tensor, ids: torch.Tensor) -> TokenMeans:
        size = int(ids[-1]) + 2 if len(ids) else 1
        rows = torch.zeros(size, dtype=torch.int32)
        rows[ids.long()] = torch.arange(1, len(ids) + 1, dtype=torch.int32)
        return cls(means, ids, rows)

    @staticmethod
    def wanted(width: int) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """The tables' types and shapes. Means are bit patterns, as numpy has no bfloat16."""
        return {"means": ("uint16", (None, width)), "mean_ids": ("int32", (None,))}

    def tables(self) -> Tables:
        """What `of_tables` takes."""
        return {"means": self.means.view(torch.uint16).numpy(), "mean_ids": self.ids.numpy()}

    def of(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The means (T, D) bfloat16 of ids (T,) int64; the common one of an id without its own."""
        return self.means.index_select(0, self.rows[token_ids.clamp_max(len(self.rows) - 1)])

    def to(self, device: torch.device) -> TokenMeans:
        """The same on a device."""
        return TokenMeans(self.means.to(device), self.ids.to(device), self.rows.to(device))
