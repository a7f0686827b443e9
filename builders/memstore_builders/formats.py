"""The formats of a corpus: how the lines of a file become documents or ready passages.

Each format is a generator over numbered lines. In the place of a row that cannot be used it yields a
`RowError` and goes on with the next one, so that a bad row never shifts the rows after it; it raises one if
the whole file cannot be used. What happens to bad rows, and where the lines come from, is not known here.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from memstore.errors import InvalidMetadata
from memstore.metadata import Metadata, checked, in_json
from memstore.passage import Document, Passage
from memstore_builders.streams import RowError
from memstore_builders.tsv import Line, tsv_rows

Row = tuple[int, Document | Passage | RowError]
Record = dict[str, Any]

MAX_DOCUMENT_CHARS = 64 * 2**20  # of a document that spans lines (wikiextractor)
_TSV_COLUMNS = ("id", "text", "title")


@dataclass(frozen=True, slots=True)
class Format:
    """A format's name for `--format`, one line of help, and its reader."""

    name: str
    help: str
    read: Callable[[Iterable[Line]], Iterator[Row]]


# --- JSON lines ------------------------------------------------------------------------------------------


def _json_reader(parse: Callable[[Record], Document | Passage]) -> Callable[[Iterable[Line]], Iterator[Row]]:
    """A reader of one JSON object per line. Blank lines are not rows."""

    def read(lines: Iterable[Line]) -> Iterator[Row]:
        for number, line in lines:
            if isinstance(line, RowError):
                yield number, line
            elif line and not line.isspace():
                try:
                    yield number, parse(parse_object(line))
                except RowError as error:
                    yield number, error

    return read


