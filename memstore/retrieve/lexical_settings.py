"""What `settings.json` of a BM25 index says. Knows values, and no Tantivy index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore.errors import IndexCorrupt
from memstore.retrieve.folder import read_settings
from memstore.retrieve.metadata_terms import IndexedFields
from memstore.retrieve.terms import Texts


@dataclass(frozen=True, slots=True)
class Bm25Settings:
    """What `settings.json` of an index says: rows that it covers, how many of them are dead, how texts became terms,
    and the metadata fields. An index of before there were metadata has no place for them: None.
    """

    passages: int
    deleted: int
    texts: Texts
    fields: IndexedFields | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {"passages": self.passages} | self.texts.known()
        values |= {"deleted": self.deleted} if self.deleted else {}
        return values if self.fields is None else values | {"fields": self.fields.to_list()}


def read_bm25_settings(folder: Path) -> Bm25Settings:
    """The settings of the index in a folder.

    Raises:
        IndexCorrupt: the folder is absent or incomplete, or its settings are not ours.
    """
    settings = read_settings(folder)
    fields = settings.pop("fields", None)
    passages, deleted, max_word = settings.pop("passages", None), settings.pop("deleted", 0), settings.get("max_word")
    texts = Texts(spaced="spaced" in settings, max_word=max_word)
    is_ours = settings == texts.known() and (max_word is None or (type(max_word) is int and max_word > 0))
    if not is_ours or type(passages) is not int or type(deleted) is not int or not 0 <= deleted <= passages:
        raise IndexCorrupt(f"the BM25 index at {folder} is not of this version of memstore; build it again")
    return Bm25Settings(passages, deleted, texts, None if fields is None else IndexedFields.of(fields))
