"""What a corpus said when it was read, as a hash: two readings of one content have one. Knows lines, no formats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from memstore_builders.streams import RowError, numbered_lines


@dataclass(frozen=True, slots=True)
class Content:
    """How far a corpus was read, and what it said.

    Attributes:
        files: how many files were read to their end.
        lines: lines read in all; with a limit of passages, the last of them are of a file that was left.
        sha256: of the sha256 of each file's lines, decompressed.
    """

    files: int
    lines: int
    sha256: str


class ContentHash:
    """Hands on the lines of file after file, and remembers what they said."""

    def __init__(self) -> None:
        self.lines = 0
        self._files = 0
        self._done, self._file = hashlib.sha256(), hashlib.sha256()

    def read(self, path: Path) -> Generator[tuple[int, str | RowError], None, None]:
        """The lines of the next file, as `numbered_lines` gives them. It may be left before its end, as the last."""
        with closing(numbered_lines(path, self._file.update)) as lines:
            for line in lines:
                self.lines += 1
                yield line
        self._files += 1
        self._done.update(self._file.digest())
        self._file = hashlib.sha256()

    @property
    def content(self) -> Content:
        """What was read so far."""
        total = self._done.copy()
        total.update(self._file.digest())
        return Content(self._files, self.lines, total.hexdigest())


def same_content(
    files: Sequence[Path], known: Content, *, whole: bool, tick: Callable[[int], None] = lambda _: None
) -> bool:
    """Whether the files say what was read before. Reads them as far as they were read then.

    Args:
        files: in reading order.
        known: what was read.
        whole: they were read to the end, so that there must be no more of them.
        tick: hears of lines read.

    Raises:
        CorpusUnreadable, CorpusFormatError: a file can no longer be read.
    """
    if len(files) < known.files or (whole and len(files) != known.files):
        return False
    found = ContentHash()
    for path in files[: known.files]:
        before = found.lines
        with closing(found.read(path)) as lines:
            if sum(1 for _ in islice(lines, known.lines - before)) == known.lines - before and next(lines, None):
                return False  # more lines than there were
        tick(found.lines - before)
    if found.lines < known.lines and len(files) > known.files:
        with closing(found.read(files[known.files])) as lines:
            tick(sum(1 for _ in islice(lines, known.lines - found.lines)))
    return found.content == known
