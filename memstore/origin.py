"""The model that a store was built with."""

from __future__ import annotations

import torch

from memstore import checkpoint
from memstore.model import MemoryModel
from memstore.store import Store
from memstore.tokens import TextTokenizer


def model_of(store: Store, *, name: str | None = None, device: str = "cpu") -> tuple[MemoryModel, TextTokenizer]:
    """The model that built a store, or the one named, in the store's dtype. Whether they fit, the caller has to ask.

    Raises:
        CheckpointNotFound, CheckpointError, ConfigError: see `memstore.checkpoint.load`.
    """
    name = name or str(store.generation.settings.get("model", checkpoint.DEFAULT))
    return checkpoint.load(name, dtype=getattr(torch, store.fingerprint.dtype), device=device)
