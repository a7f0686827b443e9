"""Windows of passages for short training rows: behind the title, and around what is asked for.

A passage begins with its title and the words that the template puts around it; a window keeps that head, so that a
cut passage looks like a passage. Knows token ids; refuses to know questions, tasks and caches.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from memstore.model.tokens import TextTokenizer
from memstore.train.data.ragged import Ints

_LONGEST_TEMPLATE = 64  # tokens of what a template has before the text
_HEAD_SHARE = 0.5  # of a window at most: longer titles are left out


class Windows:
    """Cuts passages of one tokenizer and template."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._eos = tokenizer.config.eos_token_id
        before, title, behind = tokenizer.config.passage_template.partition("{title}")
        between, text, _ = behind.partition("{text}")
        if not (title and text):
            before = between = ""  # no title stands before the text

        def ids(template: str) -> Ints:
            return tokenizer.encode_answers([template.rstrip()], max_tokens=_LONGEST_TEMPLATE)[0][:-1]

        # What stands behind a title, as it is cut there: at the beginning of a text it might be other tokens.
        self._before, self._between = ids(before), ids(f"{before}a{between}")[len(ids(f"{before}a")) :]

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
        return tokens[len(self._before) : end - len(self._between)] if end else tokens[:0]

    def _head(self, tokens: Ints, most: int) -> int:
        """Tokens of the title and what stands around it; 0 if they would take too much of the window.

        A title in which the words behind a title stand already, such as "Terminator 2: Judgment Day", ends there.
        """
        begin = len(self._before)
        if not np.array_equal(tokens[:begin], self._before):
            return 0
        found = find(tokens[begin : int(most * _HEAD_SHARE)], self._between)
        return begin + found[1] if found else 0


def find(tokens: Ints, wanted: Ints) -> tuple[int, int] | None:
    """`[begin, end)` of the first place where `wanted` stands in `tokens`; None if nowhere, or nothing is wanted."""
    n = len(wanted)
    if not 0 < n <= len(tokens):
        return None
    places = np.lib.stride_tricks.sliding_window_view(tokens, n)
    hits = np.flatnonzero((places == wanted).all(axis=1))
    return (int(hits[0]), int(hits[0]) + n) if len(hits) else None
