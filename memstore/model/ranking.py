"""Ranking passages with as little of the live encoder as their scores need.

A score is read from a row's first token after live_a. So the last layer of live_a runs in two steps: for every row at
that token alone, over the keys and values of the whole row; for the rows that are kept, at all of their tokens, over
the same keys and values. The rows that are dropped, three of four by default, never see the rest of the layer: its
queries, most of its attention, its output and its feed-forward.

The plain twin is `MemoryModel.live_a`, `score` and `Rows.take`, and tests hold the two together; training, which reads
all rows, uses that. For models in evaluation mode. Figures: DECISIONS.md, 2026-11-26.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from memstore.model import selection
from memstore.model.layers import EncoderBlock
from memstore.model.model import MemoryModel
from memstore.model.packed import Layout, Packed, Rows


@dataclass(frozen=True, slots=True)
class _Pending:
    """The layer that is not finished, and each row's keys and values of it, `(R, H, L, d_kv)`."""

    block: EncoderBlock
    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Ranked:
    """Passages beside their question, scored; `take` brings those that are kept through live_a.

    Attributes:
        rows: R rows; where a layer is pending, as they are before it.
        scores: `(R,)` float32, what `MemoryModel.score` gives; None without a scorer.
    """

    model: MemoryModel
    rows: Rows
    scores: Tensor | None = None
    pending: _Pending | None = None

    def order(self, prior: Sequence[float] | None = None) -> Tensor:
        """What the passages are ordered by, `(R,)`, higher is better; see `selection.order`.

        `prior` is how much the retriever's order counts, of each question; None: as much as the model's config says.
        """
        weight = float(self.model.config.retrieval_prior) if prior is None else prior
        return selection.order(self.scores, self.rows.question_of, weight)

    def take(self, kept: Tensor, order: Tensor | None = None) -> Rows:
        """The rows with the given indices `(M,)`, questions ascending, as `MemoryModel.live_a` leaves them.

        `order` `(R,)` is what they were chosen by, for the reader's bias; None: what `order()` gives, if there are
        scores.
        """
        if order is None and self.scores is not None:
            order = self.order()
        rows = (self.rows if order is None else self.rows.with_order(order)).take(kept)
        if self.pending is None or not rows.layout.tokens:
            return rows
        layout = rows.layout
        index = kept.to(rows.states.device)
        keys, values = (t[index][:, :, : layout.width] for t in (self.pending.keys, self.pending.values))
        bias = self.model.live.bias_of(layout, rows.states)
        states = self.pending.block.rest(layout.fill(rows.states), layout, keys, values, bias)
        return rows.with_states(states[: layout.tokens])


def rank(model: MemoryModel, questions: Packed, memories: Packed, question_of: Tensor) -> Ranked:
    """Join each memory to its question and score it, as `MemoryModel.live_a` and `score` do.

    Args:
        model: in evaluation mode.
        questions: B encoded questions.
        memories: R memories.
        question_of: `(R,)` int64 on the CPU, ascending: each memory's question.
    """
    if model.scorer is None or not len(question_of):
        return Ranked(model, model.live_a(questions, memories, question_of))
    last = model.config.num_live_a_layers - 1
    rows = model.join(questions, memories, question_of)
    rows = rows.with_states(model.live(rows.states, rows.layout, last=last))
    block, layout = model.live.layer(last), rows.layout
    keys, values = block.keys_values(layout.fill(rows.states), layout)
    first, firsts = rows.states.index_select(0, layout.on(rows.states.device).starts), Layout([1] * layout.rows)
    bias = model.live.bias_of(layout, first, queries=1)
    states = block.rest(firsts.fill(first), firsts, keys, values, bias)[: layout.rows]  # (R, D)
    return Ranked(model, rows, model.score_of(states), _Pending(block, keys, values))
