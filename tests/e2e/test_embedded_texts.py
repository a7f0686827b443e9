"""Vectors of texts are those that the store is searched with; where there are none, it is said how to get some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memstore.answer import Answerer
from memstore.errors import RequestError
from memstore.retrieve.open import encoder_of
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny


def answerer(folder: Path, *, retriever: str, dim: int) -> Answerer:
    rows = [{"id": p.id, "document_id": p.document_id, "title": "", "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(12))]  # fmt: skip
    corpus = folder / "passages.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny.save_checkpoint(folder / "model", embedding_dim=dim)
    options = BuildOptions(corpus=(corpus,), out=folder / "store", model=str(model), dtype="float32",
                           retriever=retriever)  # fmt: skip
    build(options)
    return Answerer.open(folder / "store")


@pytest.mark.parametrize("retriever", ["bm25", "dense"])
def test_vectors_are_those_that_find_passages(tmp_path: Path, retriever: str) -> None:
    """Where a store has none, the model's own are those that it would have."""
    opened = answerer(tmp_path, retriever=retriever, dim=8)
    texts = ["the river", "a tower and a city"]
    questions, passages = (opened.embed(texts, as_questions=kind) for kind in (True, False))
    for vectors in (questions, passages):
        assert vectors.shape == (2, 8)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(questions, passages, atol=1e-3)
    encoder = encoder_of(opened.retriever)
    assert (encoder is not None) == (retriever == "dense")
    if encoder is not None:
        np.testing.assert_allclose(encoder.encode_questions(texts), questions, atol=1e-5)


def test_where_there_are_none(tmp_path: Path) -> None:
    opened = answerer(tmp_path, retriever="bm25", dim=0)
    with pytest.raises(RequestError, match="Build it with --retriever dense or hybrid"):
        opened.embed(["the river"], as_questions=True)
