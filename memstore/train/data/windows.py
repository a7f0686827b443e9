"""Cuts passages to windows, for short training rows: the title, and the tokens around what is asked for.

A passage begins with a head: its title, and the words that the template puts around it. A window keeps the head, so
that a cut passage still looks like a passage. Knows token ids; refuses to know questions, tasks and caches.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from memstore.model.tokens import TextTokenizer
from memstore.train.data.ragged import Ints

_LONGEST_TEMPLATE = 64  # tokens of a template before its text, at most
_HEAD_SHARE = 0.5  # of a window, at most: a longer head is left out


class Windows:
    """Cuts passages of one tokenizer and template."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._eos = tokenizer.config.eos_token_id
        before, title, after = tokenizer.config.passage_template.partition("{title}")
        between, text, _ = after.partition("{text}")
        if not (title and text):
            before = between = ""  # the template has no title before the text

        def ids(template: str) -> Ints:
            return tokenizer.encode_answers([template.rstrip()], max_tokens=_LONGEST_TEMPLATE)[0][:-1]

        # The template's words after a title are encoded after one, "a": at the beginning of a text the same words may
        # have other tokens.
        self._before, self._between = ids(before), ids(f"{before}a{between}")[len(ids(f"{before}a")) :]

    def cut(self, tokens: Ints, around: tuple[int, int] | None, most: int, rng: Generator) -> Ints:
        """At most `most` tokens of a passage, eos included: its head, and a random window of the rest. See `places`."""
        return tokens[self.places(tokens, around, most, rng)]

    def places(self, tokens: Ints, around: tuple[int, int] | None, most: int, rng: Generator) -> Ints:
        """Which tokens of a passage `cut` keeps, ascending.

        Args:
            tokens: the passage with its eos.
            around: `[begin, end)`, a place that the window holds if it can. The head is dropped if both do not fit.
            most: at least 2.
            rng: draws the window's place.
        """
        if len(tokens) <= most:
            return np.arange(len(tokens))
        begin, end = around or (0, 0)
        head = self._head(tokens, most)
        if end - max(begin, head) > most - head - 1:
            head = 0
        room = most - head - 1  # the last token is eos
        # The window begins at `low` at the earliest, at `high` at the latest. To hold [begin, end) it must not begin
        # before end - room, nor after begin.
        low, high = head, len(tokens) - 1 - room
        if end > head:
            low = min(high, max(low, end - room))
            high = max(low, min(high, begin))
        at = int(rng.integers(low, high + 1))
        return np.concatenate([np.arange(head), np.arange(at, at + room), [len(tokens) - 1]])

    def title(self, tokens: Ints) -> Ints:
        """The title that a passage begins with; empty if it has none, or the head is over half of the passage."""
        end = self._head(tokens, len(tokens))
        return tokens[len(self._before) : end - len(self._between)] if end else tokens[:0]

    def _head(self, tokens: Ints, most: int) -> int:
        """The number of tokens in the head; 0 if it would take too much of the window.

        A title that itself holds the template's words after a title, such as the colon in "Terminator 2: Judgment Day",
        is taken to end there.
        """
        begin = len(self._before)
        if not np.array_equal(tokens[:begin], self._before):
            return 0
        found = find(tokens[begin : int(most * _HEAD_SHARE)], self._between)
        return begin + found[1] if found else 0


def beginning(tokens: Ints, most: int) -> Ints:
    """Which tokens of a passage stay if it is cut to its beginning: all, or the first `most - 1` and eos."""
    n = len(tokens)
    return np.arange(n) if n <= most else np.append(np.arange(most - 1), n - 1)


def find(tokens: Ints, wanted: Ints) -> tuple[int, int] | None:
    """`[begin, end)` of the first occurrence of `wanted` in `tokens`; None if there is none, or `wanted` is empty."""
    n = len(wanted)
    if not 0 < n <= len(tokens):
        return None
    # Row i is a view of tokens[i : i + n]: one comparison over all places, without copies.
    places = np.lib.stride_tricks.sliding_window_view(tokens, n)
    hits = np.flatnonzero((places == wanted).all(axis=1))
    return (int(hits[0]), int(hits[0]) + n) if len(hits) else None
