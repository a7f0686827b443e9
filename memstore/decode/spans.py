"""Answers that are spans of what is read, or one of a few whole phrases: which tokens may come next.

As constrained decoding allows the tokens that lead to a known name (GENRE, arXiv 2010.00904, section 3.2), with the
passages' spans in the place of the names: the places where what was written occurs are followed token by token.
Knows token ids alone; refuses to know texts and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from memstore.model.model import Encoded

Phrases = Sequence[Sequence[int]]


@dataclass(slots=True)
class Spans:
    """Which tokens may extend the answers of B questions, in N = B * beams rows, over S tokens of passages and phrases.

    Attributes:
        ids: `(B, S)`: the tokens of the passages read, then those of the phrases.
        follows: `(B, S)` bool: whether a token continues the one before it.
        ends: `(B, S)` bool: whether an answer may end after a token: anywhere in passages, at the end of a phrase.
        may: `(B, beams, S)` bool: whether a token may come next.
        over: `(B, beams)` bool: whether eos may come next.
        vocab_size, eos: V, and its end.
    """

    ids: Tensor
    follows: Tensor
    ends: Tensor
    may: Tensor
    over: Tensor
    vocab_size: int
    eos: int

    @classmethod
    def of(cls, encoded: Encoded, phrases: Phrases, *, vocab_size: int, eos: int, beams: int = 1) -> Self:
        """The beginning: any token of a passage, or the first of a phrase, but not eos.

        Args:
            encoded: what the decoder reads, B questions.
            phrases: token ids, without eos.
            vocab_size: V.
            eos: ends answers; no span holds it.
            beams: rows per question.
        """
        ids = encoded.layout.pad(encoded.token_ids)  # (B, S)
        inside = encoded.layout.pad(encoded.from_passage) & (ids != eos)
        follows = inside & inside.roll(1, dims=1)
        follows[:, :1] = False
        words = [t for phrase in phrases for t in phrase]
        first = [i == 0 for phrase in phrases for i in range(len(phrase))]
        last = [i == len(phrase) - 1 for phrase in phrases for i in range(len(phrase))]

        def joined(of_passages: Tensor, of_phrases: Sequence[int]) -> Tensor:
            more = torch.tensor(of_phrases, dtype=of_passages.dtype, device=ids.device)
            return torch.cat([of_passages, more.expand(len(ids), -1)], dim=1)

        return cls(
            ids=joined(ids, words),
            follows=joined(follows, [not f for f in first]),
            ends=joined(inside, last),
            may=joined(inside, first)[:, None].repeat(1, beams, 1),
            over=torch.zeros(len(ids), beams, dtype=torch.bool, device=ids.device),
            vocab_size=vocab_size,
            eos=eos,
        )

    def allowed(self) -> Tensor:
        """`(N, V)` bool: the tokens that may come next; all of them for a row that nothing is left for."""
        questions, beams, _ = self.may.shape
        nowhere = torch.where(self.may, self.ids[:, None], self.vocab_size)  # one place more than there are tokens
        allowed = torch.zeros(questions, beams, self.vocab_size + 1, dtype=torch.bool, device=self.ids.device)
        allowed = allowed.scatter_(2, nowhere, value=True)[..., : self.vocab_size]
        allowed[..., self.eos] = self.over
        return (allowed | ~allowed.any(2, keepdim=True)).flatten(0, 1)

    def extend(self, tokens: Tensor) -> None:
        """Go on after the tokens `(N,)` that were written."""
        written = self.may & (self.ids[:, None] == tokens.view(*self.over.shape, 1))
        self.over = (written & self.ends[:, None]).any(2)
        self.may = written.roll(1, dims=2) & self.follows[:, None]

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue row `rows[i]`, one of the same question, `(N,)`."""
        self.may = self.may.flatten(0, 1)[rows].view_as(self.may)
        self.over = self.over.flatten()[rows].view_as(self.over)

    def take(self, questions: Tensor) -> None:
        """Keep only the questions with the given indices `(B',)`, with all their beams."""
        self.ids, self.follows, self.ends = self.ids[questions], self.follows[questions], self.ends[questions]
        self.may, self.over = self.may[questions], self.over[questions]
