"""Windows of passages for short training rows: behind the title, and around what is asked for.

A passage begins with its title and the words that the template puts behind it; a window keeps that head, so that a
cut passage looks like a passage. Knows token ids; refuses to know questions, tasks and caches.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from memstore.tokens import TextTokenizer
from memstore.train.ragged import Ints

_LONGEST_MARK = 64  # tokens of what a template puts behind the title
_HEAD_SHARE = 0.5  # of a window at most: longer titles are left out


class Windows:
    """Cuts passages of one tokenizer and template."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._eos = tokenizer.config.eos_token_id
        _, _, behind_title = tokenizer.config.passage_template.partition("{title}")
        mark = behind_title.partition("{text}")[0].strip()
        ids = tokenizer.encode_answers([mark], max_tokens=_LONGEST_MARK)[0].tolist() if mark else []
        self._mark = ids[-2] if len(ids) > 1 else None  # the last token between title and text; eos is behind it
        self._marks = ids[:-1]

    def cut(self, tokens: Ints, around: tuple[int, int] | None, most: int, rng: Generator) -> Ints:
        """At most `most` tokens of a passage, eos included: its head, and a random window of the rest.

        Args:
            tokens: the passage with its eos.
            around: `[begin, end)` that the window holds, if it fits; the head gives way to it.
            most: at least 2.
            rng: places the window.
        """
        if len(tokens) <= most:
            return tokens
        begin, end = around or (0, 0)
        head = self._head(tokens, most)
        if end - max(begin, head) > most - head - 1:
            head = 0  # what is asked for needs its room
        room = most - head - 1
        low, high = head, len(tokens) - 1 - room
        if end > head:
            low = min(high, max(low, end - room))
            high = max(low, min(high, begin))
        at = int(rng.integers(low, high + 1))
        return np.concatenate([tokens[:head], tokens[at : at + room], [self._eos]])

    def title(self, tokens: Ints) -> Ints:
        """The title that a passage begins with; empty where the template shows none, or it takes half the passage."""
        end = self._head(tokens, len(tokens))
        while end and tokens[end - 1] in self._marks:
            end -= 1
        return tokens[:end]

    def _head(self, tokens: Ints, most: int) -> int:
        """Tokens of the title and what is behind it; 0 if they would take too much of the window."""
        if self._mark is None:
            return 0
        marks = np.flatnonzero(tokens[: int(most * _HEAD_SHARE)] == self._mark)
        return int(marks[0]) + 1 if len(marks) else 0


def find(tokens: Ints, wanted: Ints) -> tuple[int, int] | None:
    """`[begin, end)` of the first place where `wanted` stands in `tokens`; None if nowhere, or nothing is wanted."""
    n = len(wanted)
    if not 0 < n <= len(tokens):
        return None
    places = np.lib.stride_tricks.sliding_window_view(tokens, n)
    hits = np.flatnonzero((places == wanted).all(axis=1))
    return (int(hits[0]), int(hits[0]) + n) if len(hits) else None
