"""Passages to memories: tokenise, sort by length, run the memory encoder, put everything back in order.

Knows the model and its tokenizer; neither files nor stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.model.model import MemoryModel
from memstore.model.packed import Packed, Tokens
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Tokens of one forward pass: enough to fill the processor, few enough for its caches."""


@dataclass(frozen=True, slots=True)
class EncodedPassages:
    """What one window of passages became, in their order.

    `token_ids`: `(len_i,)` int32 each. `states`: `(len_i, D)` each, on the CPU. `embeddings`: `(n, dim)` or None.
    """

    token_ids: list[npt.NDArray[Any]]
    states: list[torch.Tensor]
    embeddings: npt.NDArray[np.float32] | None


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of nearly equal length, at most `budget` tokens each (one passage at least).

    Sorted by length, so that the padded view that attention needs is almost free of padding.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Ascending: this passage is the longest of its batch.
        if batch and lengths[i] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class PassageEncoder:
    """Encodes windows of passages with a model's memory encoder."""

    def __init__(
        self, model: MemoryModel, tokenizer: TextTokenizer, *, embed: bool = False, batch_tokens: int | None = None
    ) -> None:
        """`embed`: also make the vectors for dense retrieval, from the same forward pass."""
        self.model, self.tokenizer, self.embed = model.eval(), tokenizer, embed
        self.batch_tokens = batch_tokens or BATCH_TOKENS[model.device.type]

    @torch.inference_mode()
    def encode(self, passages: Sequence[Passage]) -> EncodedPassages:
        """Memories of the passages, whatever their number; the caller bounds it."""
        ids = self.tokenizer.passages(passages)
        states: list[torch.Tensor] = [torch.empty(0)] * len(ids)
        embeddings = np.zeros((len(ids), self.model.config.embedding_dim), np.float32) if self.embed else None
        for batch in length_batches([len(i) for i in ids], self.batch_tokens):
            memories = self.forward([ids[i] for i in batch])
            parts = torch.split(memories.states.cpu(), memories.layout.lengths.tolist())
            for i, part in zip(batch, parts, strict=True):
                states[i] = part
            if embeddings is not None:
                embeddings[batch] = self.model.embed(memories).cpu().numpy()
        return EncodedPassages(token_ids=ids, states=states, embeddings=embeddings)

    def forward(self, ids: Sequence[npt.NDArray[Any]]) -> Packed:
        """One batch through the memory encoder."""
        tokens = Tokens.of([torch.from_numpy(i) for i in ids])
        return self.model.encode_passages(tokens.to(self.model.device))
