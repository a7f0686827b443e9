"""Rows of tab-separated values, quoted as Python's csv module quotes them. Knows cells, nothing of passages.

A quoted value may run on over lines. A quote that opens one in error must not swallow the rows after it.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator

from memstore_builders.streams import RowError

Line = tuple[int, str | RowError]

MAX_QUOTED_LINES = 100  # a quoted value may run on over so many lines
MAX_QUOTED_CHARS = 2**20  # and its row over so many characters


def tsv_rows(lines: Iterable[Line], header: list[str]) -> Iterator[tuple[int, dict[str, str] | RowError]]:
    """Yields each row's cells by the columns in `header`, one of which is "id", with the line that the row begins on;
    a row that cannot be used as its `RowError`. Blank lines are not rows.
    """
    waiting = deque[Line]()
    source = iter(lines)
    while line := waiting.popleft() if waiting else next(source, None):
        number, first = line
        if isinstance(first, RowError):
            yield number, first
        elif first and not first.isspace():
            try:
                cells = _row(first, header, waiting, source)
            except RowError as error:
                yield number, error
                continue
            yield number, dict(zip(header, cells, strict=True))


def _row(first: str, header: list[str], waiting: deque[Line], source: Iterator[Line]) -> list[str]:
    """Cells of the row that begins with the line `first`; a quoted value may run on over the lines after it.

    Raises:
        RowError: there is no such row.
    """
    try:
        cells = _split(first)
    except csv.Error as error:
        joined = _close_quote(first, header, waiting, source)
        if joined is None:
            raise RowError(f"not a row of tab-separated values: {error}") from None
        cells = joined
    if len(cells) != len(header):
        raise RowError(f"{len(cells)} columns where {len(header)} are needed ({', '.join(header)})")
    return cells


def _close_quote(first: str, header: list[str], waiting: deque[Line], source: Iterator[Line]) -> list[str] | None:
    """Cells of `first` and the lines its open quote runs over; None, and no line lost, if it never closes.

    Raises:
        RowError: what closes it is the quote of another row; no line is lost.
    """
    taken: list[str] = [first]
    for index in range(MAX_QUOTED_LINES):
        if index == len(waiting):
            if (line := next(source, None)) is None:
                return None
            waiting.append(line)
        text = waiting[index][1]
        if isinstance(text, RowError) or sum(map(len, taken)) > MAX_QUOTED_CHARS:
            return None
        taken.append(text)
        if text.count('"') % 2:  # only such a line can close the quote
            try:
                cells = _split("\n".join(taken))
            except csv.Error:
                return None
            _refuse_swallowed(taken, header, last=waiting[index][0])
            for _ in range(index + 1):
                waiting.popleft()
            return cells
    return None


def _refuse_swallowed(lines: list[str], header: list[str], *, last: int) -> None:
    """Refuse a quoted field that would run over whole rows, as where a file does not quote its values at all and one
    begins with a quote: the first line has its other columns after the quote, or another line looks like a row.

    Raises:
        RowError: names the column, and the line of the quote that closed it, `last`.
    """
    opened = len(next(csv.reader([lines[0]], delimiter="\t"))) - 1  # not strict: an open field takes the rest
    whole = opened < len(header) - 1 and len(lines[0].split("\t")) == len(header)
    numbered = lines[0].split("\t")[header.index("id")].isdigit() if opened > header.index("id") else False
    after = lines[1:] if opened else lines[1:-1]  # a row whose first column is the open one ends with all the others
    for cells in (line.split("\t") for line in after):
        own_id = cells[header.index("id")] if len(cells) == len(header) else ""
        whole = whole or (own_id.isdigit() if numbered else bool(own_id.strip()))
    if whole:
        raise RowError(
            f'not a row of tab-separated values: the quote that opens "{header[opened]}" would run on over other rows, '
            f"to line {last}; a value that begins with a quote must itself be quoted, and its quotes doubled"
        )


def _split(text: str) -> list[str]:
    return next(csv.reader([text], delimiter="\t", strict=True))
