"""Sentence encoders, on a random one made here: vectors, identity, and what cannot be opened."""

from __future__ import annotations

import builtins
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.errors import CheckpointError, CheckpointNotFound, ConfigError
from memstore.retrieve.dense import DenseRetriever, build_dense
from memstore.retrieve.sentence import SentenceEncoder
from tests.retrieve.retrieve_cases import corpus, hits_of, passage
from tests.retrieve.sentence_checkpoint import save_sentence_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentence_encoder(tmp_path_factory.mktemp("sentence"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return SentenceEncoder(str(folder))


def test_shapes(encoder: SentenceEncoder) -> None:
    assert encoder.dim == 16
    for texts in ([], ["nile"], ["", "?", "東京", "x" * 2_000]):
        vectors = encoder.encode_questions(texts)
        assert vectors.shape == (len(texts), 16)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()


def test_batch_equals_singles(encoder: SentenceEncoder) -> None:
    texts = ["nile", "the longest river of all", "", string.ascii_lowercase]
    singles = np.concatenate([encoder.encode_questions([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_questions(texts), singles, atol=1e-5)


def test_passages_are_title_and_text(encoder: SentenceEncoder) -> None:
    passages = [passage(0, "nile", "a river"), passage(1, "", "a river")]
    expected = encoder.encode_questions(["nile. a river", "a river"])
    np.testing.assert_allclose(encoder.encode_passages(passages), expected, atol=1e-6)


def test_identity_is_the_weights(encoder: SentenceEncoder, folder: Path, tmp_path: Path) -> None:
    ref = encoder.ref()
    assert (ref.kind, ref.name, len(ref.sha256)) == ("sentence", str(folder), 64)
    assert SentenceEncoder(str(folder)).ref() == ref
    other = SentenceEncoder(str(save_sentence_encoder(tmp_path, seed=1))).ref()
    assert other.sha256 != ref.sha256


def test_finds_passages_by_their_own_words(encoder: SentenceEncoder, tmp_path: Path) -> None:
    passages = corpus(20)
    vectors = [encoder.encode_passages(passages[:13]), encoder.encode_passages(passages[13:])]
    build_dense(tmp_path / "ix", vectors, count=20, dim=encoder.dim, encoder=encoder.ref())
    retriever = DenseRetriever(tmp_path / "ix", encoder, hits_of(passages))
    [hits] = retriever.search([f"{passages[11].title}. {passages[11].text}"], 3)
    assert hits[0].passage_id == "p11"
    assert retriever.search(["a \ud800 b"], 3) == retriever.search(["a ? b"], 3)


def test_no_encoder_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="absent"):
        SentenceEncoder(str(tmp_path / "absent"))


def test_a_path_that_the_system_does_not_look_at() -> None:
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        SentenceEncoder("x" * 300)


def test_broken_weights(tmp_path: Path) -> None:
    folder = save_sentence_encoder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        SentenceEncoder(str(folder))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sentence_transformers":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install '\.\[dense\]'"):
        SentenceEncoder("some/encoder")
