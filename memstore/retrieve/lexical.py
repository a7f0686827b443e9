"""BM25 over title and text, by Tantivy. Refuses to know stores, generations and models.

The score of a passage is the sum, over the question's distinct terms t and the two fields, of

    boost(field) * ln(1 + (N - n + 0.5) / (n + 0.5)) * f * (k1 + 1) / (f + k1 * (1 - b + b * dl / avgdl))

with n passages of N holding t in that field, f occurrences, dl the field's length in terms (Tantivy rounds
lengths above 40 down to one of 256 steps), k1 = 1.2 and b = 0.75 (Tantivy's constants; Robertson and Zaragoza
2009, section 3).

A question is never parsed: its terms come from the analyzer that also cut the passages, so that no character
of it is syntax. Scripts without spaces between words are cut into pairs of letters, and words of extreme length
into pieces (`unspaced`).

What was measured: on Simple Wikipedia (349,852 passages of at most 100 words, cut by a simpler splitter
than the builder's), the share of questions with an answer string in the top 20 passages, 750 questions per
task:

    nq.train, squad.dev; stop words of the question left out
        English stems, title boost 0.25               0.399  0.869   (kept)
        no stems, title boost 0.25                    0.388  0.871
        English stems, title boost 0.05               0.391  0.868
        English stems, title boost 0.125              0.389  0.869
        English stems, title boost 0.4                0.397  0.861
    nq.dev, squad.dev; all words of the question
        English stems, title boost 0.25               0.364  0.867
        English stems, title boost 0.5                0.359  0.857
        English stems, title boost 1                  0.333  0.807
        English stems, title boost 2                  0.303  0.637

One standard error is 0.018 and 0.012: only the boosts of 1 and 2 differ from the rest by more than that; among the
rest the choice, stems too, is a convention. Without stop words, in index and question, the shares at boosts
0.5 and 1 moved by at most 0.003, and a question took 1.2 ms instead of 4.0. They stay in the index, for
questions of nothing else.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tantivy

from memstore.errors import IndexCorrupt
from memstore.files import system_errors
from memstore.names import accepted
from memstore.passage import Passage, encodable
from memstore.retrieve import Filters, FoundRow, Hit, HitsOf, check_k, searchable
from memstore.retrieve.broad import Broad, BroadFilters
from memstore.retrieve.filters import Filter
from memstore.retrieve.folder import (
    new_index_folder,
    write_settings,
)
from memstore.retrieve.lexical_files import corruption_named, open_searcher, segment_counts
from memstore.retrieve.lexical_settings import Bm25Settings, read_bm25_settings
from memstore.retrieve.metadata_terms import METADATA, FilterQueries, IndexedFields, add_metadata_field
from memstore.retrieve.terms import ANALYZER, Texts

WRITER_HEAP_BYTES = 256 * 2**20
"""Upper bound of Tantivy's memory while indexing, whatever the corpus."""

SEGMENT_PASSAGES = 2**16
SEGMENT_CHARACTERS = 2**26
"""A Tantivy segment is closed after so many passages or characters: early enough to stay below the heap, at
which Tantivy would close it by itself."""

MAX_WORD_CHARACTERS = 255
"""Longer words are cut into pieces of so many characters, in passages and questions alike, so that every word is
found and none comes near the 65,530 bytes above which Tantivy drops a term in silence."""

MAX_QUESTION_TERMS = 64
"""Distinct terms of a question that take part, the rarest ones: common terms cost most and say least."""

TITLE_BOOST = 0.25
"""Weight of the title's score against the text's; see the module's measurement."""


_TEXTS = Texts(spaced=True, max_word=MAX_WORD_CHARACTERS)


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("title", tokenizer_name=ANALYZER, index_option="freq")
    builder.add_text_field("text", tokenizer_name=ANALYZER, index_option="freq")
    builder.add_unsigned_field("row", fast=True, indexed=True)  # a column to read, and terms to delete by
    add_metadata_field(builder)  # after all that earlier indexes have, which know fields by their places
    return builder.build()


# --- building --------------------------------------------------------------------------------------------


