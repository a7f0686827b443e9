"""A step of decoding, by the model itself or by a decoder prepared for it; what an answer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memstore.decode.prepared import PreparedDecoder, PreparedDecoding
from memstore.model.model import Encoded, MemoryModel


@dataclass(frozen=True, slots=True)
class Decoded:
    """One answer.

    Attributes:
        ids: its tokens, without the start token and eos; may be empty.
        score: sum of the log-probabilities of its tokens, that of eos included where it came.
        finished: whether eos came within the length limit.
        steps: tokens that the decoder was fed. Beam search may go on looking after the answer returned was complete,
            and drafts may be wrong.
        log_probs: of each token, that of eos included where it came; `score` is their sum.
        runner_up: score of the best other answer that beam search finished; None without one.
    """

    ids: list[int]
    score: float
    finished: bool
    steps: int
    log_probs: tuple[float, ...] = ()
    runner_up: float | None = None


class PlainDecoding:
    """`prepared.PreparedDecoding` by the model's own step: see there."""

    def __init__(self, model: MemoryModel, encoded: Encoded, *, capacity: int, beams: int = 1) -> None:
        self.model, self.state = model, model.start(encoded, capacity=capacity, beams=beams)

    def best(self, ids: Tensor, *, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The log-probability and the id of the best next token, `(B,)` each."""
        best, token = allowed(self.log_probs(ids), banned).max(dim=-1)
        return best, token

    def log_probs(self, ids: Tensor) -> Tensor:
        """Log-probabilities `(N, V)` float32 of the next token."""
        return self.model.step(ids[:, None], self.state)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue what row `rows[i]` has decoded."""
        self.state.cache.reorder(rows)

    def take(self, questions: Tensor) -> None:
        """Keep only the questions with the given indices."""
        self.state.take(questions)


def begin(
    model: MemoryModel, encoded: Encoded, *, capacity: int, beams: int, prepared: PreparedDecoder | None
) -> PreparedDecoding | PlainDecoding:
    """Prepare to decode B questions with some beams each, `capacity` tokens at most."""
    if prepared is not None:
        return prepared.start(encoded, capacity=capacity, beams=beams)
    return PlainDecoding(model, encoded, capacity=capacity, beams=beams)


def allowed(log_probs: Tensor, banned: Sequence[int]) -> Tensor:
    """Log-probabilities `(N, V)` with those of the tokens that may not come at minus infinity."""
    if banned:
        log_probs[..., list(banned)] = -torch.inf
    return log_probs
