"""Rows of unequal length without padding: states are `(T, D)`, one row after another, plus the rows' lengths.

Linear layers, norms and feed-forwards run on the packed tokens; only attention sees a padded view. Nothing is
ever padded on the left, so no distance between a question token and a passage token depends on the batch.
This file knows index arithmetic and refuses to know any layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor


def rounded(size: int) -> int:
    """`size` rounded up to one of 16 sizes per power of two: at most 6% more, 3% on average.

    Matrix libraries keep what they prepared for every shape they meet (oneDNN about 1 MB each, 1,024 of them, and
    that fragments the heap): passages of all lengths made a builder grow by 2 GB, so shapes must be few.

    >>> [rounded(size) for size in (5, 33, 100, 1000)]
    [5, 34, 100, 1024]
    """
    granule = 1 << max(0, (max(size, 1) - 1).bit_length() - 5)
    return -(-size // granule) * granule


class Layout:
    """Lengths of the rows of a packed tensor, and the way to a padded view and back.

    >>> layout = Layout([1, 3])
    >>> layout.pad(torch.tensor([7, 1, 2, 3]))
    tensor([[7, 0, 0],
            [1, 2, 3]])
    >>> layout.from_rows(layout.pad(torch.tensor([7, 1, 2, 3])))
    tensor([7, 1, 2, 3])

    Attributes:
        lengths: `(R,)` int64 on the CPU.
        rows, longest, tokens: R, the longest row, and T = the sum of the lengths.
        width: L, what rows are padded to: `longest`, rounded.
        filled: T, rounded: how many tokens linear layers see. What comes after T is filler: computed, never read.
    """

    def __init__(self, lengths: Tensor | Sequence[int]) -> None:
        self.lengths = torch.as_tensor(lengths, dtype=torch.int64, device="cpu")
        self.rows = len(self.lengths)
        self.longest = int(self.lengths.max()) if self.rows else 0
        self.tokens = int(self.lengths.sum())
        self.width = rounded(self.longest)
        self.filled = rounded(self.tokens)
        self.uniform = self.tokens == self.rows * self.width
        self._places: dict[torch.device, Places] = {}

    def on(self, device: torch.device) -> Places:
        """The rows' places as tensors on a device, computed there and kept."""
        if device not in self._places:
            self._places[device] = Places(self, device)
        return self._places[device]

    def index(self, device: torch.device) -> Tensor:
        """`(filled,)` int64: see `Places.index`."""
        return self.on(device).index

    def fill(self, x: Tensor) -> Tensor:
        """`(T, ...)` to `(filled, ...)`: zeros after the last token."""
        missing = self.filled - self.tokens
        return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x

    def pad(self, x: Tensor) -> Tensor:
        """`(T or more, ...)` to `(R, L, ...)`, zeros after each row's end; a view where nothing needs padding."""
        x = x[: self.tokens]
        return self.to_rows(x if self.uniform else self.fill(x))

    # Sizes are `filled`, `rows` and `width` alone between layers: what is compiled for some serves all.

    def to_rows(self, x: Tensor) -> Tensor:
        """`(filled, ...)` to `(R, L, ...)`: as `pad`, but with filler, not zeros alone, where padding is."""
        if self.rows == 1:  # both are rounded alike: all that a single question reads, without a copy
            return x.unsqueeze(0)
        if self.uniform:
            return x[: self.tokens].view(self.rows, self.width, *x.shape[1:])
        out = x.new_zeros(self.rows * self.width, *x.shape[1:])
        return out.index_copy(0, self.index(x.device), x).view(self.rows, self.width, *x.shape[1:])

    def from_rows(self, x: Tensor) -> Tensor:
        """`(R, L, ...)` to `(filled, ...)`: the inverse of `to_rows`."""
        flat = x.flatten(0, 1)
        if self.rows == 1:
            return flat
        if self.uniform:
            return self.fill(flat)
        index = self.index(x.device)
        if torch.is_grad_enabled() and flat.requires_grad:
            return _Select.apply(flat, index)  # type: ignore[no-untyped-call, no-any-return]
        return flat.index_select(0, index)

    def gather(self, rows: Tensor, device: torch.device) -> tuple[Layout, Tensor]:
        """The layout of the given rows `(M,)`, and on the device the token index `(T',)` that gathers them."""
        layout = Layout(self.lengths[rows])
        places = layout.on(device)
        return layout, self.on(device).starts[rows.to(device)][places.row_of] + places.position

    def key_mask(self, device: torch.device) -> Tensor | None:
        """`(R, L)` bool, true on real tokens; None where there is no padding."""
        if self.uniform:
            return None
        return torch.arange(self.width, device=device) < self.on(device).lengths[:, None]


class Places:
    """Where a layout's rows and tokens are, as int64 tensors on one device.

    Attributes:
        lengths: `(R,)`.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.lengths = layout.lengths.to(device)
        self._tokens, self._filled, self._width = layout.tokens, layout.filled, layout.width

    @cached_property
    def starts(self) -> Tensor:
        """`(R,)`: where each row begins in the packed tensor."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def row_of(self) -> Tensor:
        """`(T,)`: the row of each token."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=self._tokens)  # known: no waiting for a GPU

    @cached_property
    def position(self) -> Tensor:
        """`(T,)`: each token's offset within its row."""
        return torch.arange(self._tokens, device=self.lengths.device) - self.starts[self.row_of]

    @cached_property
    def index(self) -> Tensor:
        """`(filled,)`: where each token is in the padded view; filler goes after the end of the shortest row,
        where padding is (uniform rows, or a single one, have no use for it).
        """
        after = (self.lengths.argmin() + 1) * self._width - 1
        filler = after.expand(self._filled - self._tokens)
        return torch.cat([self.row_of * self._width + self.position, filler])


