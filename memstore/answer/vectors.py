"""Vectors of texts, by the encoder that a store is searched with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from memstore.errors import RequestError
from memstore.passage import Passage
from memstore.retrieve.dense import unit
from memstore.retrieve.encoders import QuestionEncoder, TextEncoder, Vectors


def vectors_of(texts: Sequence[str], encoder: QuestionEncoder | None, *, as_questions: bool) -> Vectors:
    """`(N, dim)` float32 of unit length.

    Raises:
        RequestError: there is no encoder.
    """
    if encoder is None:
        raise RequestError(
            "there are no vectors here: the store is searched by words alone, and its model has none of its own. "
            "Build it with --retriever dense or hybrid."
        )
    if as_questions:
        return unit(encoder.encode_questions(texts))
    passages = [Passage(str(at), str(at), "", text, "", 0, len(text)) for at, text in enumerate(texts)]
    return unit(cast("TextEncoder", encoder).encode_passages(passages))  # all that we have do both
