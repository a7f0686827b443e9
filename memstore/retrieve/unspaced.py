"""Text as the lexical index wants it: characters in one spelling, scripts without spaces in pairs, no endless words.

An index of words cuts text where there is no letter, which makes one word of a whole Chinese clause: no question
holds it. Pairs of neighbouring letters are what Lucene's CJK analyzer uses: every word of two letters or more is
found by its pairs, in a question as in a passage, without a dictionary. Korean is cut too, whose words carry their
particles. Knows text alone.
"""

from __future__ import annotations

import re
import unicodedata

from memstore.passage import UNSPACED

_HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"
_RUN = re.compile(f"[{_HANGUL}{UNSPACED}]+")
_LETTER = r"[^\W_]"
_LETTERS = re.compile(f"{_LETTER}+")


def spaced(text: str) -> str:
    """The text in NFKC, with each run of letters without spaces as its pairs: `北京的map` becomes `北京 京的 map`.

    Marks above and below such letters are left out, as the index would cut there; a letter alone stays one.

    >>> spaced("北京市的map").split()
    ['北京', '京市', '市的', 'map']
    """
    return text if text.isascii() else _RUN.sub(_pairs, unicodedata.normalize("NFKC", text))


def _pairs(run: re.Match[str]) -> str:
    letters = "".join(c for c in run[0] if not unicodedata.category(c).startswith("M"))
    pairs = (word[i : i + 2] for word in _LETTERS.findall(letters) for i in range(max(1, len(word) - 1)))
    return f" {' '.join(pairs)} "


def cut_words(text: str, longest: int) -> str:
    """The text with a space after every `longest` letters and digits of a word that has more.

    The cuts count from the word's beginning, so the same word becomes the same pieces in every text.

    >>> cut_words("of internationalisation", 8)
    'of internat ionalisa tion'
    """
    if not _may_have_longer(text, longest):
        return text
    return re.sub(f"{_LETTER}{{{longest}}}(?={_LETTER})", r"\g<0> ", text)


def _may_have_longer(text: str, longest: int) -> bool:
    """Whether there are more than `longest` characters without a space between them.

    Looks for the last space of each stretch, so it reads few characters of ordinary text.
    """
    first = 0
    while first + longest < len(text):
        space = text.rfind(" ", first, first + longest + 1)
        if space < 0:
            return True
        first = space + 1
    return False
