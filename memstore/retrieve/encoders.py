"""What turns texts into vectors, and how an index remembers it. Refuses to know indexes and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from memstore.errors import ConfigError
from memstore.passage import Passage

Vectors = npt.NDArray[np.float32]


class QuestionEncoder(Protocol):
    """Turns questions into vectors."""

    @property
    def dim(self) -> int:
        """Width of a vector."""

    def encode_questions(self, texts: Sequence[str]) -> Vectors:
        """`(N, dim)` float32; of any length, as searching brings it to one."""

    def ref(self) -> EncoderRef:
        """What an index records of this encoder."""


class TextEncoder(QuestionEncoder, Protocol):
    """Turns questions and passages into vectors of one space."""

    @property
    def name(self) -> str:
        """What to open it by: "memory" for the model's own memory encoder, else a folder or hub id."""

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """`(N, dim)` float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRef:
    """Which encoder made the vectors, so that serving opens the same.

    Attributes:
        kind: "memory" is the model's own memory encoder, "sentence" one from sentence-transformers.
        name: folder or hub id of a sentence encoder.
        sha256: of a sentence encoder's weights; of a memory encoder's projection, the rest of which the store's
            fingerprint pins down.
    """

    kind: Literal["memory", "sentence"]
    name: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("memory", "sentence"):
            raise ConfigError(f"a dense index is made by a memory or a sentence encoder, not by {self.kind!r}")
        if (self.kind == "sentence") != bool(self.name):
            raise ConfigError(f"an encoder of kind {self.kind!r} cannot have the name {self.name!r}")
