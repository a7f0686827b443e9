"""Cuts a document into passages: runs of whole sentences with a bounded number of words.

Knows text and offsets only; it never looks at files, tokens or models.

The rules, in order:

1. A *word* is a run of up to 20 characters without a space in it. Scripts that put no spaces between words
   (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) count two characters to a word. So every passage is
   bounded, whatever the script, and where no word is long the count is that of `text.split()`.
2. Sentences are packed in order, as many as fit into `max_words`. A sentence that alone is longer is cut at
   its line breaks, and a line that is still longer between two words.
3. A heading (a paragraph of one sentence of at most 8 words) goes with what follows it: up to two of them at
   the end of a passage move on to the next.
4. Where the last passage would have less than a fifth of `max_words`, the last two are divided again, as
   evenly as their sentences allow.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from sentencex import get_sentence_boundaries

from memstore.errors import ConfigError
from memstore.passage import UNSPACED, Document, Passage

LONGEST_WORD = 20  # characters; the rest of a longer run (a URL, a formula) counts as further words
HEADING_WORDS = 8  # a paragraph of one sentence with at most so many words is taken for a heading
HEADINGS_MOVED = 2  # a section's heading and its first subsection's
WINDOW = 4096  # sentencex's time grows by the square of a paragraph without spaces: 5 s for 80,000 Chinese characters
SHORT_LAST = 5  # the last passage is too short below max_words / SHORT_LAST words

_STOPS = "，、；：。！？」』）"  # end a clause in such scripts, and therefore a word
_ENDS = ("\n", "。", "！", "？", ". ", "! ", "? ")  # end a sentence, near enough
_WORD = re.compile(rf"[{_STOPS}]|[{UNSPACED}]{{1,2}}|[^\s{UNSPACED}]{{1,{LONGEST_WORD}}}")
_ASCII_WORD = re.compile(rf"\S{{1,{LONGEST_WORD}}}")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_LINE = re.compile(r"[^\n]+")
_JOINER = "\u200d"  # zero width joiner: holds an emoji sequence together
# sentencex 1.0.32 panics on a space of several bytes before a full stop ("W\u00a0."): it gets plain spaces instead.
_PLAIN_SPACES = {ord(c): " " for c in map(chr, range(0x80, 0x3001)) if c.isspace()}


def count_words(text: str) -> int:
    """Words in `text` by rule 1 of this file: what `max_words` bounds."""
    return len((_ASCII_WORD if text.isascii() else _WORD).findall(text))


def word_starts(text: str) -> list[int]:
    """Where each word begins, words counted by rule 1 of this file."""
    return [word.start() for word in _WORD.finditer(text)]


def split_document(document: Document, *, max_words: int = 100) -> list[Passage]:
    """Cuts a document into passages of at most `max_words` words (`count_words`).

    Spans ascend, do not overlap, and cover every character that is not a space; each passage's text is that
    slice of the document's: `document.text[p.start:p.end] == p.text`, without spaces at either end. Ids are
    `{document.id}:0`, `:1`, ... A document of spaces only has no passages.

    Raises:
        ConfigError: `max_words` is less than 1.
    """
    if max_words < 1:
        raise ConfigError(f"max_words must be at least 1, not {max_words}")
    groups = _pack(_pieces(document.text, max_words), max_words)
    spans = [(group[0].start, group[-1].end) for group in _even_end(groups, max_words)]
    return [
        Passage(
            id=f"{document.id}:{ordinal}",
            document_id=document.id,
            title=document.title,
            text=document.text[start:end],
            url=document.url,
            start=start,
            end=end,
            metadata=document.metadata,
        )
        for ordinal, (start, end) in enumerate(spans)
    ]


@dataclass(slots=True)
class _Piece:
    """A sentence, or a part of one that was too long. Never empty, no spaces at its ends."""

    start: int
    end: int
    words: int
    heading: bool = False


def _pieces(text: str, max_words: int) -> list[_Piece]:
    """Every sentence of `text`, the long ones cut, with headings marked."""
    cuts = {0, len(text)}
    plain = text if text.isascii() else text.translate(_PLAIN_SPACES)  # of the same length
    for first, last in _windows(plain):
        cuts.update(first + boundary["start_index"] for boundary in get_sentence_boundaries("en", plain[first:last]))
    cuts.update(gap.end() for gap in _PARAGRAPH_BREAK.finditer(text))
    pieces: list[_Piece] = []
    for start, end in pairwise(sorted(cuts)):
        sentence = text[start:end].rstrip()
        end = start + len(sentence)
        start = end - len(sentence.lstrip())
        if start == end:
            continue
        words = count_words(sentence)
        if words <= max_words:
            pieces.append(_Piece(start, end, words))
        else:
            pieces.extend(_cut_sentence(text, start, end, max_words))
    _mark_headings(text, pieces)
    return pieces


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the text, one after another, that the sentence splitter gets: all of it where it is ASCII, else at most
    `WINDOW` characters, cut where a paragraph ends; without one a line or a sentence; without these anywhere.
    """
    first = 0
    while not text.isascii() and len(text) - first > WINDOW:
        part = text[first : first + WINDOW]
        paragraph = part.rfind("\n\n") + 1
        first, before = first + (paragraph or max(map(part.rfind, _ENDS)) + 1 or WINDOW), first
        yield before, first
    yield first, len(text)


