"""Drops words from token sequences at random.

Knows token ids and where words begin; refuses to know questions, passages and caches.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tokenizers import Tokenizer

from memstore.model.tokens import TextTokenizer
from memstore.train.data.ragged import Ints

WORD_MARKS = ("▁", "Ġ")  # how SentencePiece and byte-level vocabularies write the space before a word


class Words:
    """Drops words: knows which tokens of a vocabulary begin a word."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        vocabulary = Tokenizer.from_str(tokenizer.json).get_vocab(with_added_tokens=True)
        starts = np.zeros(max(tokenizer.config.vocab_size, max(vocabulary.values()) + 1), dtype=bool)
        starts[[i for token, i in vocabulary.items() if token.startswith(WORD_MARKS)]] = True
        self._starts: NDArray[np.bool_] = starts

    def thinned(self, tokens: Ints, keep: float, rng: Generator, *, least: int = 1) -> Ints:
        """The tokens without some words, which are chosen at random.

        Args:
            tokens: `(n,)`. Tokens before the first that begins a word are a word too.
            keep: the probability that a word stays.
            rng: draws once for each word.
            least: at least this many words stay, 0 or 1.
        """
        if not len(tokens):
            return tokens
        word = self._word_of(tokens)
        kept = rng.random(int(word[-1]) + 1) < keep
        if kept.sum() < least:
            kept[int(rng.integers(len(kept)))] = True
        thinned: Ints = tokens[kept[word]]
        return thinned

    def without(self, tokens: Ints, others: Ints) -> Ints:
        """The tokens without the words that consist only of tokens in `others`."""
        if not len(tokens):
            return tokens
        word = self._word_of(tokens)
        different = np.bincount(word, weights=~np.isin(tokens, others)) > 0
        rest: Ints = tokens[different[word]]
        return rest

    def _word_of(self, tokens: Ints) -> NDArray[np.int64]:
        """`(n,)`: the number of each token's word, from 0."""
        word: NDArray[np.int64] = np.cumsum(self._starts[tokens], dtype=np.int64)
        word -= word[0]
        return word
