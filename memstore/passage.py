"""What the corpus is made of: documents, and the passages they are cut into. Knows no model and no disk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A page of the corpus. `text` separates paragraphs by a blank line."""

    id: str
    title: str
    text: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of sentences of one document.

    `id` is stable: `{document_id}:{ordinal within the document}`, or the id a corpus of ready passages gives.
    `start` and `end` are character offsets into the document's text, so that
    `document.text[start:end] == text`; a ready passage whose document is not at hand has `0, len(text)`.
    """

    id: str
    document_id: str
    title: str
    text: str
    url: str = ""
    start: int = 0
    end: int = 0


def encodable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