class _Select(torch.autograd.Function):
    """`index_select` of rows that the index names once each (but for filler, whose gradient is zero): the gradient is
    put in place, not added up, which on a GPU takes atomic operations, one for every number.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = flat.shape[0]
        return flat.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_copy(0, index, gradient), None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of several texts. `ids` is `(T,)` int64."""

    ids: Tensor
    layout: Layout

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]] | Sequence[Tensor]) -> Self:
        """Pack a list of token id lists.

        >>> tokens = Tokens.of([[7], [1, 2, 3]])
        >>> tokens.ids, tokens.layout.lengths
        (tensor([7, 1, 2, 3]), tensor([1, 3]))
        """
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
        layout, index = self.layout.gather(rows, self.states.device)
        return Packed(self.states.index_select(0, index), self.token_ids.index_select(0, index), layout)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `[question; passage]` on their way through the live encoder.

    `question_of` is `(R,)` int64 on the CPU, ascending: the question that each row belongs to; `questions`
    counts them. `from_passage` is `(T,)` bool: the tokens that the copy head may copy. `order` is what passages are
    ordered by, `(R,)` float32, higher is better; None where nobody ranked them.
    """

    states: Tensor
    token_ids: Tensor
    from_passage: Tensor
    layout: Layout
    question_of: Tensor
    questions: int
    order: Tensor | None = None

    def take(self, kept: Tensor) -> Rows:
        """The rows with the given indices `(M,)`, in that order (which must keep questions ascending)."""
        if torch.equal(kept, torch.arange(self.layout.rows)):
            return self
        layout, index = self.layout.gather(kept, self.states.device)
        return Rows(
            states=self.states.index_select(0, index),
            token_ids=self.token_ids.index_select(0, index),
            from_passage=self.from_passage.index_select(0, index),
            layout=layout,
            question_of=self.question_of[kept],
            questions=self.questions,
            order=None if self.order is None else self.order[kept.to(self.order.device)],
        )

    def with_states(self, states: Tensor) -> Rows:
        """The same rows with other states `(T, D)`."""
        return replace(self, states=states)

    def with_order(self, order: Tensor) -> Rows:
        """The same rows, ordered by `(R,)` float32."""
        return replace(self, order=order)

    def question_layout(self) -> Layout:
        """Tokens per question over all its rows: what the decoder cross-attends to at once."""
        lengths = torch.zeros(self.questions, dtype=torch.int64)
        return Layout(lengths.index_add(0, self.question_of, self.layout.lengths))


def join(questions: Packed, passages: Packed, question_of: Tensor) -> Rows:
    """Put each passage after its question: row r is `[question question_of[r]; passage r]`.

    >>> def packed(rows):  # states of width 1
    ...     tokens = Tokens.of(rows)
    ...     return Packed(tokens.ids[:, None].float(), tokens.ids, tokens.layout)
    >>> rows = join(packed([[8, 9]]), packed([[1], [2, 3]]), torch.tensor([0, 0]))
    >>> rows.token_ids, rows.layout.lengths
    (tensor([8, 9, 1, 8, 9, 2, 3]), tensor([3, 4]))

    Args:
        questions: B packed questions.
        passages: R packed memories; a passage of length zero gives a row of the question alone.
        question_of: `(R,)` int64, ascending.
    """
    device = questions.states.device
    layout = Layout(questions.layout.lengths[question_of] + passages.layout.lengths)
    q, p, places = questions.layout.on(device), passages.layout.on(device), layout.on(device)
    row, position = places.row_of, places.position
    question = question_of.to(device)[row]  # (T,)
    in_passage = position >= q.lengths[question]
    index = torch.where(
        in_passage,
        questions.layout.tokens + p.starts[row] + position - q.lengths[question],
        q.starts[question] + position,
    )
    states = torch.cat([questions.states, passages.states.to(questions.states.dtype)])
    token_ids = torch.cat([questions.token_ids, passages.token_ids])
    return Rows(
        states=states.index_select(0, index),
        token_ids=token_ids.index_select(0, index),
        from_passage=in_passage,
        layout=layout,
        question_of=question_of,
        questions=questions.layout.rows,
    )


def matches(rows: Rows, vocab_size: int) -> Tensor:
    """`(T,)` bool: whether the token's id is on the other side of its row, question or passage, too."""
    device = rows.states.device
    row = rows.layout.on(device).row_of  # (T,)
    question = rows.question_of.to(device)[row]
    ids, passage = rows.token_ids, rows.from_passage
    # The other side's tokens go to a last row that nobody reads: choosing them by a mask would wait for the device.
    asked = torch.zeros(rows.questions + 1, vocab_size, dtype=torch.bool, device=device)
    asked[question.masked_fill(passage, rows.questions), ids] = True
    held = torch.zeros(rows.layout.rows + 1, vocab_size, dtype=torch.bool, device=device)
    held[row.masked_fill(~passage, rows.layout.rows), ids] = True
    return torch.where(passage, asked[question, ids], held[row, ids])


def concatenate(parts: Sequence[Packed]) -> Packed:
    """Several packed tensors, one after another."""
    return Packed(
        states=torch.cat([p.states for p in parts]),
        token_ids=torch.cat([p.token_ids for p in parts]),
        layout=Layout(torch.cat([p.layout.lengths for p in parts])),
    )
