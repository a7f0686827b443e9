"""What the corpus is made of: documents, and the passages they are cut into. Knows no model and no disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from memstore.metadata import Metadata

# Thai to Burmese, Khmer, then the East Asian blocks without U+3000, which is a space.
UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u2e80-\u2fff\u3001-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
)
"""Ranges, for a class of a regular expression, of the scripts that put no spaces between words."""


@dataclass(frozen=True, slots=True)
class Document:
    """A page of the corpus. `text` separates paragraphs by a blank line; `metadata` as `metadata.checked` has them."""

    id: str
    title: str
    text: str
    url: str = ""
    metadata: Metadata = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of sentences of one document.

    `id` is stable: `{document_id}:{ordinal within the document}`, or the id a corpus of ready passages gives.
    `start` and `end` are character offsets into the document's text, so that
    `document.text[start:end] == text`; a ready passage whose document is not at hand has `0, len(text)`.
    `metadata` are its document's.
    """

    id: str
    document_id: str
    title: str
    text: str
    url: str = ""
    start: int = 0
    end: int = 0
    metadata: Metadata = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage as it was read from a store, and its row there: enough to load its memory without finding it again.

    Rows count passages of one generation of one store, and mean nothing outside it.
    """

    passage: Passage
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPassage:
    """A passage with its place in retrieval (1-based; None for the caller's own) and its rerank score.

    `attention` is its share of the reader's cross-attention, where that was asked for: those of all kept ones sum to 1.
    """

    passage: Passage
    retrieval_rank: int | None = None
    retrieval_score: float | None = None
    rerank_score: float | None = None
    kept: bool = False
    attention: float | None = None


def encodable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