def parse_object(line: str) -> Record:
    """The JSON object in a line.

    Raises:
        RowError: the line is not JSON, or JSON of another kind.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not usable JSON: {error}") from None
    if not isinstance(record, dict):
        raise RowError(f"the row must be a JSON object, not {in_json(record)}")
    return record


def _document(record: Record) -> Document:
    return Document(
        id=_id(record, "id", "_id"),
        title=_string(record, "title", default=""),
        text=_string(record, "text"),
        url=_string(record, "url", default=""),
        metadata=_metadata(record),
    )


def _passage(record: Record) -> Passage:
    passage_id = _id(record, "id", "passage_id", "_id")
    text = _string(record, "text")
    start, end = _span(record, text)
    return Passage(
        id=passage_id,
        document_id=_id(record, "document_id") if record.get("document_id") is not None else passage_id,
        title=_string(record, "title", default=""),
        text=text,
        url=_string(record, "url", default=""),
        start=start,
        end=end,
        metadata=_metadata(record),
    )


def _kilt(record: Record) -> Document:
    title = _string(record, "wikipedia_title")
    paragraphs = record.get("text")
    if isinstance(paragraphs, dict):  # as the data set hubs repack it
        paragraphs = paragraphs.get("paragraph")
    if not isinstance(paragraphs, list):
        raise RowError(f'"text" must be a list of paragraphs, not {in_json(paragraphs)}')
    history = record.get("history")
    return Document(
        id=_id(record, "wikipedia_id", "_id", "kilt_id"),
        title=title,
        text=_join(title, [_kilt_paragraph(_checked("text", item)) for item in paragraphs]),
        url=_string(history, "url", default="") if isinstance(history, dict) else "",
        metadata=_metadata(record),
    )


def _kilt_paragraph(paragraph: str) -> str:
    """`Section::::History.:Early years.` becomes `Early years.`, `BULLET::::- one` becomes `- one`."""
    paragraph = paragraph.strip()
    if paragraph.startswith("Section::::"):
        return paragraph.removeprefix("Section::::").rpartition(".:")[2]
    return paragraph.removeprefix("BULLET::::")


def _wikiextractor_json(record: Record) -> Document:
    document = _document(record)
    page = _wikipedia_page(document.id, document.title, document.url, document.text.split("\n"))
    return replace(page, metadata=document.metadata)


def _wikipedia_page(page_id: str, title: str, url: str, lines: list[str]) -> Document:
    """A page as wikiextractor writes it: entities escaped, one line per paragraph, often the title first."""
    title = html.unescape(title)
    return Document(page_id, title, _join(title, [html.unescape(line) for line in lines]), html.unescape(url))


def _join(title: str, paragraphs: list[str]) -> str:
    """Paragraphs separated by blank lines, without empty ones and a first one that repeats the title."""
    kept = [stripped for paragraph in paragraphs if (stripped := paragraph.strip())]
    if kept and kept[0] == title.strip():
        del kept[0]
    return "\n\n".join(kept)


# --- fields ----------------------------------------------------------------------------------------------


def _metadata(record: Record) -> Metadata:
    """What the row says under "metadata"; null and absent are nothing."""
    try:
        return checked(value) if (value := record.get("metadata")) is not None else {}
    except InvalidMetadata as error:
        raise RowError(str(error)) from None


def _checked(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise RowError(f'"{key}" must be a string, not {in_json(value)}')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f'"{key}" holds half of a surrogate pair, which is no character') from None
    return value


def _string(record: Record, key: str, *, default: str | None = None) -> str:
    """The string under `key`; null and absent are the default, and an error where there is none."""
    value = record.get(key)
    if value is not None:
        return _checked(key, value)
    if default is None:
        raise RowError(f'"{key}" is missing' if key not in record else f'"{key}" must be a string, not null')
    return default


def _id(record: Record, *keys: str) -> str:
    """The id under the first of `keys` that is there; whole numbers become strings."""
    for key in keys:
        if (value := record.get(key)) is not None:
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
            if not _checked(key, value).strip():
                raise RowError(f'"{key}" is empty')
            return str(value)
    raise RowError(f'"{keys[0]}" is missing')


def _span(record: Record, text: str) -> tuple[int, int]:
    """`start` and `end` of a ready passage: both or neither, and as far apart as the text is long."""
    start, end = record.get("start"), record.get("end")
    if start is None and end is None:
        return 0, len(text)
    if type(start) is not int or type(end) is not int:
        raise RowError('"start" and "end" must both be whole numbers (characters), or both be left out')
    if start < 0 or end - start != len(text):
        raise RowError(f'"start" {start} and "end" {end} do not span the text, which has {len(text)} characters')
    return start, end


# --- DPR -------------------------------------------------------------------------------------------------


def _read_dpr(lines: Iterable[Line]) -> Iterator[Row]:
    """`psgs_w100.tsv`: a header of id, text, title, then rows, quoted as by the csv module.

    A passage's document is its title, which names the page in DPR.
    """
    source = iter(lines)
    header = dpr_columns(next(source, (0, ""))[1])
    if header is None:
        raise RowError("its first line must name the columns id, text and title, separated by tabs")
    for number, row in tsv_rows(source, header):
        if isinstance(row, RowError):
            yield number, row
            continue
        try:
            passage = _passage(row)
            yield number, replace(passage, document_id=passage.title or passage.id)
        except RowError as error:
            yield number, error


def dpr_columns(line: str | RowError) -> list[str] | None:
    """The column names if `line` is the header of a DPR file, else None."""
    if isinstance(line, RowError):
        return None
    columns = [column.strip().strip('"').lower() for column in line.split("\t")]
    return columns if sorted(columns) == sorted(_TSV_COLUMNS) else None


# --- wikiextractor's <doc> ------------------------------------------------------------------------------

# A title may hold bare quotes, so a value ends at the quote after which another attribute or the end of the head comes.
_ATTRIBUTE = re.compile(r'\s+([\w:.-]+)="(.*?)"(?=\s+[\w:.-]+="|\s*>\s*\Z)')
_HEAD_END = re.compile(r"\s*>\s*\Z")


def _read_wikiextractor(lines: Iterable[Line]) -> Iterator[Row]:
    page: _Page | None = None
    for number, line in lines:
        if isinstance(line, RowError):
            if page is None:
                yield number, line
            else:
                page.error = page.error or RowError(f"line {number} of the document: {line}")
        elif line.startswith("<doc "):
            if page is not None:
                yield (
                    page.number,
                    RowError(f"the document is not closed by </doc> before the next, on line {number}"),
                )
            page = _Page(number, line)
        elif page is None:
            if line and not line.isspace():
                yield number, RowError("text outside of <doc ...> and </doc>")
        elif line.rstrip().endswith("</doc>"):
            page.add(line.rstrip().removesuffix("</doc>"))
            yield page.number, page.document()
            page = None
        else:
            page.add(line)
    if page is not None:
        yield page.number, RowError("the document is not closed by </doc> before the end of the file")


class _Page:
    """One `<doc>` while its lines arrive."""

    def __init__(self, number: int, head: str) -> None:
        self.number, self.head = number, head
        self.lines: list[str] = []
        self.size = 0
        self.error: RowError | None = None

    def add(self, line: str) -> None:
        self.size += len(line)
        if self.size > MAX_DOCUMENT_CHARS:
            self.error = self.error or RowError(f"the document is longer than {MAX_DOCUMENT_CHARS:,} characters")
            self.lines.clear()
        else:
            self.lines.append(line)

    def document(self) -> Document | RowError:
        attributes = _attributes(self.head)
        if self.error is not None or "title" not in attributes:
            return self.error or RowError(
                'the first line must read <doc id="..." url="..." title="...">, '
                "its attributes in any order, each once and in double quotes"
            )
        if not (page_id := html.unescape(attributes.get("id", "")).strip()):
            return RowError('"id" of the <doc> is missing or empty')
        return _wikipedia_page(page_id, attributes["title"], attributes.get("url", ""), self.lines)


def _attributes(head: str) -> dict[str, str]:
    """The attributes of a `<doc ...>` line; none if any part of the line is something else, or one comes twice."""
    found: dict[str, str] = {}
    at = len("<doc")
    while match := _ATTRIBUTE.match(head, at):
        if match[1] in found:
            return {}
        found[match[1]], at = match[2], match.end()
    return found if _HEAD_END.match(head, at) else {}


FORMATS = {
    format.name: format
    for format in (
        Format("jsonl", 'JSON lines of documents: {"id", "title", "text", "url", "metadata"}', _json_reader(_document)),
        Format(
            "passages",
            'JSON lines of ready passages: {"id", "text"}, '
            'and optionally "document_id", "title", "url", "start", "end", "metadata"',
            _json_reader(_passage),
        ),
        Format("kilt", "JSON lines of the KILT knowledge source", _json_reader(_kilt)),
        Format("dpr", "tab-separated ready passages as in DPR's psgs_w100.tsv", _read_dpr),
        Format("wikiextractor", "wikiextractor's text output: <doc ...> ... </doc>", _read_wikiextractor),
        Format("wikiextractor-json", "wikiextractor's --json output", _json_reader(_wikiextractor_json)),
    )
}
