"""An answer as its passages spell it: for models whose tokenizer folds case and spaces. Knows text alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain

_WORD = re.compile(r"\w+")
_BETWEEN = r"[^\w\n]{0,4}"  # what may stand between two words of an answer: "U.S.", "co-founder", "1,000"


def spelled(answer: str, texts: Sequence[str]) -> str:
    """The answer's first occurrence in the texts, as it stands there; the answer itself if it stands nowhere.

    Words must be the same but for case, and be whole; signs and spaces between them are the text's. Where no text holds
    it so, their composed forms are searched (NFKC, which tokenizers read): accents in a text may be signs of their own.

    Args:
        answer: as decoded.
        texts: passages, the most trusted one first.
    """
    words = _WORD.findall(answer)
    if not words:
        return answer
    head, tail = answer[: answer.index(words[0])].strip(), answer[answer.rindex(words[-1]) + len(words[-1]) :].strip()
    body = _BETWEEN.join(map(re.escape, words))
    edges = f"(?:{re.escape(head)}\\s?)?", f"(?:\\s?{re.escape(tail)})?"
    pattern = re.compile(rf"{edges[0] if head else ''}(?<!\w){body}(?!\w){edges[1] if tail else ''}", re.IGNORECASE)
    for text in chain(texts, (unicodedata.normalize("NFKC", t) for t in texts)):
        if match := pattern.search(text):
            return match[0].strip()
    return answer
