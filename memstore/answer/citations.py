"""Where an answer stands in the passages that were read. Knows texts, no model.

Words must be the same and whole; case, accents, and the signs and spaces between words do not count. Spans are offsets
into the text as it is stored, in characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from memstore.passage import UNSPACED, RankedPassage

Span = tuple[int, int]

_LETTER = rf"[^\W_{UNSPACED}]"  # of scripts that put spaces between words
_WORDS = re.compile(r"[^\W_]+")
_BETWEEN = r"[\W_]{1,4}"  # what may be between two words: "U.S.", "co-founder"
_IN_NUMBERS = r"(?<=\d)[\W_]{0,4}(?=\d)"  # "1,000" is "1000"
COMMON = """a an and are as at be by for from he her his in is it its no not of on or she supports refutes that the
their they this to was were which who with yes"""
_COMMON = frozenset(COMMON.split())
"""Words that stand everywhere, or are verdicts: an answer of nothing else proves nothing by standing in a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A place where the answer stands: `text[start:end]` of a passage that was read.

    `attention` is the passage's share of the reader's cross-attention, where that was asked for.
    """

    passage_id: str
    start: int
    end: int
    attention: float | None = None


def citations(answer: str, passages: Sequence[RankedPassage]) -> tuple[Citation, ...]:
    """All places of the answer in the passages that were read, in their order; none of one that cannot be cited."""
    search = Occurrences(answer)
    return tuple(
        Citation(passage_id=one.passage.id, start=start, end=end, attention=one.attention)
        for one in passages
        if one.kept
        for start, end in search.spans(one.passage.text)
    )


class Occurrences:
    """Searches texts for an answer.

    >>> Occurrences("U.S. co founder").spans("For us co-founders, the U.S. Co-founder.")
    [(24, 39)]
    """

    def __init__(self, answer: str) -> None:
        words = _WORDS.findall(_folded(answer)[0])
        self._first = words[0] if words else ""
        self._pattern = None if all(word in _COMMON for word in words) else _pattern(words)

    def spans(self, text: str) -> list[Span]:
        """Start and end of each place, ascending, none within another."""
        if self._pattern is None:
            return []
        if text.isascii():
            lower = text.lower()
            return [m.span() for m in self._pattern.finditer(lower)] if self._first in lower else []
        if self._first not in unicodedata.normalize("NFKD", text).casefold().translate(_MARKS):
            return []  # the usual case, at a tenth of the cost
        folded, starts, ends = _folded(text)
        return [(starts[m.start()], ends[m.end() - 1]) for m in self._pattern.finditer(folded)]


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    body = f"(?:{_IN_NUMBERS}|{_BETWEEN})".join(map(re.escape, words))
    before = "" if _is_unspaced(words[0][0]) else f"(?<!{_LETTER})"
    after = "" if _is_unspaced(words[-1][-1]) else f"(?!{_LETTER})"
    return re.compile(before + body + after)


_MARKS = dict.fromkeys(c for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) == "Mn")
_UNSPACED = re.compile(f"[{UNSPACED}]")


def _is_unspaced(character: str) -> bool:
    return _UNSPACED.match(character) is not None


def _folded(text: str) -> tuple[str, list[int], list[int]]:
    """The text in small letters without accents, and for each of its characters where it is from: start and end."""
    if text.isascii():
        places = list(range(len(text) + 1))
        return text.lower(), places[:-1], places[1:]
    folded, starts, ends = [], list[int](), list[int]()
    for at, character in enumerate(text):
        for part in character.lower() if character.isascii() else unicodedata.normalize("NFKD", character).casefold():
            if unicodedata.category(part) == "Mn":  # an accent: of the character before
                if ends:
                    ends[-1] = at + 1
                continue
            folded.append(part)
            starts.append(at)
            ends.append(at + 1)
    return "".join(folded), starts, ends


def question_words(question: str, text: str) -> float:
    """The share of a question's words that a text has; words that stand everywhere do not count. 0 without any."""
    asked = {word for word in _WORDS.findall(question.lower()) if word not in _COMMON and word not in _ASKING}
    return len(asked & set(_WORDS.findall(text.lower()))) / len(asked) if asked else 0.0


ASKING = "what when where which who whom whose why how did does do many much sep"
_ASKING = frozenset(ASKING.split())
