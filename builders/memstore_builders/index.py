"""Search indexes over a generation that is about to be published. Knows folders and rows; answers nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from memstore.errors import IndexCorrupt
from memstore.files import sync
from memstore.metadata import Fields, Kind
from memstore.passage import Passage
from memstore.retrieve.dense import build_dense
from memstore.retrieve.dense_change import change_dense
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.lexical import build_bm25
from memstore.retrieve.lexical_change import change_bm25
from memstore.retrieve.lexical_settings import read_bm25_settings
from memstore.retrieve.metadata_terms import IndexedFields
from memstore.retrieve.open import DENSE, LEXICAL, METADATA
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
    metadata: bool = False,
    fields: Fields | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> IndexRef:
    """Index the passages of an unpublished generation, from scratch: what a killed build left is removed.

    Args:
        store: the generation's segments.
        kind: "bm25", "dense" or "hybrid".
        encoder: what made the vectors of a dense index.
        dim: width of the vectors; 0 for none.
        skipped: rows that are dead already.
        metadata: whether documents may have some.
        fields: metadata fields that come first in a lexical index, those of the whole collection in a shard's.
        tick: hears of passages indexed.
    """
    folder = index_path(store.path, store.generation.number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts: dict[str, dict[str, object]] = {}
    if kind in ("bm25", "hybrid"):
        passages = _ticking(store.iter_passages(), tick)
        parts[LEXICAL] = {"passages": build_bm25(folder / LEXICAL, passages, dead=skipped, fields=_indexed(fields))}
    elif metadata:
        passages = _without_texts(store.iter_passages())
        parts[METADATA] = {"passages": build_bm25(folder / METADATA, passages, dead=skipped, fields=_indexed(fields))}
    if kind in ("dense", "hybrid"):
        assert encoder is not None, "a dense index needs to know what made its vectors"
        vectors = store.iter_embeddings()
        settings = build_dense(folder / DENSE, vectors, count=len(store), dim=dim, encoder=encoder)
        parts[DENSE] = settings.to_dict()
    return IndexRef(kind=kind, parts=parts, files=hash_folder(folder))


def _indexed(fields: Fields | None) -> IndexedFields | None:
    return None if fields is None else IndexedFields.of([[name, kinds] for name, kinds in fields.items()])


def change_index(old: Store, new: Store, *, killed: Sequence[int], skipped: frozenset[int]) -> IndexRef:
    """Index an unpublished generation whose rows begin with those of another one, at the cost of what changed.

    A lexical index of a version that knew no metadata has no place for them. It is built again when the first come.

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
    name = LEXICAL if LEXICAL in old.generation.index.parts else METADATA
    first = not _takes_metadata(before / name) and any(p.metadata for p in new.iter_passages(len(old)))
    if name in old.generation.index.parts or first:
        texts = _same if name == LEXICAL else _without_texts
        if first:
            dead = {*old.dead_rows().tolist(), *killed, *skipped}
            count = build_bm25(folder / name, texts(new.iter_passages()), dead=dead)
        else:
            passages = texts(new.iter_passages(len(old)))
            count = change_bm25(
                folder / name, before / name, dead=killed, passages=passages, start=len(old), skipped=skipped
            )
        parts[name] = {"passages": count}
    if DENSE in old.generation.index.parts:
        settings = change_dense(folder / DENSE, before / DENSE, vectors=new.iter_embeddings, count=len(new))
        parts[DENSE] = settings.to_dict()
    sync(folder)
    sync(folder.parent)
    known = old.generation.index.files
    files = {name: known[name] if _is_same(folder, before, name, known) else hash_file(folder / name)
             for name in list_files(folder) if not name.endswith(".lock")}  # fmt: skip
    return IndexRef(kind=old.generation.index.kind, parts=parts, files=files)


def fields_of(store: Path, number: int, index: IndexRef) -> dict[str, tuple[Kind, ...]]:
    """The metadata fields that the indexes of a generation have, with the kinds of their values."""
    for name in (LEXICAL, METADATA):
        if name in index.parts:
            found = read_bm25_settings(index_path(store, number) / name).fields
            return {} if found is None else found.fields
    return {}


def _takes_metadata(folder: Path) -> bool:
    """Whether there is an index that has a place for metadata: those of earlier versions have none."""
    return folder.exists() and read_bm25_settings(folder).fields is not None


def _same(passages: Iterable[Passage]) -> Iterator[Passage]:
    return iter(passages)


def _without_texts(passages: Iterable[Passage]) -> Iterator[Passage]:
    return (replace(passage, title="", text="") for passage in passages)


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