def build_bm25(
    folder: Path,
    passages: Iterable[Passage],
    *,
    dead: AbstractSet[int] = frozenset(),
    fields: IndexedFields | None = None,
) -> int:
    """Indexes passages in row order: the first one is row 0.

    Reads the passages once, holding none; Tantivy's memory stays below `WRITER_HEAP_BYTES`. The work happens
    in a sibling folder `<name>.part`; when this returns, `folder` is complete and on disk, and an older one
    of that name is gone.

    Measured, 350k passages of at most 100 words on two cores: 10 to 13 s, 83 to 110 MB of resident memory
    with the interpreter's, 39 MB on disk; 40 hits for a question of nq.dev took 1.0 ms, 95th percentile 1.7.

    Args:
        folder: becomes the index.
        passages: one for each row.
        dead: rows that are counted, and not indexed.
        fields: metadata fields that are to come first; shards that are searched together must have the same.

    Returns:
        The number of rows.

    Raises:
        OSError: the system refuses to write.
    """
    with new_index_folder(folder) as part, system_errors():
        fields = IndexedFields() if fields is None else fields
        count = _write_segments(part, passages, dead, fields)
        _name_segments_by_order(part)
        write_settings(part, Bm25Settings(count, len(dead), _TEXTS, fields).to_dict())
    return count


def _write_segments(folder: Path, passages: Iterable[Passage], dead: AbstractSet[int], fields: IndexedFields) -> int:
    """Writes the segments; same passages give the same segments, though under other names.

    One thread writes, we say where a segment ends, every merge is waited for before the next segment starts,
    and Tantivy keeps each segment, merged or not, sorted by row: nothing of the layout hangs on timing.
    """
    name, _handle = accepted(folder)  # referred to until this returns
    index = tantivy.Index(_schema(), name, sort_by_field="row")
    index.register_tokenizer(ANALYZER, _TEXTS.analyzer())
    count = 0
    for documents in _segments(passages, fields):
        writer = index.writer(WRITER_HEAP_BYTES, 1)
        try:
            for row, document in enumerate(documents, start=count):
                count = row + 1
                if row not in dead:
                    document.add_unsigned("row", row)
                    writer.add_document(document)
            writer.commit()
        finally:
            writer.wait_merging_threads()  # also after an error: nobody writes into the folder any more
    return count


def _segments(passages: Iterable[Passage], fields: IndexedFields) -> Iterator[Iterator[Any]]:
    """The passages as documents, cut where a segment ends."""
    source = iter(passages)

    def segment(first: Passage) -> Iterator[Any]:
        rows, characters = 0, 0
        for passage in itertools.chain([first], source):
            document, length = document_of(passage, _TEXTS, fields)
            yield document
            rows, characters = rows + 1, characters + length
            if rows >= SEGMENT_PASSAGES or characters >= SEGMENT_CHARACTERS:
                return

    for first in source:
        yield segment(first)


def document_of(passage: Passage, texts: Texts, fields: IndexedFields) -> tuple[Any, int]:
    """What Tantivy indexes of a passage, but for its row; and how many characters that is."""
    title, text = (texts.prepared(encodable(part)) for part in (passage.title, passage.text))
    document = tantivy.Document()
    document.add_text("title", title)
    document.add_text("text", text)
    length = len(title) + len(text)
    if passage.metadata:
        terms = fields.indexed(passage.metadata)
        document.add_json(METADATA, terms)
        length += sum(len(one) if isinstance(one, str) else sum(map(len, one)) for one in terms.values())
    return document, length