def _mark_headings(text: str, pieces: list[_Piece]) -> None:
    """Sets `heading` on each short piece that is a paragraph of its own and has another one after it."""
    begins = True  # whether a paragraph begins at this piece
    for piece, following in pairwise(pieces):
        ends = text.count("\n", piece.end, following.start) > 1
        piece.heading = begins and ends and piece.words <= HEADING_WORDS
        begins = ends


def _cut_sentence(text: str, start: int, end: int, max_words: int) -> Iterator[_Piece]:
    """A sentence of more than `max_words` words: its lines, and of a longer line runs of whole words."""
    for line in _LINE.finditer(text, start, end):
        words = [word.start() for word in _WORD.finditer(text, line.start(), line.end())]
        first = 0
        while first < len(words):
            after = _cut_point(text, words, first, max_words)
            stop = words[after] if after < len(words) else line.end()
            run = text[words[first] : stop].rstrip()
            yield _Piece(words[first], words[first] + len(run), after - first)
            first = after


def _cut_point(text: str, words: list[int], first: int, max_words: int) -> int:
    """The index in `words` (offsets of words) at which the run of words from `first` should end.

    The last space or clause end within the latter half of the limit; else the last place that does not part
    a letter from its marks or an emoji from its sequence; else the limit.
    """
    limit = first + max_words
    if limit >= len(words):
        return len(words)
    for index in range(limit, first + (max_words + 1) // 2 - 1, -1):
        before = text[words[index] - 1]
        if before.isspace() or before in _STOPS:
            return index
    for index in range(limit, first, -1):
        around = text[words[index] - 1 : words[index] + 1]
        if _JOINER not in around and not unicodedata.category(around[1]).startswith("M"):
            return index
    return limit


def _pack(pieces: list[_Piece], max_words: int) -> list[list[_Piece]]:
    """Pieces in order, as many to a group as fit, without headings at a group's end."""
    groups: list[list[_Piece]] = []
    group: list[_Piece] = []
    words = 0
    for piece in pieces:
        if group and words + piece.words > max_words:
            keep = len(group) - _headings_to_move(group, max_words - piece.words)
            groups.append(group[:keep])
            group = group[keep:]
            words = sum(moved.words for moved in group)
        group.append(piece)
        words += piece.words
    if group:
        groups.append(group)
    return groups


def _headings_to_move(group: list[_Piece], room: int) -> int:
    """How many headings at the end of `group` go on to the next one, which has `room` words left for them."""
    moved = 0
    for piece in reversed(group[1:]):
        room -= piece.words
        if not piece.heading or moved == HEADINGS_MOVED or room < 0:
            break
        moved += 1
    return moved


def _even_end(groups: list[list[_Piece]], max_words: int) -> list[list[_Piece]]:
    """Divides the last two groups again where the last one is too short (rule 4)."""
    if len(groups) < 2 or sum(piece.words for piece in groups[-1]) * SHORT_LAST >= max_words:
        return groups
    both = groups[-2] + groups[-1]
    total = sum(piece.words for piece in both)
    best, best_gap, before = len(groups[-2]), total, 0
    for cut, piece in enumerate(both[:-1], start=1):
        before += piece.words
        gap = abs(total - 2 * before)
        if gap < best_gap and not piece.heading and max(before, total - before) <= max_words:
            best, best_gap = cut, gap
    return [*groups[:-2], both[:best], both[best:]]
