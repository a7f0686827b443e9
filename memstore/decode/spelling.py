"""An answer as its passages spell it: for models whose tokenizer folds case and spaces. Knows text alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence


def spelled(answer: str, texts: Sequence[str]) -> str:
    """The answer's first occurrence in the texts, as it is written there; the answer itself if it occurs nowhere.

    Words must be the same but for case, and be whole; signs and spaces between them are the text's. Where no text holds
    it so, their composed forms are searched (NFKC, which tokenizers read): accents in a text may be signs of their own.
    Signs on a letter, such as Hindi's vowels, belong to the word: another sign makes another word.

    >>> spelled("the u.s. co founder", ["He was the U.S. co-founder of it."])
    'the U.S. co-founder'

    Args:
        answer: as decoded.
        texts: passages, the most trusted one first.
    """
    searched = [*texts, *(unicodedata.normalize("NFKC", t) for t in texts)]
    letters = rf"\w{_marks([answer, *searched])}"
    words = re.findall(f"[{letters}]+", answer)
    if not words:
        return answer
    head, tail = answer[: answer.index(words[0])].strip(), answer[answer.rindex(words[-1]) + len(words[-1]) :].strip()
    between = rf"[^{letters}\n]{{0,4}}"  # what may be between two words: "U.S.", "co-founder", "1,000"
    body = rf"(?<![{letters}]){between.join(map(re.escape, words))}(?![{letters}])"
    edges = rf"(?:{re.escape(head)}\s?)?" if head else "", rf"(?:\s?{re.escape(tail)})?" if tail else ""
    pattern = re.compile(edges[0] + body + edges[1], re.IGNORECASE)
    for text in searched:
        if match := pattern.search(text):
            return match[0]
    return answer


def _marks(texts: Iterable[str]) -> str:
    r"""Each combining sign in the texts, which `\w` leaves out, once and in order."""
    return "".join(c for c in sorted(set().union(*texts)) if unicodedata.category(c).startswith("M"))
