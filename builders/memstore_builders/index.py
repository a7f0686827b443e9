"""Search indexes over a generation that is about to be published. Knows folders and rows; answers nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from memstore.errors import IndexCorrupt
from memstore.files import sync
from memstore.passage import Passage
from memstore.retrieve.dense import build_dense
from memstore.retrieve.dense_change import change_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.lexical import build_bm25
from memstore.retrieve.lexical_change import change_bm25
from memstore.retrieve.open import DENSE, LEXICAL
from memstore.store import IndexRef, Store, hash_file, hash_folder, index_path
from memstore.store.format import list_files

_TICK = 1000


def build_index(
    store: Store,
    *,
    kind: str,
    encoder: EncoderRef | None = None,
    dim: int = 0,
    skipped: frozenset[int] = frozenset(),
    tick: Callable[[int], None] = lambda _: None,
) -> IndexRef:
    """Index the passages of an unpublished generation, from scratch: what a killed build left is removed.

    Args:
        store: the generation's segments.
        kind: "bm25", "dense" or "hybrid".
        encoder: what made the vectors of a dense index.
        dim: width of the vectors; 0 for none.
        skipped: rows that are dead already.
        tick: hears of passages indexed.
    """
    folder = index_path(store.path, store.generation.number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts: dict[str, dict[str, object]] = {}
    if kind in ("bm25", "hybrid"):
        parts[LEXICAL] = {"passages": _build_lexical(folder, _ticking(store.iter_passages(), tick), skipped)}
    if kind in ("dense", "hybrid"):
        assert encoder is not None, "a dense index needs to know what made its vectors"
        vectors = store.iter_embeddings()
        settings = build_dense(folder / DENSE, vectors, count=len(store), dim=dim, encoder=encoder)
        parts[DENSE] = settings.to_dict()
    return IndexRef(kind=kind, parts=parts, files=hash_folder(folder))


def _build_lexical(folder: Path, passages: Iterator[Passage], skipped: frozenset[int]) -> int:
    if not skipped:
        return build_bm25(folder / LEXICAL, passages)
    empty = folder / "empty"
    build_bm25(empty, ())
    count = change_bm25(folder / LEXICAL, empty, dead=(), passages=passages, start=0, skipped=skipped)
    shutil.rmtree(empty)
    return count


def change_index(old: Store, new: Store, *, killed: Sequence[int], skipped: frozenset[int]) -> IndexRef:
    """Index an unpublished generation whose rows begin with those of another one, at the cost of what changed.

    Args:
        old: the earlier generation.
        new: the unpublished one.
        killed: rows of the earlier one that died since.
        skipped: rows that are new and dead.

    Raises:
        IndexCorrupt: an index of the earlier generation cannot be read, or there is none.
    """
    if old.generation.index is None:
        raise IndexCorrupt(f"generation {old.generation.number} of {old.path} has no search index; build it again")
    folder, before = (index_path(s.path, s.generation.number) for s in (new, old))
    folder.mkdir(parents=True)
    parts: dict[str, dict[str, object]] = {}
    if LEXICAL in old.generation.index.parts:
        passages = new.iter_passages(len(old))
        count = change_bm25(
            folder / LEXICAL, before / LEXICAL, dead=killed, passages=passages, start=len(old), skipped=skipped
        )
        parts[LEXICAL] = {"passages": count}
    if DENSE in old.generation.index.parts:
        settings = change_dense(folder / DENSE, before / DENSE, vectors=new.iter_embeddings, count=len(new))
        parts[DENSE] = settings.to_dict()
    sync(folder)
    sync(folder.parent)
    known = old.generation.index.files
    files = {name: known[name] if _is_same(folder, before, name, known) else hash_file(folder / name)
             for name in list_files(folder) if not name.endswith(".lock")}  # fmt: skip
    return IndexRef(kind=old.generation.index.kind, parts=parts, files=files)


def _is_same(folder: Path, before: Path, name: str, known: Mapping[str, str]) -> bool:
    """Whether a file is a link to the earlier index's."""
    return name in known and (before / name).exists() and (folder / name).samefile(before / name)


def _ticking(passages: Iterator[Passage], tick: Callable[[int], None]) -> Iterator[Passage]:
    count = 0
    for count, passage in enumerate(passages, start=1):
        if count % _TICK == 0:
            tick(_TICK)
        yield passage
    tick(count % _TICK)