def _name_segments_by_order(folder: Path) -> None:
    """Names Tantivy's segments, whose names are random, by the order of their first rows.

    Removes what only a writer needs, too. With that, the same passages give the same bytes.
    """
    searcher = open_searcher(folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    first_rows = searcher.fast_field_values("row", [tantivy.DocAddress(i, 0) for i in range(searcher.num_segments)])
    by_row = sorted(zip(first_rows, meta["segments"], strict=True), key=lambda pair: pair[0])
    for place, (_, segment) in enumerate(by_row, start=1):
        new = uuid.UUID(int=place)
        for path in folder.glob(uuid.UUID(segment["segment_id"]).hex + ".*"):
            path.rename(folder / (new.hex + path.suffix))
        segment["segment_id"] = str(new)
    meta["segments"] = [segment for _, segment in by_row]
    # Only its owner may read Tantivy's own; whoever may read other new files may read this one.
    (folder / "meta.json").unlink()
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    for path in [*folder.glob(".tantivy-*.lock"), folder / ".managed.json"]:
        path.unlink(missing_ok=True)


RowsOf = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.int64]]
"""Rows of all indexes that are searched as one, of rows of one of them."""


# --- searching -------------------------------------------------------------------------------------------


class Bm25Retriever:
    """Searches an index that `build_bm25` made, or several as one. Writes nothing there, not even a lock."""

    kind = "bm25"

    def __init__(self, folder: Path, hits: HitsOf, *, more: Sequence[Path] = (), rows_of: RowsOf | None = None) -> None:
        """Opens the index.

        Args:
            folder: what `build_bm25` or `change_bm25` wrote.
            hits: names the passages of rows.
            more: other such folders, whose passages are searched with it, as in one index of all.
            rows_of: makes rows of all of the rows of one, which is named by its number; by default there is but one.

        Raises:
            IndexCorrupt: the folder is absent or incomplete, or Tantivy cannot read it.
        """
        self._hits = hits
        self._folder = folder
        folders = [folder, *more]
        self.parts = [read_bm25_settings(one) for one in folders]
        self.passages, self.deleted = sum(p.passages for p in self.parts), sum(p.deleted for p in self.parts)
        self._texts, self._rows_of = self.parts[0].texts, rows_of
        self._part_of = np.repeat(np.arange(len(folders)), segment_counts(folders)) if rows_of is not None else None
        self._schema = _schema()
        self._filters = FilterQueries(
            self._schema, IndexedFields.joined([p.fields or IndexedFields() for p in self.parts])
        )
        self._analyzers = (self._texts.analyzer(tantivy.Filter.stopword("english")), self._texts.analyzer())
        self._searcher = open_searcher(folder, *more)
        found, self._live = self._searcher.num_docs, self.passages - self.deleted
        if found != self._live:
            raise IndexCorrupt(f"the BM25 index at {folder} holds {found} passages, not {self._live}; build it again")
        self._broad = BroadFilters(total=self.passages, live=self._live)

    def __len__(self) -> int:
        """Rows that the index covers, dead ones included."""
        return self.passages

    def search(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[Hit]]:
        """See `Retriever.search`. A question without a term that a passage which passes holds gets no hits.

        Raises:
            IndexCorrupt: Tantivy cannot read the index.
        """
        return [self._hits(found) for found in self.search_rows(questions, k, filters)]

    def search_rows(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[FoundRow]]:
        """See `RowSearch.search_rows`; errors as for `search`."""
        check_k(k)
        pairs = zip(questions, filters or itertools.repeat(None, len(questions)), strict=True)
        return [self._search_one(question, k, where) for question, where in pairs]

    def rows(self, where: Filter) -> npt.NDArray[np.int64]:
        """All rows that pass a filter, ascending, dead ones left out; errors as for `search`."""
        query = self._filters.alone(where)
        with corruption_named(self._folder):
            hits = self._searcher.search(query, limit=max(1, self._live), count=False).hits
            return np.sort(np.asarray(self._rows_at([address for _, address in hits]), dtype=np.int64))

    def terms(self, question: str) -> list[str]:
        """The distinct terms of a question that take part in its search, in the question's order.

        Terms that no passage holds are left out; stop words too, unless nothing else is left.

        Raises:
            IndexCorrupt: Tantivy cannot read the index.
        """
        return next(self._choices(question), [])

    def _choices(self, question: str) -> Iterator[list[str]]:
        """What may be searched for: terms without stop words, and all terms. Some may be held by dead passages alone,
        which Tantivy counts until it merges their segment, or by what no filter lets pass.
        """
        text = self._texts.prepared(searchable(question))
        for analyzer in self._analyzers:
            frequency = {term: self._frequency(term) for term in dict.fromkeys(analyzer.analyze(text))}
            found = [term for term, passages in frequency.items() if passages]
            if len(found) > MAX_QUESTION_TERMS:
                rarest = set(sorted(found, key=lambda term: frequency[term])[:MAX_QUESTION_TERMS])
                found = [term for term in found if term in rarest]
            if found:
                yield found

    def _frequency(self, term: str) -> int:
        """Passages that hold the term in their text, plus those that hold it in their title."""
        with corruption_named(self._folder):
            return int(self._searcher.doc_freq("text", term) + self._searcher.doc_freq("title", term))

    def _query(self, terms: Sequence[str]) -> Any:
        clauses = []
        for term in terms:
            title = tantivy.Query.term_query(self._schema, "title", term, "freq")
            clauses.append(tantivy.Query.boost_query(title, TITLE_BOOST))
            clauses.append(tantivy.Query.term_query(self._schema, "text", term, "freq"))
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])

    def _search_one(self, question: str, k: int, where: Filter | None) -> list[FoundRow]:
        clauses = [] if where is None else self._filters.clauses(where)
        broad = None if where is None else self._broad.of(where, self.rows)
        for terms in self._choices(question) if self._live else ():
            query = self._query(terms)
            if broad is not None and (found := self._best_of_broad(query, k, broad)):
                return found
            if clauses:
                query = tantivy.Query.boolean_query([(tantivy.Occur.Must, query), *clauses])
            if found := self._best_rows(query, k):
                return found
        return []

    def _best_rows(self, query: Any, k: int) -> list[FoundRow]:
        """The k best `(row, score)`. Tantivy cuts ties at k by an order of its own, so we look past them."""
        limit = min(k + 8, self._live)
        with corruption_named(self._folder):
            while True:
                hits = self._searcher.search(query, limit=limit, count=False).hits
                if len(hits) < limit or limit == self._live or hits[-1][0] < hits[k - 1][0]:
                    break
                limit = min(4 * limit, self._live)
            rows = self._rows_at([address for _, address in hits])
        scored = [(row, score) for row, (score, _) in zip(rows, hits, strict=True)]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]

    def _best_of_broad(self, query: Any, k: int, broad: Broad) -> list[FoundRow]:
        """The k best `(row, score)` that pass, out of more that are found without the filter; nothing where these hold
        too few. The lowest score does not count unless all are there: more rows may have it.
        """
        limit = min(broad.wanted(k), self._live)
        with corruption_named(self._folder):
            hits = self._searcher.search(query, limit=limit, count=False).hits
            rows = self._rows_at([address for _, address in hits])
        lowest = hits[-1][0] if len(hits) == limit < self._live else -1.0
        passing = zip(rows, hits, broad.passes(rows), strict=True)
        scored = [(row, score) for row, (score, _), passes in passing if passes and score > lowest]
        if lowest >= 0 and len(scored) < k:
            return []
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]

    def _rows_at(self, addresses: Sequence[Any]) -> list[int]:
        rows: list[int] = self._searcher.fast_field_values("row", addresses)
        if any(row is None or row >= self.passages for row in rows):
            raise IndexCorrupt(f"the BM25 index at {self._folder} names rows that it does not hold; build it again")
        return rows if self._rows_of is None else self._of_all(rows, [address.segment_ord for address in addresses])

    def _of_all(self, rows: Sequence[int], segments: Sequence[int]) -> list[int]:
        """Rows of all of rows of the parts that these segments are of."""
        assert self._rows_of is not None
        assert self._part_of is not None
        own, parts = np.asarray(rows, dtype=np.int64), self._part_of[np.asarray(segments, dtype=np.int64)]
        for part in np.unique(parts).tolist():
            if (own[parts == part] >= self.parts[part].passages).any():
                raise IndexCorrupt(f"part {part} of the BM25 index names rows that it does not hold; build it again")
            own[parts == part] = self._rows_of(part, own[parts == part])
        found: list[int] = own.tolist()
        return found
