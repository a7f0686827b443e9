"""Makes passages fit what the model reads: one that has more tokens becomes several, or loses its end, or is refused.

Knows the tokenizer and its limit. Where passages come from, and where they go, is not known here.

The parts of a passage: the first keeps its id, `p`; the others are `p#2`, `p#3`, ... All keep its document, title and
url, and each has the characters that it holds as its span. They are of nearly equal length, and end with a sentence
where one ends near by, else with a word, and within a word only where it alone is too long.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from memstore.errors import ConfigError
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore_builders.split import word_starts

OnLong = Literal["split", "cut", "fail"]
Mark = Literal["", "first", "part", "cut"]
"""What became of a passage: nothing; it is the first or a further part of a longer one; it loses its end."""

_BATCH = 256  # passages tokenised at once
_SENTENCE_END = re.compile(r"[.!?。！？][\"'”’)\]]*\s*\Z|\n\s*\Z")
_NEAR = 0.75  # a part may have as little of its fair share, for its end to be that of a sentence or a word
_WITHIN_SENTENCE, _WITHIN_WORD = 0.25, 1.0  # how far off the fair share, in shares of it, a better end may be
_JOINER = "\u200d"  # zero width joiner: holds an emoji sequence together


def unfitted(passages: Iterable[Passage]) -> Iterator[tuple[Passage, Mark]]:
    """The passages as they are."""
    return ((passage, "") for passage in passages)


@dataclass(frozen=True, slots=True)
class Fitter:
    """What to do with passages that have more tokens than the model reads."""

    tokenizer: TextTokenizer
    on_long: OnLong

    def __post_init__(self) -> None:
        """See that `on_long` is one of what there is.

        Raises:
            ConfigError: it is not.
        """
        if self.on_long not in get_args(OnLong):
            raise ConfigError(f"on_long must be split, cut or fail, not {self.on_long!r}")

    def __call__(self, passages: Iterable[Passage]) -> Iterator[tuple[Passage, Mark]]:
        """Yields the passages in order, each long one as what becomes of it.

        Raises:
            ConfigError: a passage is too long, and `on_long` is "fail".
        """
        source = iter(passages)
        while batch := list(islice(source, _BATCH)):
            for passage, length in zip(batch, self.tokenizer.lengths(batch), strict=True):
                if length <= self.limit:
                    yield passage, ""
                else:
                    yield from self._fitted(passage, length)

    @property
    def limit(self) -> int:
        """The most tokens that the model reads of a passage."""
        return self.tokenizer.config.max_passage_tokens

    def _fitted(self, passage: Passage, length: int) -> Iterator[tuple[Passage, Mark]]:
        if self.on_long == "fail":
            raise ConfigError(
                f"passage {passage.id!r} (title {passage.title!r}) has {length:,} tokens, and the model reads "
                f"{self.limit}: have long passages split or cut (--on-long), or documents cut smaller (--max-words)"
            )
        parts = self.split(passage) if self.on_long == "split" else []
        if not parts:
            yield passage, "cut"
        for number, part in enumerate(parts, start=1):
            name = passage.id if number == 1 else f"{passage.id}#{number}"
            yield replace(part, id=name), "first" if number == 1 else "part"

    def split(self, passage: Passage) -> list[Passage]:
        """The parts of a long passage, each within the limit, all under its id; none if its title leaves no room."""
        room = self.limit - self.tokenizer.lengths([replace(passage, text="")])[0]
        while room > 0:
            parts = [_part(passage, start, end) for start, end in self._spans(passage.text, room)]
            over = max(self.tokenizer.lengths(parts), default=0) - self.limit
            if over <= 0:
                return parts
            room -= over  # a word can have more tokens beside the title, or where it is cut, than in the whole text
        return []

    def _spans(self, text: str, room: int) -> list[tuple[int, int]]:
        """Spans of the text of `room` tokens at most, as far as it has the same tokens when it is cut. No spaces at
        their ends.
        """
        tokens = self.tokenizer.ends(text)
        starts = _cuts(text, tokens, room)
        until = _tokens_before(tokens, [*starts, len(text)])  # at each start, and at the end
        spans, first = [], 0
        while first < len(starts):
            last = _part_end(text, starts, until, first, room)
            run = text[starts[first] : starts[last] if last < len(starts) else len(text)].rstrip()
            spans.append((starts[first], starts[first] + len(run)))
            first = last
        return spans


def _cuts(text: str, tokens: npt.NDArray[np.int64], room: int) -> list[int]:
    """Where a part may begin: at each word, and within one that alone is too long at any character."""
    starts = word_starts(text)
    ends = [*starts[1:], len(text)]
    sizes = np.diff(_tokens_before(tokens, [*starts, len(text)])).tolist()
    found: list[int] = []
    for start, end, size in zip(starts, ends, sizes, strict=True):
        found += range(start, start + len(text[start:end].rstrip())) if size > room else [start]
    return found


def _tokens_before(ends: npt.NDArray[np.int64], places: list[int]) -> list[int]:
    """How many tokens end before each place, by their ends: a word's token often begins with the space before it."""
    counts: list[int] = np.searchsorted(ends, places, side="right").tolist()
    return counts


def _part_end(text: str, starts: list[int], until: list[int], first: int, room: int) -> int:
    """The index in `starts` before which the part that begins at `first` ends: the best within `room` tokens."""
    left = until[-1] - until[first]
    if left <= room:
        return len(starts)
    share = left / -(-left // room)  # what each of the parts still to come has, if they are equal
    best, least = first + 1, float("inf")
    for last in range(first + 1, len(starts)):
        size = until[last] - until[first]
        if size > room:
            break
        if size < _NEAR * share:
            best = last
            continue
        off = abs(size - share) / share + _price(text, starts[last])
        if off < least:
            best, least = last, off
    return best


def _price(text: str, at: int) -> float:
    """What it costs to end a part before a character: nothing after a sentence, most within a word."""
    before = text[max(0, at - 8) : at]
    if _SENTENCE_END.search(before):
        return 0.0
    if before[-1:].isspace():
        return _WITHIN_SENTENCE
    parted = _JOINER in text[at - 1 : at + 1] or unicodedata.category(text[at]).startswith("M")
    return _WITHIN_WORD + parted


def _part(passage: Passage, start: int, end: int) -> Passage:
    return replace(passage, text=passage.text[start:end], start=passage.start + start, end=passage.start + end)
