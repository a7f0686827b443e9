"""Opens a corpus: finds its files and their formats, and streams passages in file order.

Memory is bounded by one document, whatever the corpus. Nothing here encodes, stores or remembers passages. In
particular, duplicates go unnoticed: two documents of one id give passages of equal ids, and whoever collects
them has to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from memstore.errors import ConfigError, CorpusError, CorpusFormatError
from memstore.passage import Document, Passage
from memstore_builders.content import ContentHash
from memstore_builders.corpus_files import corpus_files
from memstore_builders.formats import FORMATS, Record, dpr_columns, parse_object
from memstore_builders.split import split_document
from memstore_builders.streams import RowError, numbered_lines

OnError = Literal["fail", "skip"]

ERRORS_KEPT = 20
EMPTY = "empty"  # the format of a file with nothing in it
_LINES_TRIED = 20  # for detection, should the first rows be bad


@dataclass(slots=True)
class CorpusCounts:
    """What an iteration over a corpus has met so far.

    Attributes:
        documents: documents read, empty ones included; of ready passages, runs of one `document_id`.
        documents_empty: documents, or ready passages, without text. They give no passage, and are no error.
        passages: passages yielded.
        rows_skipped: bad rows passed over.
        errors: the first 20 messages about them, each with file and line.
        content: what was read.
    """

    documents: int = 0
    documents_empty: int = 0
    passages: int = 0
    rows_skipped: int = 0
    errors: list[str] = field(default_factory=list)
    content: ContentHash = field(default_factory=ContentHash, compare=False)


class Corpus:
    """An opened corpus. Iterating yields its passages in file order; iterating again starts again.

    Attributes:
        formats: the format of each file, in reading order.
        counts: of the latest iteration; reset when one starts.
        on_empty: hears the id of each document, or document of a passage, that has no text.
    """

    def __init__(self, formats: dict[Path, str], *, on_error: OnError, max_words: int, limit: int | None) -> None:
        self.formats = formats
        self.counts = CorpusCounts()
        self.on_empty: Callable[[str], None] = lambda _: None
        self._on_error, self._max_words, self._limit = on_error, max_words, limit

    def __iter__(self) -> Iterator[Passage]:
        """Starts reading.

        Raises (while iterating):
            CorpusError: a row cannot be used, and `on_error` is "fail". Names file and line.
            CorpusUnreadable: a file is damaged, cut off, or closed to us, whatever `on_error`.
            CorpusFormatError: a file named as `dpr` has no header line.
        """
        self.counts = CorpusCounts()
        return islice(self._passages(self.counts), self._limit)

    def _passages(self, counts: CorpusCounts) -> Iterator[Passage]:
        previous = None
        for row in self._rows(counts):
            if isinstance(row, Document) or row.document_id != previous:
                counts.documents += 1
            previous = row.document_id if isinstance(row, Passage) else None
            if not row.text or row.text.isspace():
                counts.documents_empty += 1
                self.on_empty(row.id if isinstance(row, Document) else row.document_id)
            elif isinstance(row, Passage):
                counts.passages += 1
                yield row
            else:
                for passage in split_document(row, max_words=self._max_words):
                    counts.passages += 1
                    yield passage

    def _rows(self, counts: CorpusCounts) -> Iterator[Document | Passage]:
        for path, name in self.formats.items():
            if name == EMPTY:
                for _ in counts.content.read(path):  # blank lines
                    pass
                continue
            try:
                with closing(counts.content.read(path)) as lines:
                    for number, row in FORMATS[name].read(lines):
                        if isinstance(row, RowError):
                            self._bad_row(CorpusError(str(row), path=path, line=number), counts)
                        else:
                            yield row
            except RowError as error:  # raised, not handed on: it concerns the file
                raise CorpusFormatError(f"{path}: cannot be read as {name}: {error}") from None

    def _bad_row(self, error: CorpusError, counts: CorpusCounts) -> None:
        if self._on_error == "fail":
            raise error
        counts.rows_skipped += 1
        if len(counts.errors) < ERRORS_KEPT:
            counts.errors.append(str(error))


def open_corpus(
    paths: Sequence[Path],
    *,
    format: str | None = None,
    on_error: OnError = "fail",
    max_words: int = 100,
    limit: int | None = None,
) -> Corpus:
    """Opens files, and folders (`corpus_files.find_files` says which files below are read, and in what order).

    Args:
        paths: each plain or compressed by gzip or zstd, which the first bytes tell.
        format: a name in `FORMATS` for all the files; by default the rows of each tell (`detect_format`).
        on_error: "fail" raises at the first bad row; "skip" passes over bad rows and counts them.
        max_words: the most words in a passage (`split.count_words`). Ready passages are taken as they are.
        limit: the most passages an iteration yields; all by default.

    Raises:
        CorpusNotFound: a path does not exist, a folder has no files, or a link in it leads to nothing.
        CorpusFormatError: a format is unknown or ambiguous, or a path leads to neither a file nor a folder.
        CorpusUnreadable: a file is damaged, or a file or folder is closed to us.
        ConfigError: an option is out of range, or a file is named twice.
    """
    if format is not None and format not in FORMATS:
        raise CorpusFormatError(f"unknown corpus format {format!r}. {_known()}")
    if on_error not in ("fail", "skip"):
        raise ConfigError(f"on_error must be fail or skip, not {on_error!r}")
    if max_words < 1:
        raise ConfigError(f"max_words must be at least 1, not {max_words}")
    if limit is not None and limit < 0:
        raise ConfigError(f"limit must not be negative, not {limit}")
    files = corpus_files(paths)
    formats = {path: format or detect_format(path) for path in files}
    return Corpus(formats, on_error=on_error, max_words=max_words, limit=limit)


def detect_format(path: Path) -> str:
    """The name of a file's format, by the first of its rows that can be read; `EMPTY` if all are blank.

    A `<doc ` line is `wikiextractor`; a header line of id, text, title is `dpr`. A JSON object is `kilt`
    if it has `wikipedia_title`; `passages` if it has `document_id`, `passage_id`, or `start` and `end`;
    `wikiextractor-json` if it has `revid`; and `jsonl` if it has `id` and `text`. With `_id` for `id` (as in
    BEIR) it may be a document or a passage: ambiguous.

    Raises:
        CorpusFormatError: none of these, or ambiguous. The message lists the formats and how to name one.
        CorpusUnreadable: the file is damaged or closed to us.
    """
    keys: list[str] = []
    first: str | RowError = ""  # what is not blank
    with closing(numbered_lines(path)) as lines:
        for number, line in islice(((n, x) for n, x in lines if isinstance(x, RowError) or x.strip()), _LINES_TRIED):
            if not first:
                first = line
                _refuse_other_files(path, line)
            if isinstance(line, RowError):
                continue
            if line.startswith("<doc "):
                return "wikiextractor"
            if number == 1 and dpr_columns(line):
                return "dpr"
            try:
                record = parse_object(line)
            except RowError as error:
                first = error if first is line else first
                continue
            keys = keys or sorted(record)
            if name := _json_format(path, record):
                return name
    if not first:
        return EMPTY
    seen = (
        f"; its first JSON object has the keys {', '.join(map(repr, keys))}" if keys else f"; its first row is {first}"
    )
    raise CorpusFormatError(f"{path}: the format of this file is not recognised{seen}. {_known()}")


def _refuse_other_files(path: Path, line: str | RowError) -> None:
    """Files whose first row shows that no row of them can be read, however many are skipped."""
    if isinstance(line, str) and line.lstrip().startswith("["):
        raise CorpusFormatError(
            f"{path}: is one JSON array; write each of its objects on a line of its own (jq -c '.[]')"
        )
    if isinstance(line, str) and "\0" in line:
        raise CorpusFormatError(f"{path}: begins with NUL characters: a tar archive, UTF-16, or a file with a hole?")


def _json_format(path: Path, record: Record) -> str | None:
    """The format of a JSON row, or None if it is not known."""
    keys = record.keys()
    if "wikipedia_title" in keys:
        return "kilt"
    if not isinstance(record.get("text"), str):
        return None
    if "document_id" in keys or "passage_id" in keys or {"start", "end"} <= keys:
        return "passages"
    if "id" in keys:
        return "wikiextractor-json" if "revid" in keys else "jsonl"
    if "_id" in keys:
        raise CorpusFormatError(f"{path}: its rows may be documents (jsonl) or ready passages (passages). {_known()}")
    return None


def _known() -> str:
    formats = "; ".join(f"{name} ({format.help})" for name, format in FORMATS.items())
    return f"Name the format with --format NAME. Known: {formats}"


def sample_corpus() -> Path:
    """The bundled sample: 200 short encyclopedic documents in the project's own words."""
    return Path(__file__).parent / "sample" / "encyclopedia.jsonl"
