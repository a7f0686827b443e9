"""A BM25 index made from an earlier one: some passages more, some dead. Refuses to know stores and generations.

Unchanged files are hard links: a Tantivy segment never changes. Additions are a segment of their own, which Tantivy
merges with others of its size (its log policy), so that a thousand small additions leave few segments. Dead passages
are named in a file beside their segment. Until Tantivy merges that segment, BM25's statistics (passages, passages
that hold a term, mean lengths) count them: scores may differ from those of an index built of the live ones alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tantivy

from memstore.errors import IndexCorrupt
from memstore.files import link_or_copy, system_errors
from memstore.names import accepted
from memstore.passage import Passage
from memstore.retrieve.folder import SETTINGS, new_index_folder, write_settings
from memstore.retrieve.lexical import document_of
from memstore.retrieve.lexical_files import corruption_named
from memstore.retrieve.lexical_settings import Bm25Settings, read_bm25_settings
from memstore.retrieve.metadata_terms import IndexedFields
from memstore.retrieve.terms import ANALYZER

HEAP_BYTES = 64 * 2**20
"""Tantivy's memory while a change is written; it closes a segment when that is full."""

_BATCH = 65_536  # rows deleted by one query


def change_bm25(
    folder: Path, old: Path, *, dead: Sequence[int], passages: Iterable[Passage], start: int, skipped: frozenset[int]
) -> int:
    """Makes the index in `folder` from the one in `old`, which stays as it is.

    Args:
        folder: becomes the index, complete and on disk when this returns.
        old: an index over rows up to `start`.
        dead: rows of it that are dead from now on, each for the first time.
        passages: those of the rows from `start` on.
        start: the first new row.
        skipped: new rows that are dead already: they are counted, and not indexed.

    Returns:
        The number of rows that the index covers now, dead ones included.

    Raises:
        IndexCorrupt: `old` cannot be read, or has no place for metadata (`fields` is None) and passages have some.
        OSError: the system refuses to write.
    """
    settings = read_bm25_settings(old)
    rows, gone, texts, fields = settings.passages, settings.deleted, settings.texts, settings.fields
    if rows != start:
        raise IndexCorrupt(f"the BM25 index at {old} covers {rows} passages, not {start}; build it again")
    with new_index_folder(folder) as part, system_errors():
        for path in old.iterdir():
            if path.name != SETTINGS:
                link_or_copy(path, part / path.name)
        with corruption_named(old):
            name, _handle = accepted(part)
            index = tantivy.Index.open(name)
            index.register_tokenizer(ANALYZER, texts.analyzer())
            writer = index.writer(HEAP_BYTES, 1)
            try:
                _delete(writer, index.schema, np.asarray(dead, dtype=np.int64))
                rows = start
                for passage in passages:
                    if passage.metadata and fields is None:
                        raise IndexCorrupt(f"the BM25 index at {old} has no place for metadata; build it again")
                    if rows not in skipped:
                        document, _ = document_of(passage, texts, fields or IndexedFields())
                        document.add_unsigned("row", rows)
                        writer.add_document(document)
                    rows += 1
                writer.commit()
            finally:
                writer.wait_merging_threads()  # also after an error: nobody writes into the folder any more
        _tidy(part)
        gone += len(dead) + len(skipped)
        write_settings(part, Bm25Settings(rows, gone, texts, fields).to_dict())
    return rows


def _delete(writer: Any, schema: Any, rows: npt.NDArray[np.int64]) -> None:
    """Deletes by row. The first indexes have rows only as a column: there it is a query for each run of rows."""
    rows = np.sort(rows)
    try:
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH].tolist()
            writer.delete_documents_by_query(tantivy.Query.term_set_query(schema, "row", batch))
    except ValueError as error:
        if "not indexed" not in str(error):
            raise
    else:
        return
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        low, high = int(run[0]), int(run[-1])
        query = tantivy.Query.range_query(
            schema, "row", tantivy.FieldType.Unsigned, low, high, include_lower=True, include_upper=True
        )
        writer.delete_documents_by_query(query)


def _tidy(folder: Path) -> None:
    """Removes what only a writer needs, and the files of segments that were merged: as links of another index they
    are none of Tantivy's concern.
    """
    meta = folder / "meta.json"
    text = meta.read_text(encoding="utf-8")
    wanted = {"meta.json"}
    for segment in json.loads(text)["segments"]:
        name = uuid.UUID(segment["segment_id"]).hex
        deletes = f".{segment['deletes']['opstamp']}.del" if segment["deletes"] else None
        wanted |= {p.name for p in folder.glob(f"{name}.*") if p.suffix != ".del" or p.name == f"{name}{deletes}"}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    meta.unlink()  # only its owner may read Tantivy's own; whoever may read other new files may read this one
    meta.write_text(text, encoding="utf-8")
