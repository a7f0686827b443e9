"""Rows of unequal length without padding: states are `(T, D)`, one row after another, plus the rows' lengths.

Linear layers, norms and feed-forwards run on the packed tokens; only attention sees a padded view. Nothing is
ever padded on the left, so no distance between a question token and a passage token depends on the batch.
This file knows index arithmetic and refuses to know any layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


def rounded(size: int) -> int:
    """`size` rounded up to one of 16 sizes per power of two: at most 6% more, 3% on average.

    Matrix libraries keep what they prepared for every shape they meet (oneDNN about 1 MB each, 1,024 of them, and
    that fragments the heap): passages of all lengths made a builder grow by 2 GB, so shapes must be few.
    """
    granule = 1 << max(0, (max(size, 1) - 1).bit_length() - 5)
    return -(-size // granule) * granule


class Layout:
    """Lengths of the rows of a packed tensor, and the way to a padded view and back.

    Attributes:
        lengths: `(R,)` int64 on the CPU.
        rows, longest, tokens: R, the longest row, and T = the sum of the lengths.
        width: L, what rows are padded to: `longest`, rounded.
        filled: T, rounded: how many tokens linear layers see. What is behind T is filler: computed, never read.
    """

    def __init__(self, lengths: Tensor | Sequence[int]) -> None:
        self.lengths = torch.as_tensor(lengths, dtype=torch.int64, device="cpu")
        self.rows = len(self.lengths)
        self.longest = int(self.lengths.max()) if self.rows else 0
        self.tokens = int(self.lengths.sum())
        self.width = rounded(self.longest)
        self.filled = rounded(self.tokens)
        self.uniform = self.tokens == self.rows * self.width

    @cached_property
    def starts(self) -> Tensor:
        """`(R,)` int64: where each row begins in the packed tensor."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def row_of(self) -> Tensor:
        """`(T,)` int64: the row of each token."""
        return torch.repeat_interleave(torch.arange(self.rows), self.lengths)

    @cached_property
    def position(self) -> Tensor:
        """`(T,)` int64: each token's offset within its row."""
        return torch.arange(self.tokens) - self.starts[self.row_of]

    @cached_property
    def _padded_index(self) -> Tensor:
        return self.row_of * self.width + self.position

    def _index(self, device: torch.device) -> Tensor:
        return self._padded_index.to(device, non_blocking=True)

    def fill(self, x: Tensor) -> Tensor:
        """`(T, ...)` to `(filled, ...)`, zeros behind."""
        missing = self.filled - self.tokens
        return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x

    def pad(self, x: Tensor) -> Tensor:
        """`(T or more, ...)` to `(R, L, ...)`, zeros behind each row's end; a view where nothing needs padding."""
        x = x[: self.tokens]
        if self.uniform:
            return x.view(self.rows, self.width, *x.shape[1:])
        if self.rows == 1:  # all that a single question reads: ten times sooner than by index
            return torch.cat([x, x.new_zeros(self.width - self.tokens, *x.shape[1:])]).unsqueeze(0)
        out = x.new_zeros(self.rows * self.width, *x.shape[1:])
        return out.index_copy(0, self._index(x.device), x).view(self.rows, self.width, *x.shape[1:])

    def pack(self, x: Tensor) -> Tensor:
        """`(R, L, ...)` to `(T, ...)`: the inverse of `pad`."""
        flat = x.flatten(0, 1)
        return flat if self.uniform else flat.index_select(0, self._index(x.device))

    def gather(self, rows: Tensor) -> tuple[Layout, Tensor]:
        """The layout of the given rows `(M,)`, and the `(T',)` token index that brings them together."""
        layout = Layout(self.lengths[rows])
        return layout, self.starts[rows][layout.row_of] + layout.position

    def key_mask(self, device: torch.device) -> Tensor | None:
        """`(R, L)` bool, true on real tokens; None where there is no padding."""
        if self.uniform:
            return None
        return (torch.arange(self.width) < self.lengths[:, None]).to(device)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of several texts. `ids` is `(T,)` int64."""

    ids: Tensor
    layout: Layout

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]] | Sequence[Tensor]) -> Self:
        """Pack a list of token id lists."""
        parts = [torch.as_tensor(r, dtype=torch.int64) for r in rows]
        ids = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        return cls(ids=ids, layout=Layout([len(p) for p in parts]))

    def to(self, device: torch.device | str) -> Self:
        """The same tokens on a device."""
        return type(self)(ids=self.ids.to(device), layout=self.layout)


@dataclass(frozen=True, slots=True)
class Packed:
    """Token representations with the tokens they stand for.

    `states` is `(T, D)`, `token_ids` `(T,)`. For memories a row is a passage.
    """

    states: Tensor
    token_ids: Tensor
    layout: Layout

    def take(self, rows: Tensor) -> Packed:
        """The rows with the given indices `(M,)`, in that order."""
        layout, index = self.layout.gather(rows)
        index = index.to(self.states.device)
        return Packed(self.states.index_select(0, index), self.token_ids.index_select(0, index), layout)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `[question; passage]` on their way through the live encoder.

    `question_of` is `(R,)` int64 on the CPU, ascending: the question that each row belongs to; `questions`
    counts them. `from_passage` is `(T,)` bool: the tokens that the copy head may copy.
    """

    states: Tensor
    token_ids: Tensor
    from_passage: Tensor
    layout: Layout
    question_of: Tensor
    questions: int

    def take(self, kept: Tensor) -> Rows:
        """The rows with the given indices `(M,)`, in that order (which must keep questions ascending)."""
        layout, index = self.layout.gather(kept)
        index = index.to(self.states.device)
        return Rows(
            states=self.states.index_select(0, index),
            token_ids=self.token_ids.index_select(0, index),
            from_passage=self.from_passage.index_select(0, index),
            layout=layout,
            question_of=self.question_of[kept],
            questions=self.questions,
        )

    def with_states(self, states: Tensor) -> Rows:
        """The same rows with other states `(T, D)`."""
        return Rows(
            states=states,
            token_ids=self.token_ids,
            from_passage=self.from_passage,
            layout=self.layout,
            question_of=self.question_of,
            questions=self.questions,
        )

    def question_layout(self) -> Layout:
        """Tokens per question over all its rows: what the decoder cross-attends to at once."""
        lengths = torch.zeros(self.questions, dtype=torch.int64)
        return Layout(lengths.index_add(0, self.question_of, self.layout.lengths))


