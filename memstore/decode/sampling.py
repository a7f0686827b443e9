"""Draws tokens by their probability, for questions that are to differ. Knows distributions, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from memstore.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn: the same generator state and batch give the same ones.

    Attributes:
        temperature: log-probabilities are divided by it; below 1 the likely tokens come more often.
        generator: on the CPU.
    """

    temperature: float
    generator: Generator

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RequestError(f"a temperature must be above 0, not {self.temperature}; greedy search needs none")

    def draw(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """A token for each row of `(N, V)` log-probabilities: its own, `(N,)`, without temperature, and its id."""
        weights = (log_probs.float() / self.temperature).softmax(-1).cpu()
        token = torch.multinomial(weights, 1, generator=self.generator).to(log_probs.device)  # (N, 1)
        return log_probs.gather(1, token).squeeze(1), token.squeeze(1)
