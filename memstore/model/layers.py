"""The layers of T5, written over packed rows: RMS pre-norm, relative position bias, fused attention.

Held to stock `transformers` by tests. Refuses to know questions, passages, stores and checkpoints. T5 does
not scale attention logits (the scale is in the initialisation), so every attention here has `scale=1.0`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memstore.model.attention import attend, masked_bias
from memstore.model.config import ModelConfig
from memstore.model.lookup import lookup
from memstore.model.packed import Layout


class RMSNorm(nn.Module):
    """Scale by the root mean square; no mean subtraction, no bias (T5, section 2.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """`(..., D)` to `(..., D)`, in its dtype: under autocast a GPU would give float32."""
        if not torch.is_autocast_enabled(x.device.type):
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class RelativeBias(nn.Module):
    """T5's relative position bias: one learned value per head and bucket of distance."""

    def __init__(self, config: ModelConfig, *, bidirectional: bool) -> None:
        super().__init__()
        self.table = lookup(config.relative_attention_num_buckets, config.num_heads)
        self.bidirectional = bidirectional
        self.max_distance = config.relative_attention_max_distance

    def _bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each `key position - query position`: exact when near, logarithmic when far."""
        buckets = self.table.num_embeddings
        if self.bidirectional:
            buckets //= 2
            base = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            base = torch.zeros_like(distance)
            distance = (-distance).clamp_min(0)
        exact = buckets // 2
        ratio = torch.log(distance.float().clamp_min(1) / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp_max(buckets - 1)
        return base + torch.where(distance < exact, distance, far)

    def forward(self, queries: int, keys: int) -> Tensor:
        """Bias `(1, H, queries, keys)` for the last `queries` of `keys` positions."""
        device = self.table.weight.device
        distance = torch.arange(-(keys - 1), queries, device=device)  # every key - query, ascending
        values: Tensor = self.table(self._bucket(distance)).t()  # (H, queries + keys - 1)
        # Row i (query position keys - queries + i) starts at distance -(keys - queries + i): one window each.
        windows = values.unfold(1, keys, 1)[:, :queries]  # (H, queries, keys), from the last query backwards
        return windows.flip(1).unsqueeze(0)


class FeedForward(nn.Module):
    """`wo(relu(wi x))` (v1.0) or `wo(gelu(wi_0 x) * wi_1 x)` (v1.1, Flan): gate and linear are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.feed_forward == "gated-gelu"
        self.wi = nn.Linear(config.d_model, config.d_ff * (2 if self.gated else 1), bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., D)` to `(..., D)`."""
        h = self.wi(x)
        if self.gated:
            gate, linear = h.chunk(2, dim=-1)
            h = F.gelu(gate, approximate="tanh") * linear
        else:
            h = F.relu(h)
        return self.wo(self.dropout(h))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention; the three projections are one matrix, `[q; k; v]`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.d_kv = config.num_heads, config.d_kv
        inner = config.num_heads * config.d_kv
        self.qkv = nn.Linear(config.d_model, 3 * inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.dropout = config.dropout_rate

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(R, L, 3 * inner)` to three `(R, H, L, d_kv)`."""
        q, k, v = x.view(*x.shape[:2], 3, self.heads, self.d_kv).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def queries(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed and filled `(filled, D)` to queries `(R, H, L, d_kv)`: a third of the work of `qkv`."""
        [q] = self._project(x, layout, self.qkv.weight[: self.qkv.out_features // 3])
        return q

    def keys_values(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Packed and filled `(filled, D)` to keys and values, two `(R, H, L, d_kv)`: the other two thirds."""
        keys, values = self._project(x, layout, self.qkv.weight[self.qkv.out_features // 3 :])
        return keys, values

    def _project(self, x: Tensor, layout: Layout, weight: Tensor) -> list[Tensor]:
        """By some rows of the three projections, `(n * inner, D)`: n times `(R, H, L, d_kv)`."""
        parts = layout.to_rows(F.linear(x, weight)).chunk(len(weight) // (self.heads * self.d_kv), dim=-1)
        return [part.view(*part.shape[:2], self.heads, self.d_kv).transpose(1, 2) for part in parts]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """`(R, H, Q, d_kv)` over `(R, H, K, d_kv)` to `(R, Q, inner)`."""
        return attend(q, k, v, bias, dropout=self.dropout if self.training else 0.0).flatten(2)

    def forward(self, x: Tensor, layout: Layout, bias: Tensor) -> Tensor:
        """Packed and filled `(filled, D)` to the same; `bias` is `(1 or R, H, L, L)`."""
        q, k, v = self.heads_of(layout.to_rows(self.qkv(x)))
        return self.o(layout.from_rows(self.attend(q, k, v, bias)))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """The decoder's attention to the encoder's output: no position bias; keys and values computed once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.d_kv = config.num_heads, config.d_kv
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.kv = nn.Linear(config.d_model, 2 * inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.dropout = config.dropout_rate

    def keys_values(self, encoded: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Packed `(S, D)` to two `(B, H, L, d_kv)`, B questions with L tokens at most."""
        x = layout.to_rows(self.kv(layout.fill(encoded)))
        x = x.view(layout.rows, layout.width, 2, self.heads, self.d_kv).permute(2, 0, 3, 1, 4)
        return x[0].contiguous(), x[1].contiguous()

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`(B * beams, t, D)` to the same; the beams of a question share its keys, never copied."""
        n, t, _ = x.shape
        b = keys.shape[0]
        q = self.q(x).view(b, n // b * t, self.heads, self.d_kv).transpose(1, 2)  # (B, H, beams * t, d_kv)
        y = attend(q, keys, values, mask, dropout=self.dropout if self.training else 0.0)
        return self.o(y.reshape(n, t, self.heads * self.d_kv))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward on packed rows, whole or in two steps (`keys_values`, `rest`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config), SelfAttention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, layout: Layout, bias: Tensor) -> Tensor:
        """Packed and filled `(filled, D)` to the same."""
        return self._finish(x, self.attention(self.attention_norm(x), layout, bias))

    def keys_values(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens of packed and filled states `(filled, D)`: two `(R, H, L, d_kv)`."""
        return self.attention.keys_values(self.attention_norm(x), layout)

    def rest(self, x: Tensor, layout: Layout, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """What `forward` gives for each row's first tokens, as many as `layout` says, over keys and values of all.

        Args:
            x: packed and filled states of these tokens, `(filled, D)`, as they are before the layer.
            layout: of x, M rows.
            keys: `(M, H, L, d_kv)`, what `keys_values` gave for the same rows.
            values: likewise.
            bias: `(1 or M, H, layout.width, L)`.
        """
        y = self.attention.attend(self.attention.queries(self.attention_norm(x), layout), keys, values, bias)
        return self._finish(x, self.attention.o(layout.from_rows(y)))

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]


class EncoderStack(nn.Module):
    """Some encoder layers with their own copy of the relative position bias."""

    def __init__(self, config: ModelConfig, layers: int) -> None:
        super().__init__()
        self.bias = RelativeBias(config, bidirectional=True)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(layers))

    def forward(self, x: Tensor, layout: Layout, *, first: int = 0, last: int | None = None) -> Tensor:
        """Run layers `first` to `last` (exclusive) on packed states `(T, D)`: the raw residual stream."""
        blocks = self.blocks[first:last]
        if not len(blocks) or not layout.tokens:
            return x
        bias = self.bias_of(layout, x)
        x = layout.fill(x)
        if layout.rows > 1 and not layout.uniform:
            layout.index(x.device)  # once for all blocks, and outside of what is compiled
        for block in blocks:
            x = block(x, layout, bias)
        return x[: layout.tokens]

    def layer(self, index: int) -> EncoderBlock:
        """One layer, for a caller that runs it in two steps."""
        return self.blocks[index]  # type: ignore[return-value]

    def bias_of(self, layout: Layout, like: Tensor, *, queries: int | None = None) -> Tensor:
        """What layers add to attention, `(1 or R, H, queries, L)` in `like`'s dtype: positions, padded keys shut off.

        For the first `queries` tokens of each row; by default for all.
        """
        bias: Tensor = self.bias(layout.width, layout.width)
        return masked_bias(bias[:, :, :queries].to(like.dtype), layout.key_mask(like.device))


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one decoder layer: own ones as far as decoded, and the question's, computed once.

    `keys` and `values` are `(B * beams, H, capacity, d_kv)`; `cross_keys` and `cross_values`
    `(B, H, S, d_kv)`.
    """

    keys: Tensor
    values: Tensor
    cross_keys: Tensor
    cross_values: Tensor


@dataclass(slots=True)
class DecoderCache:
    """What decoding one batch of questions carries from step to step.

    `mask` is `(B, 1, 1, S)` additive, or None where it is zeros; `length` counts decoded positions.
    """

    layers: list[LayerCache]
    mask: Tensor | None
    length: int = 0
    capacity: int = field(default=0)

    def reorder(self, index: Tensor) -> None:
        """Let row i continue what row `index[i]` has decoded, `(B * beams,)`, in beam search.

        Cross keys stay: beams never leave their question.
        """
        for layer in self.layers:
            layer.keys[:, :, : self.length] = layer.keys[index, :, : self.length]
            layer.values[:, :, : self.length] = layer.values[index, :, : self.length]

    def take(self, questions: Tensor) -> None:
        """Keep only the questions with the given indices, with all their beams: `(B',)`, on its device."""
        for layer in self.layers:
            b, rest = layer.cross_keys.shape[0], layer.keys.shape[1:]
            layer.keys = layer.keys.view(b, -1, *rest)[questions].flatten(0, 1)
            layer.values = layer.values.view(b, -1, *rest)[questions].flatten(0, 1)
            layer.cross_keys, layer.cross_values = layer.cross_keys[questions], layer.cross_values[questions]
        if self.mask is not None:
            self.mask = self.mask[questions]


class DecoderBlock(nn.Module):
    """Pre-norm causal self-attention, cross-attention and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config), SelfAttention(config)
        self.cross_norm, self.cross = RMSNorm(config), CrossAttention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, bias: Tensor, cache: LayerCache, mask: Tensor | None, start: int) -> Tensor:
        """`(B * beams, t, D)` to the same; appends this step's keys and values to the cache at `start`."""
        q, k, v = self.attention.heads_of(self.attention.qkv(self.attention_norm(x)))
        end = start + x.shape[1]
        if start == 0 and end == cache.keys.shape[2]:  # all at once: nothing to keep, gradients flow
            keys, values = k, v
        else:
            cache.keys[:, :, start:end], cache.values[:, :, start:end] = k, v
            keys, values = cache.keys[:, :, :end], cache.values[:, :, :end]
        x = x + self.dropout(self.attention.o(self.attention.attend(q, keys, values, bias)))
        x = x + self.dropout(self.cross(self.cross_norm(x), cache.cross_keys, cache.cross_values, mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """The decoder stack and its final norm; embeddings and heads belong to the model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.d_kv = config.num_heads, config.d_kv
        self.bias = RelativeBias(config, bidirectional=False)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_decoder_layers))
        self.norm = RMSNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def start(
        self, encoded: Tensor, layout: Layout, bias: Tensor | None = None, *, capacity: int, beams: int = 1
    ) -> DecoderCache:
        """Compute every layer's cross keys and values, and make room for `capacity` decoded positions.

        Args:
            encoded: packed `(S, D)`, all kept rows of B questions.
            layout: tokens per question.
            bias: `(S,)`, added to cross-attention; None for nothing.
            capacity: positions that will be decoded at most.
            beams: hypotheses per question.
        """
        mask = layout.key_mask(encoded.device)
        additive = None
        if bias is not None:
            additive = layout.pad(bias.to(encoded.dtype))
        elif mask is not None:
            additive = encoded.new_zeros(mask.shape)
        if mask is not None and additive is not None:
            additive = additive.masked_fill(~mask, torch.finfo(additive.dtype).min)
        additive = None if additive is None else additive[:, None, None, :]
        shape = (layout.rows * beams, self.heads, capacity, self.d_kv)
        layers = []
        for block in self.blocks:
            keys, values = block.cross.keys_values(encoded, layout)  # type: ignore[union-attr, operator]
            layers.append(LayerCache(encoded.new_empty(shape), encoded.new_empty(shape), keys, values))
        return DecoderCache(layers=layers, mask=additive, capacity=capacity)

    def forward(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """Decode t more positions: embeddings `(B * beams, t, D)` to normed states of the same shape."""
        t, start = x.shape[1], cache.length
        bias = self.bias(t, start + t)  # (1, H, t, start + t)
        if t > 1:
            future = torch.ones(t, start + t, dtype=torch.bool, device=x.device).triu(start + 1)
            bias = bias.masked_fill(future, torch.finfo(bias.dtype).min)
        bias = bias.to(x.dtype)
        x = self.dropout(x)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, bias, layer, cache.mask, start)
        cache.length = start + t
        return self.dropout(self.norm(x))  # type: ignore[no-any-return]
