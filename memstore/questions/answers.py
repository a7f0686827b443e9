"""Where an answer is found: text normalised, and answers looked for between word boundaries.

Normalising: compatibility forms, lower case; a possessive 's stands alone; apostrophes, full stops and commas
vanish ("U.S." is "us", "1,000" is "1000"), every other sign becomes a space ("1939-1945" are two words); the
articles a, an and the go; one space between words. Both sides go the same way. Knows text only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LABELS = frozenset({"supports", "refutes", "not enough info", "yes", "no"})
"""Answers that are verdicts, not words of a passage: finding them in one means nothing."""

_POSSESSIVE = re.compile(r"['’]s\b")
_VANISH = re.compile(r"['’.,`]")
_SIGNS = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """The text by the rule above; words with single spaces between them."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    text = _VANISH.sub("", _POSSESSIVE.sub(" s", text.lower()))
    return " ".join(_ARTICLES.sub(" ", _SIGNS.sub(" ", text)).split())


def searchable_answers(answers: Iterable[str]) -> list[str]:
    """Answers as they are looked for: normalised, each once, without labels and without empty ones."""
    found = dict.fromkeys(normalise(answer) for answer in answers)
    return [answer for answer in found if answer and answer not in LABELS]


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers stands in the text, as whole words; both already normalised."""
    padded = f" {text} "
    return any(f" {answer} " in padded for answer in answers)


def same_title(one: str, other: str) -> bool:
    """Whether two page titles are the same: case of the first letter, underscores and spaces aside."""
    return _title(one) == _title(other)


def _title(title: str) -> str:
    title = " ".join(unicodedata.normalize("NFC", title).replace("_", " ").split())
    return title[:1].upper() + title[1:]
