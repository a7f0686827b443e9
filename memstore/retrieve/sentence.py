"""Sentence encoders from a folder or hub id, through sentence-transformers. Refuses to know indexes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from memstore.errors import CheckpointError, CheckpointNotFound, ConfigError
from memstore.passage import Passage
from memstore.retrieve.encoders import EncoderRef, Vectors


class SentenceEncoder:
    """A sentence-transformers model as a `TextEncoder`, with its own prompts for questions and passages."""

    def __init__(self, name: str, *, device: str = "cpu", batch_size: int = 32) -> None:
        """Loads the model.

        Args:
            name: folder or hub id.
            device: where it runs.
            batch_size: texts encoded at a time.

        Raises:
            ConfigError: sentence-transformers is not installed.
            CheckpointNotFound: there is no such model, or it cannot be fetched.
            CheckpointError: the model is there and cannot be loaded.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                "a sentence encoder needs sentence-transformers: pip install '.[dense]' in memstore's folder"
            ) from error
        self.name, self._batch_size = name, batch_size
        try:
            self._model: Any = SentenceTransformer(name, device=device)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            if _is_here(name):
                raise CheckpointError(f"the sentence encoder at {name} cannot be loaded: {error}") from error
            raise CheckpointNotFound(f"no sentence encoder {name!r}, here or on the hub: {error}") from error
        self.dim = int(self._model.encode_query(["width"], **self._options()).shape[-1])

    def encode_questions(self, texts: Sequence[str]) -> Vectors:
        """`(N, dim)` float32."""
        return self._floats(self._model.encode_query(list(texts), **self._options()))

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """`(N, dim)` float32, of `title. text`."""
        texts = [f"{p.title}. {p.text}" if p.title else p.text for p in passages]
        return self._floats(self._model.encode_document(texts, **self._options()))

    def ref(self) -> EncoderRef:
        """What an index records of this encoder; hashes all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return EncoderRef(kind="sentence", name=self.name, sha256=digest.hexdigest())

    def _options(self) -> dict[str, Any]:
        return {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": True}

    def _floats(self, vectors: Any) -> Vectors:
        return np.asarray(vectors, dtype=np.float32).reshape(-1, self.dim)


def _is_here(name: str) -> bool:
    """Whether the name is a path here, and no hub id.

    Raises:
        CheckpointError: the system does not let us look.
    """
    try:
        return Path(name).exists()
    except OSError as error:
        raise CheckpointError(f"the sentence encoder at {name} cannot be read: {error.strerror or error}") from error
