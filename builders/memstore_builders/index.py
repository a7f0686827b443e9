"""Search indexes over a generation that is about to be published. Knows folders and rows; answers nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

from memstore.passage import Passage
from memstore.retrieve.dense import build_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.lexical import build_bm25
from memstore.store import IndexRef, Store, hash_folder, index_path

_TICK = 1000


def build_index(
    store: Store,
    *,
    kind: str,
    encoder: EncoderRef | None = None,
    dim: int = 0,
    tick: Callable[[int], None] = lambda _: None,
) -> IndexRef:
    """Index the passages of an unpublished generation, from scratch: what a killed build left is removed.

    Args:
        store: the generation's segments.
        kind: "bm25", "dense" or "hybrid".
        encoder: what made the vectors of a dense index.
        dim: width of the vectors; 0 for none.
        tick: hears of passages indexed.
    """
    folder = index_path(store.path, store.generation.number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts: dict[str, dict[str, object]] = {}
    if kind in ("bm25", "hybrid"):
        count = build_bm25(folder / "lexical", _ticking(store.iter_passages(), tick))
        parts["lexical"] = {"passages": count}
    if kind in ("dense", "hybrid"):
        assert encoder is not None, "a dense index needs to know what made its vectors"
        vectors = store.iter_embeddings()
        settings = build_dense(folder / "dense", vectors, count=len(store), dim=dim, encoder=encoder)
        parts["dense"] = settings.to_dict()
    return IndexRef(kind=kind, parts=parts, files=hash_folder(folder))


def _ticking(passages: Iterator[Passage], tick: Callable[[int], None]) -> Iterator[Passage]:
    count = 0
    for count, passage in enumerate(passages, start=1):
        if count % _TICK == 0:
            tick(_TICK)
        yield passage
    tick(count % _TICK)
