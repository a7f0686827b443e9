"""A codec with tables, small enough to read: 8-bit residuals against a mean state, in steps of a dimension's own size.

It learns a mean per class of token ids and a step per dimension: so both what is shown to `fit` and the token ids that
come with encoding and decoding make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.codec import Arrays, ArraySpec, Codec, Tables

CLASSES = 3
NAME = "learned"


@dataclass(frozen=True, eq=False)
class LearnedCodec:
    means: npt.NDArray[np.float32] | None = None  # (CLASSES, D)
    steps: npt.NDArray[np.float32] | None = None  # (D,)
    sample_tokens: int = 500
    name: str = NAME

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor, *, weights: torch.Tensor | None = None) -> Codec:
        groups = [states[token_ids % CLASSES == c].float() for c in range(CLASSES)]
        means = torch.stack([g.mean(0) if len(g) else torch.zeros(states.shape[1]) for g in groups])
        residuals = states.float() - means[token_ids % CLASSES]
        steps = (
            residuals.abs().amax(0) / 30_000 + 1e-6
        )  # so fine that rounding apart on another processor is within any tolerance
        return LearnedCodec(means.numpy(), steps.numpy())

    def tables(self) -> Tables:
        return {} if self.means is None or self.steps is None else {"means": self.means, "steps": self.steps}

    def with_tables(self, tables: Tables) -> Codec:
        if set(tables) != {"means", "steps"} or tables["means"].shape != (CLASSES, len(tables["steps"])):
            raise ValueError(f"means and steps are wanted, not {', '.join(sorted(tables))}")
        return LearnedCodec(tables["means"], tables["steps"])

    def attributes(self) -> dict[str, Any]:
        return {"name": self.name, "version": 1, "classes": CLASSES}

    def arrays(self, *, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
        return (ArraySpec("states", "int16", (max_tokens, d_model)),)

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        means, steps = self._learned()
        codes = ((states.float().cpu() - means[token_ids.cpu() % CLASSES]) / steps).round().clamp(-32_767, 32_767)
        return {"states": codes.to(torch.int16).numpy()}

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        means, steps = self._learned()
        states = torch.from_numpy(arrays["states"]).float() * steps + means[token_ids.cpu() % CLASSES]
        return states.to(device, dtype)

    def _learned(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.means is not None
        assert self.steps is not None
        return torch.from_numpy(self.means), torch.from_numpy(self.steps)


def fitted(seed: int, *, d_model: int = 6) -> Codec:
    """One that was fitted on random states."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(200, d_model, generator=generator) + torch.arange(200)[:, None] % CLASSES
    return LearnedCodec().fit(states, torch.arange(200))


def same(a: Tables, b: Mapping[str, npt.NDArray[Any]]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
