"""Opening the retriever that a generation names, over a real store of a few passages."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore.errors import ConfigError, FingerprintMismatch, IndexCorrupt
from memstore.retrieve.dense import build_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.hybrid import HybridRetriever
from memstore.retrieve.lexical import build_bm25
from memstore.retrieve.open import open_retriever
from memstore.retrieve.sentence import SentenceEncoder
from memstore.store import (
    Fingerprint,
    Generation,
    IndexRef,
    SegmentWriter,
    Store,
    get_codec,
    hash_folder,
    index_path,
    publish,
)
from tests.retrieve.retrieve_cases import WordEncoder, corpus
from tests.retrieve.sentence_checkpoint import save_sentence_encoder

PASSAGES = corpus(30)
QUESTION = f"{PASSAGES[7].title} {PASSAGES[7].text}"
FINGERPRINT = Fingerprint(
    encoder="e", tokenizer="t", memory_layers=1, passage_template="{text}", max_passage_tokens=2, d_model=4,
    dtype="float32",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A published store with memories of zeros and word vectors, and no index yet."""
    path = tmp_path / "store"
    writer = SegmentWriter(
        path, segment_id="s", codec=get_codec("int8"), d_model=4, max_tokens=2, vocab_size=9,
        num_passages=len(PASSAGES), shard_passages=len(PASSAGES), embedding_dim=WordEncoder.dim,
    )  # fmt: skip
    count = len(PASSAGES)
    vectors = WordEncoder().encode_passages(PASSAGES)
    writer.write_shard(PASSAGES, [np.zeros(1, dtype=np.int64)] * count, [torch.zeros(1, 4)] * count, vectors)
    segment = writer.seal()
    generation = Generation(
        number=1, fingerprint=FINGERPRINT, codec="int8", vocab_size=9, settings={}, segments=(segment,),
        passages=count, tokens=count, retriever="bm25",
    )  # fmt: skip
    publish(path, generation)
    return Store.open(path)


def naming(store: Store, retriever: str) -> Store:
    return Store(store.path, dataclasses.replace(store.generation, retriever=retriever))


def index(store: Store, *, count: int = len(PASSAGES)) -> None:
    folder = index_path(store.path, 1)
    build_bm25(folder / "lexical", list(store.iter_passages())[:count])
    vectors = next(store.iter_embeddings())[:count]
    build_dense(folder / "dense", [vectors], count=count, dim=WordEncoder.dim, encoder=EncoderRef(kind="memory"))


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_opens_what_the_generation_names(store: Store, kind: str) -> None:
    index(store)
    retriever = open_retriever(naming(store, kind), memory_encoder=WordEncoder())
    assert retriever.kind == kind
    [hits] = retriever.search([QUESTION], 4)
    assert hits[0].passage_id == "p7"
    assert store.passages([hit.passage_id for hit in hits])[0] == PASSAGES[7]


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_what_nobody_uses_any_more_is_gone_at_once(store: Store, kind: str) -> None:
    """An open store holds its generation, which nothing can remove then: it must not wait for the garbage collector."""
    index(store)
    gc.collect()
    gc.disable()
    try:
        opened = naming(store, kind)
        retriever = open_retriever(opened, memory_encoder=WordEncoder())
        retriever.search([QUESTION], 4)
        known = [weakref.ref(opened), weakref.ref(retriever)]
        del opened, retriever
        assert [one() for one in known] == [None, None]
    finally:
        gc.enable()


def test_an_unknown_retriever_is_named(store: Store) -> None:
    with pytest.raises(ConfigError, match="retriever 'colbert'; known are bm25, dense and hybrid"):
        open_retriever(naming(store, "colbert"))


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_no_index(store: Store, kind: str) -> None:
    with pytest.raises(IndexCorrupt, match="there is no index"):
        open_retriever(naming(store, kind), memory_encoder=WordEncoder())


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_an_index_of_other_passages(store: Store, kind: str) -> None:
    index(store, count=29)
    with pytest.raises(IndexCorrupt, match="holds 29 passages and its generation 30"):
        open_retriever(naming(store, kind), memory_encoder=WordEncoder())


@pytest.mark.parametrize("kind", ["bm25", "hybrid"])
@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_what_tantivy_trusts_is_reported_when_opening(store: Store, kind: str, bit: int) -> None:
    """It can end the process in Tantivy; most of these bits go unnoticed there."""
    index(store)
    folder = index_path(store.path, 1)
    reference = IndexRef(kind=kind, parts={}, files=hash_folder(folder))
    indexed = Store(store.path, dataclasses.replace(store.generation, retriever=kind, index=reference))
    assert open_retriever(indexed, memory_encoder=WordEncoder()).search([QUESTION], 1)[0][0].passage_id == "p7"
    [file] = (folder / "lexical").glob("*.store")
    data = bytearray(file.read_bytes())
    data[-9 * bit - 1] ^= 1 << bit
    file.unlink()
    file.write_bytes(data)
    with pytest.raises(IndexCorrupt, match=r"\.store is not what was written"):
        open_retriever(indexed, memory_encoder=WordEncoder())


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_a_memory_encoder_with_another_projection(store: Store, kind: str) -> None:
    class Retrained(WordEncoder):
        def ref(self) -> EncoderRef:
            return EncoderRef(kind="memory", sha256="another")

    index(store)
    with pytest.raises(FingerprintMismatch, match="memory encoder of the dense index"):
        open_retriever(naming(store, kind), memory_encoder=Retrained())


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_the_memory_encoder_must_be_given(store: Store, kind: str) -> None:
    index(store)
    with pytest.raises(ConfigError, match="embedding_dim is 0"):
        open_retriever(naming(store, kind))


def with_sentence_encoder(store: Store, folder: Path) -> Any:
    encoder = SentenceEncoder(str(save_sentence_encoder(folder)))
    vectors = encoder.encode_passages(PASSAGES)
    build_dense(index_path(store.path, 1) / "dense", [vectors], count=len(vectors), dim=16, encoder=encoder.ref())
    return naming(store, "dense")


def test_the_sentence_encoder_is_opened_again(store: Store, tmp_path: Path) -> None:
    [hits] = open_retriever(with_sentence_encoder(store, tmp_path)).search([QUESTION], 3)
    assert len(hits) == 3


def test_a_sentence_encoder_that_is_open_is_shared_and_another_is_not(store: Store, tmp_path: Path) -> None:
    dense = with_sentence_encoder(store, tmp_path)
    first = open_retriever(dense)
    assert open_retriever(dense, beside=first).encoder is first.encoder
    hybrid = HybridRetriever([first], lambda found: [])
    assert open_retriever(dense, beside=hybrid).encoder is first.encoder
    first._encoder = WordEncoder()
    again = open_retriever(dense, beside=first)
    assert isinstance(again.encoder, SentenceEncoder)


def test_another_sentence_encoder_in_its_place_is_refused(store: Store, tmp_path: Path) -> None:
    dense = with_sentence_encoder(store, tmp_path)
    save_sentence_encoder(tmp_path, seed=1)
    with pytest.raises(FingerprintMismatch, match="sentence encoder"):
        open_retriever(dense)
