"""What made a store's memories, and whether a model could have. Knows values alone: no arrays, files or models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from memstore.errors import FingerprintMismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What made the memories. Two fingerprints are compared part by part.

    Attributes:
        encoder: sha256 over the memory encoder's weights.
        tokenizer: sha256 of tokenizer.json.
        memory_layers: the cut: encoder layers that made the memories.
        dtype: what the encoder computed in, "bfloat16" or "float32".
    """

    encoder: str
    tokenizer: str
    memory_layers: int
    passage_template: str
    max_passage_tokens: int
    d_model: int
    dtype: str

    def differences(self, other: Fingerprint) -> dict[str, tuple[object, object]]:
        """Parts that differ, each as `(here, in other)`."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def require(self, model: Fingerprint) -> None:
        """Check that `model` could have made these memories.

        Raises:
            FingerprintMismatch: it could not; says which parts differ.
        """
        if differences := self.differences(model):
            raise FingerprintMismatch(differences)
