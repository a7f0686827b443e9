"""Whether a text holds an answer: both are normalised, then the answer is searched for as whole words.

To normalise is, in this order:

1. Unicode compatibility forms (NFKC), lower case;
2. a possessive 's becomes a word of its own;
3. apostrophes, full stops and commas are dropped: "U.S." is "us", "1,000" is "1000";
4. every other sign becomes a space: "1939-1945" are two words;
5. the articles a, an and the are dropped;
6. one space between words.

Knows text only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LABELS = frozenset({"supports", "refutes", "not enough info", "yes", "no"})
"""Answers that are verdicts on a claim. A passage that holds such a word proves nothing."""

_POSSESSIVE = re.compile(r"['’]s\b")
_DROPPED = re.compile(r"['’.,`]")
_SIGNS = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """The text, normalised by the rules above: words with single spaces between them.

    >>> normalise("Curie's 1,000 letters (1939-1945), in the U.S.")
    'curie s 1000 letters 1939 1945 in us'
    """
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    text = _DROPPED.sub("", _POSSESSIVE.sub(" s", text.lower()))
    return " ".join(_ARTICLES.sub(" ", _SIGNS.sub(" ", text)).split())


def searchable_answers(answers: Iterable[str]) -> list[str]:
    """Answers to search for: normalised, each once, without verdicts and without empty ones."""
    found = dict.fromkeys(normalise(answer) for answer in answers)
    return [answer for answer in found if answer and answer not in LABELS]


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether the text holds one of the answers as whole words. Both are normalised already.

    >>> holds("in us since 1901", ["us"]), holds("musical", ["us"])
    (True, False)
    """
    padded = f" {text} "  # so that the first and the last word have a space on both sides too
    return any(f" {answer} " in padded for answer in answers)


def same_title(one: str, other: str) -> bool:
    """Whether two page titles are the same. The case of the first letter is ignored; an underscore is a space."""
    return _title(one) == _title(other)


def _title(title: str) -> str:
    title = " ".join(unicodedata.normalize("NFC", title).replace("_", " ").split())
    return title[:1].upper() + title[1:]