def join(questions: Packed, passages: Packed, question_of: Tensor) -> Rows:
    """Put each passage behind its question: row r is `[question question_of[r]; passage r]`.

    Args:
        questions: B packed questions.
        passages: R packed memories; a passage of length zero gives a row of the question alone.
        question_of: `(R,)` int64, ascending.
    """
    q, p = questions.layout, passages.layout
    q_lengths = q.lengths[question_of]
    layout = Layout(q_lengths + p.lengths)
    row, position = layout.row_of, layout.position
    in_passage = position >= q_lengths[row]
    index = torch.where(
        in_passage,
        q.tokens + p.starts[row] + position - q_lengths[row],
        q.starts[question_of][row] + position,
    ).to(questions.states.device)
    states = torch.cat([questions.states, passages.states.to(questions.states.dtype)])
    token_ids = torch.cat([questions.token_ids, passages.token_ids])
    return Rows(
        states=states.index_select(0, index),
        token_ids=token_ids.index_select(0, index),
        from_passage=in_passage.to(states.device),
        layout=layout,
        question_of=question_of,
        questions=q.rows,
    )


def matches(rows: Rows, vocab_size: int) -> Tensor:
    """`(T,)` bool: whether the token's id stands on the other side of its row, question or passage, too."""
    device = rows.states.device
    row_of, question_of = rows.layout.row_of.to(device), rows.question_of.to(device)
    ids, passage = rows.token_ids, rows.from_passage
    asked = torch.zeros(rows.questions, vocab_size, dtype=torch.bool, device=device)
    asked[question_of[row_of[~passage]], ids[~passage]] = True
    held = torch.zeros(rows.layout.rows, vocab_size, dtype=torch.bool, device=device)
    held[row_of[passage], ids[passage]] = True
    return torch.where(passage, asked[question_of[row_of], ids], held[row_of, ids])


def concatenate(parts: Sequence[Packed]) -> Packed:
    """Several packed tensors behind one another."""
    return Packed(
        states=torch.cat([p.states for p in parts]),
        token_ids=torch.cat([p.token_ids for p in parts]),
        layout=Layout(torch.cat([p.layout.lengths for p in parts])),
    )
