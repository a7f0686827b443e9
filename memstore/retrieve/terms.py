"""How texts become terms of the BM25 index, in passages and questions alike. Knows text, and what settings record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tantivy

from memstore.retrieve.unspaced import cut_words, spaced

FORMAT_VERSION = 1
ANALYZER = "memstore_english"
_OURS = {"format_version": FORMAT_VERSION, "analyzer": ANALYZER}  # what settings say besides the count
_DROPPED_FROM_BYTES = 40  # older indexes hold no longer terms: Tantivy's default analyzers drop them


@dataclass(frozen=True, slots=True)
class Texts:
    """How texts become terms, as an index's settings record it. A question is cut as the passages of its index were."""

    spaced: bool
    """Texts went through `spaced`. The first indexes do not say so, and theirs did not."""
    max_word: int | None
    """Texts went through `cut_words` with so many characters. None: long terms were dropped instead."""

    def prepared(self, text: str) -> str:
        """The text as the analyzer gets it."""
        text = spaced(text) if self.spaced else text
        return text if self.max_word is None else cut_words(text, self.max_word)

    def analyzer(self, *without: Any) -> Any:
        """Words, lower case, no accents, the filters given, English stems."""
        long = () if self.max_word is not None else (tantivy.Filter.remove_long(_DROPPED_FROM_BYTES),)
        steps = (*long, tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold(), *without)
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        for step in (*steps, tantivy.Filter.stemmer("english")):
            builder = builder.filter(step)
        return builder.build()

    def to_dict(self) -> dict[str, Any]:
        """What the settings hold of it."""
        word = {} if self.max_word is None else {"max_word": self.max_word}
        return word | ({"spaced": True} if self.spaced else {})

    def known(self) -> dict[str, Any]:
        """What the settings of an index of such texts hold besides its counts."""
        return _OURS | self.to_dict()
