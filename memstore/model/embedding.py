"""Dense retrieval vectors from the model's own memory encoder: the same forward pass that makes the memories."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from memstore.errors import ConfigError
from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore.retrieve.encoders import EncoderRef


class MemoryTextEncoder:
    """Questions and passages as `model.embed` of their memory-encoder states (mean pooled, projected, unit length)."""

    name = "memory"

    def __init__(self, model: MemoryModel, tokenizer: TextTokenizer) -> None:
        if model.projection is None:
            raise ConfigError(
                "dense retrieval from the model's own memory encoder needs a model with embedding_dim > 0; "
                "choose a sentence encoder instead (--encoder PATH), or --retriever bm25"
            )
        self.model, self.tokenizer = model, tokenizer
        self.dim = model.config.embedding_dim

    def ref(self) -> EncoderRef:
        """What an index records: the projection's hash; the store's fingerprint covers the rest."""
        assert self.model.projection is not None
        weights = self.model.projection.weight.detach().cpu().float().contiguous().numpy()
        return EncoderRef(kind="memory", sha256=hashlib.sha256(weights.tobytes()).hexdigest())

    @torch.inference_mode()
    def encode_questions(self, texts: Sequence[str]) -> np.ndarray:
        """`(N, dim)` float32 of unit length."""
        tokens = Tokens.of([torch.from_numpy(ids) for ids in self.tokenizer.questions(texts)])
        encoded = self.model.encode_question(tokens.to(self.model.device))
        return self.model.embed(encoded).cpu().numpy()

    @torch.inference_mode()
    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """`(N, dim)` float32 of unit length."""
        tokens = Tokens.of([torch.from_numpy(ids) for ids in self.tokenizer.passages(passages)])
        encoded = self.model.encode_passages(tokens.to(self.model.device))
        return self.model.embed(encoded).cpu().numpy()
