"""Memories out of a built store, for training whose memory encoder is frozen: no passage is encoded again.

The store's passages are those of the cache, by id and token by token. A window of a passage has the memories of its
tokens, as they are in the whole passage. Reads stores; refuses to know questions and losses.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from memstore.checkpoint import fingerprint
from memstore.errors import CandidatesMismatch, ConfigError, PassageNotFound
from memstore.model.model import MemoryModel
from memstore.model.packed import Layout, Packed
from memstore.model.tokens import TextTokenizer
from memstore.store import Store
from memstore.train.data.cache import Candidates
from memstore.train.data.ragged import Ints

Source = tuple[int, Ints]
"""What a batch has of a passage: its row in the cache, and which of its tokens."""


class StoredMemories:
    """A store's memories of a cache's passages. Several threads may use it at once."""

    def __init__(self, store: Path, cache: Candidates) -> None:
        """Open the store.

        Raises:
            StoreNotFound, StoreCorrupt: there is none, or it is damaged.
        """
        self._store, self._cache, self._reading = Store.open(store), cache, threading.Lock()

    def require(self, model: MemoryModel, tokenizer: TextTokenizer) -> None:
        """Check that the model made the memories, and that training will not change what makes them.

        Raises:
            FingerprintMismatch: another model made them.
            ConfigError: the memory encoder, or the embedding that passages use, is trained.
        """
        embedding = model.memory_embedding or model.embedding
        if any(p.requires_grad for part in (model.memory_encoder, embedding) for p in part.parameters()):
            raise ConfigError(
                "data.memories needs a memory encoder that is not trained: set frozen_memories = true in [model]"
            )
        made = self._store.fingerprint
        made.require(fingerprint(model, tokenizer, getattr(torch, made.dtype)))

    def load(self, sources: Sequence[Source]) -> Packed:
        """The memories `(T, D)` float32 of some tokens of passages, on the CPU, one passage after another.

        Raises:
            CandidatesMismatch: the store lacks a passage, or has other tokens of it.
            StoreCorrupt: data are damaged or missing; the subclass says how.
        """
        names = [self._cache.names[row][0] for row, _ in sources]
        try:
            with self._reading:
                whole = self._store.load(names, dtype=torch.float32)
        except PassageNotFound as error:
            raise CandidatesMismatch({"passages": (str(error), "in the cache")}, where=self._cache.folder) from error
        ends = whole.lengths.cumsum(0).tolist()
        wanted = []
        for name, (row, places), length, end in zip(names, sources, whole.lengths.tolist(), ends, strict=True):
            if not np.array_equal(whole.token_ids[end - length : end].numpy(), self._cache.passages[row]):
                differ = {f"tokens of {name}": ("the store's", "the cache's")}
                raise CandidatesMismatch(differ, where=self._cache.folder)
            wanted.append(torch.from_numpy(places.astype(np.int64)) + (end - length))
        index = torch.cat(wanted)
        layout = Layout([len(places) for _, places in sources])
        return Packed(whole.states[index], whole.token_ids[index], layout)


def content_of(store: Path) -> str:
    """What a store's memories are: of the encoder and the codec.

    Raises:
        StoreNotFound, StoreCorrupt: there is none, or it is damaged.
    """
    opened = Store.open(store)
    try:
        return f"{opened.fingerprint.encoder} {opened.generation.codec}"
    finally:
        opened.close()
