"""Ranking passages with as little of the live encoder as their scores need.

A score is read from a row's first token behind live_a. So the last layer of live_a runs in two steps: for every row at
that token alone, over the keys and values of the whole row; for the rows that are kept, at all of their tokens, over
the same keys and values. The rows that are dropped, three of four by default, never see the rest of the layer: its
queries, most of its attention, its output and its feed-forward.

The plain twin is `MemoryModel.live_a`, `score` and `Rows.take`, and tests hold the two together; training, which reads
all rows, uses that. For models in evaluation mode. Figures: DECISIONS.md, 2026-11-26.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from memstore.model import selection
from memstore.model.layers import EncoderBlock, masked_bias
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
    """Passages beside their question, scored; `take` brings those that are kept behind live_a.

    Attributes:
        rows: R rows; where a layer is pending, as they are before it.
        scores: `(R,)` float32, what `MemoryModel.score` gives; None without a scorer.
    """

    model: MemoryModel
    rows: Rows
    scores: Tensor | None = None
    pending: _Pending | None = None

    def order(self) -> Tensor:
        """What a retriever's candidates are ordered by, `(R,)`, higher is better: their scores, with as much of the
        retriever's order as the model's config says; without a scorer that order alone.
        """
        if self.scores is None:
            return -torch.arange(self.rows.layout.rows).float()
        prior = float(self.model.config.retrieval_prior)
        return selection.after_retrieval(self.scores, self.rows.question_of, prior)

    def take(self, kept: Tensor) -> Rows:
        """The rows with the given indices `(M,)`, questions ascending, as `MemoryModel.live_a` leaves them."""
        rows = self.rows.take(kept)
        if self.pending is None or not rows.layout.tokens:
            return rows
        block, layout = self.pending.block, rows.layout
        x = layout.fill(rows.states)
        q = _heads(layout.to_rows(F.linear(block.attention_norm(x), _query_weight(block))), block)  # (M, H, L', d_kv)
        index = kept.to(x.device)
        keys, values = (t[index][:, :, : layout.width] for t in (self.pending.keys, self.pending.values))
        bias = masked_bias(_bias(self.model, layout.width).to(x.dtype), layout.key_mask(x.device))
        y = layout.from_rows(block.attention.attend(q, keys, values, bias))
        return rows.with_states(_finished(block, x, y)[: layout.tokens])


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
    block, layout = model.live.blocks[last], rows.layout
    assert isinstance(block, EncoderBlock)
    keys, values = _keys_values(block, rows.states, layout)
    starts = layout.on(rows.states.device).starts
    first = rows.states.index_select(0, starts)  # (R, D)
    q = F.linear(block.attention_norm(first), _query_weight(block)).unsqueeze(1)  # (R, 1, inner)
    bias = masked_bias(_bias(model, layout.width)[:, :, :1].to(first.dtype), layout.key_mask(first.device))
    y = block.attention.attend(_heads(q, block), keys, values, bias)  # (R, 1, inner)
    scores = model.score_of(_finished(block, first, y.squeeze(1)))
    return Ranked(model, rows, scores, _Pending(block, keys, values))


# --- parts of an encoder layer --------------------------------------------------------------------------------


def _query_weight(block: EncoderBlock) -> Tensor:
    return block.attention.qkv.weight[: block.attention.qkv.out_features // 3]


def _keys_values(block: EncoderBlock, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Keys and values of packed states `(T, D)`: two `(R, H, L, d_kv)`."""
    weight = block.attention.qkv.weight[block.attention.qkv.out_features // 3 :]
    both = layout.to_rows(F.linear(block.attention_norm(layout.fill(x)), weight))  # (R, L, 2 * inner)
    keys, values = both.chunk(2, dim=-1)
    return _heads(keys, block), _heads(values, block)


def _heads(x: Tensor, block: EncoderBlock) -> Tensor:
    """`(R, L, inner)` to `(R, H, L, d_kv)`."""
    return x.view(len(x), -1, block.attention.heads, block.attention.d_kv).transpose(1, 2)


def _bias(model: MemoryModel, width: int) -> Tensor:
    """Position bias of the live layers, `(1, H, L, L)`."""
    bias: Tensor = model.live.bias(width, width)
    return bias


def _finished(block: EncoderBlock, x: Tensor, y: Tensor) -> Tensor:
    """What a layer makes of states `(N, D)` and what its attention brought them, `(N, inner)`."""
    x = x + block.attention.o(y)
    finished: Tensor = x + block.feed_forward(block.feed_forward_norm(x))
    return finished
