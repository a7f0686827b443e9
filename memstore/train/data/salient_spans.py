"""Finds the sentences of a text, and the salient spans in them: names, dates and numbers, by rules. Knows text only.

A sentence ends at a full stop, question mark or exclamation mark, with the closing quotes and brackets after it, if
white space and then a capital, a digit, or an opening quote or bracket follow. It does not end after an initial or a
common abbreviation. Every line break ends a sentence.

A salient span is, the first rule that fits:

1. a date: day, month and year in either order, month and year, or day and month ("4 July 1776", "May 1968");
2. a number: digits with inner points and commas ("1914", "2.5", "1,000,000"), not inside a word, with % if it follows;
3. a name: a run of capitalised words, joined by single spaces, hyphens or a particle ("of", "the", "de", "van", ...)
   between two of them. Function words at its beginning ("The", "In") do not count. The first word of a sentence has a
   capital anyway: there a name has at least two words, unless a function word was left out before it.

Text that its sentence repeats is no span: the other place would give it away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

YEAR = r"1\d\d\d|20\d\d"
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_MONTH = rf"(?:{MONTHS}|Jan\.|Feb\.|Aug\.|Sept\.|Oct\.|Nov\.|Dec\.)"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}} {_MONTH}(?:,? \d{{3,4}})?|{_MONTH} \d{{1,2}}(?:, \d{{3,4}})?|{_MONTH},? \d{{3,4}})(?!\w)"
)
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?:%|(?!\w))")
_UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĖĘĚĞĢĪĮİĶĹĻĽŁŃŅŇŌŐŒŘŚŞŠŢŤŪŮŰŲŹŻŽ"
_CAPITAL = rf"[{_UPPER}][\w’'&]*(?:\.(?=[ ]?[{_UPPER}]))?"  # "J." goes on if a capital follows
_PARTICLE = r"(?:of the|of|the|de la|de|del|della|di|da|van der|van|von|el|al|bin|ibn|la|le|du)"
_NAME = re.compile(rf"(?<![\w'’.-]){_CAPITAL}(?:(?:[ -]|(?: {_PARTICLE} )|(?<=\.)){_CAPITAL})*(?!\w)")
_FUNCTION_WORDS = """
a an the this that these those he she it they we i you his her its their our my your in on at of for from to
by with as after before during since until while when where who what which why how if although though because
but and or so then there here also however later many most some all both each every other another one two
three no not there's it's is are was were be been has have had do does did can could may might will would should under
over between among about through into like unlike such only even today now once often sometimes usually people
several few according despite
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that name nothing, in lower case."""
_END = re.compile(rf"[.!?][\"'”’)\]]*(?=\s+[{_UPPER}\d\"'“‘(\[])|\n+")
_ABBREVIATION = re.compile(
    rf"(?:\b[{_UPPER}]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Lt|Capt|Sgt|Rev|vs|etc|No|Vol|ca|approx|Inc|Ltd|Co|Corp"
    r"|Mt|Ft|Sen|Gov|Rep|Pres|i\.e|e\.g|U\.S|U\.K|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec|b|d|r|c|p|pp))\.$"
)


def sentences(text: str) -> list[Span]:
    """The character spans of the sentences, without white space around them."""
    found, begin = [], 0
    for end in (*_ends(text), len(text)):
        piece = text[begin:end]
        if stripped := piece.strip():
            start = begin + piece.index(stripped[0])
            found.append((start, start + len(stripped)))
        begin = end
    return found


def _ends(text: str) -> Iterator[int]:
    for match in _END.finditer(text):
        if match[0][0] != "." or not _ABBREVIATION.search(text, max(0, match.start() - 8), match.start() + 1):
            yield match.end()


def salient(sentence: str) -> list[Span]:
    """The character spans of names, dates and numbers in one sentence, ascending; no two overlap."""
    taken: list[Span] = []
    for pattern in (_DATE, _NUMBER):
        taken += [m.span() for m in pattern.finditer(sentence) if not _overlaps(m.span(), taken)]
    for match in _NAME.finditer(sentence):
        span = _name(sentence, match.start(), match.end())
        if span is not None and not _overlaps(span, taken):
            taken.append(span)
    lower = sentence.lower()
    return [
        (a, b) for a, b in sorted(taken) if lower.count(sentence[a:b].lower()) == 1
    ]  # not lower[a:b]: "İ" has two characters in lower case


def _name(sentence: str, start: int, end: int) -> Span | None:
    """The name within a run of capitalised words, or None."""
    initial = not sentence[:start].strip(" \"'“‘([")
    words = list(re.finditer(r"[^ ]+", sentence[start:end]))
    first = 0
    while first < len(words) and words[first][0].lower() in FUNCTION_WORDS:
        first += 1
    kept = words[first:]
    if not kept or (initial and first == 0 and len(kept) < 2):
        return None
    begin = start + kept[0].start()
    name = sentence[begin:end].removesuffix("'s").removesuffix("’s")
    return (begin, begin + len(name)) if len(name) > 1 else None


def _overlaps(span: Span, others: list[Span]) -> bool:
    return any(span[0] < b and a < span[1] for a, b in others)
