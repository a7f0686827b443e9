"""A decoder prepared for a few tokens: `MemoryModel.step`, and the choice of its best token, without what that wastes.

The plain twin is `MemoryModel.step`, and tests hold the two together, greedily and with beams. The same arithmetic in
the same precision, but: weights are packed once for the matrix library, which repacks them at every call otherwise;
position biases and what the copy head points at are laid out once per question; greedily, the copy head's share is
summed over the token ids in what is read, not over the vocabulary, and only the best of its mixture with the
vocabulary softmax is turned into a logarithm.
Refuses to know limits, endings and texts. Figures: DECISIONS.md, 2026-11-24.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memstore.model.attention import attend
from memstore.model.layers import DecoderBlock, LayerCache, RMSNorm
from memstore.model.model import CopyHead, DecoderState, Encoded, MemoryModel

Map = Callable[[Tensor], Tensor]


def packed_linear(weight: Tensor) -> Map:
    """`x -> x weight^T` for some rows at a time: `(N, in)` to `(N, out)`.

    In bfloat16 on a CPU that has it, the weight is packed now instead of at every call (oneDNN's layout, as
    torch.compile packs it; the same bits come out). It keeps a copy: later changes of `weight` are not seen.
    """
    pack = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    multiply = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    native = weight.device.type == "cpu" and weight.dtype is torch.bfloat16
    if not native or pack is None or multiply is None or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return partial(_linear, weight=weight.detach())
    with torch.no_grad():
        packed = pack(weight.detach(), 1)
    return partial(_packed_linear, packed=packed, multiply=multiply.default)


def _linear(x: Tensor, *, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def _packed_linear(x: Tensor, *, packed: Tensor, multiply: Callable[..., Tensor]) -> Tensor:
    return multiply(x, packed, None, "none", [], "")


def _norm(norm: RMSNorm, dtype: torch.dtype) -> Map:
    weight = norm.weight.detach().to(dtype)
    return lambda x: F.rms_norm(x, weight.shape, weight, norm.eps)


def _weight(linear: nn.Module) -> Tensor:
    assert isinstance(linear, nn.Linear)
    return linear.weight


class _Layer:
    """A decoder layer for some tokens per row, as many in each."""

    def __init__(self, block: DecoderBlock, dtype: torch.dtype) -> None:
        attention, cross, feed_forward = block.attention, block.cross, block.feed_forward
        self.heads, self.d_kv, self.gated = attention.heads, attention.d_kv, feed_forward.gated
        self.attention_norm, self.cross_norm = _norm(block.attention_norm, dtype), _norm(block.cross_norm, dtype)
        self.feed_forward_norm = _norm(block.feed_forward_norm, dtype)
        self.qkv, self.attention_out = packed_linear(attention.qkv.weight), packed_linear(attention.o.weight)
        self.cross_q, self.cross_out = packed_linear(cross.q.weight), packed_linear(cross.o.weight)
        self.wi, self.wo = packed_linear(feed_forward.wi.weight), packed_linear(feed_forward.wo.weight)

    def __call__(self, x: Tensor, bias: Tensor, cache: LayerCache, mask: Tensor | None, start: int) -> Tensor:
        """`(N * t, D)` to the same, t tokens of each of N rows; appends their keys and values to the cache at `start`.

        `bias` is `(1, H, t, start + t)`.
        """
        n, h, d = len(x), self.heads, self.d_kv
        rows, end = len(cache.keys), start + n // len(cache.keys)
        q, k, v = self.qkv(self.attention_norm(x)).view(rows, -1, 3, h, d).permute(2, 0, 3, 1, 4)  # (N, H, t, d_kv)
        cache.keys[:, :, start:end], cache.values[:, :, start:end] = k, v
        y = attend(q, cache.keys[:, :, :end], cache.values[:, :, :end], bias, dropout=0.0)  # (N, t, H, d_kv)
        x = x + self.attention_out(y.reshape(n, h * d))
        questions = len(cache.cross_keys)  # whose beams, and tokens, share its keys
        q = self.cross_q(self.cross_norm(x)).view(questions, n // questions, h, d).transpose(1, 2)
        y = attend(q, cache.cross_keys, cache.cross_values, mask, dropout=0.0)  # (B, beams, H, d_kv)
        x = x + self.cross_out(y.reshape(n, h * d))
        return x + self.wo(self._activated(self.wi(self.feed_forward_norm(x))))

    def _activated(self, x: Tensor) -> Tensor:
        if not self.gated:
            return F.relu(x)
        gate, linear = x.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * linear


@dataclass(slots=True)
class Copying:
    """What the copy head points at, laid out for single tokens; B questions read S tokens of U different ids at most.

    Attributes:
        ids: `(U,)` ascending: the token ids in anything read.
        index: `(B, S)`: where in `ids` each token's is.
        keys: `(B, D, S)`.
        mask: `(B, S)` float32: 0 where a token may be copied, else minus infinity.
        anything: `(B, 1)` bool: whether anything may be copied; None where that is so for all.
    """

    ids: Tensor
    index: Tensor
    keys: Tensor
    mask: Tensor
    anything: Tensor | None

    @classmethod
    def of(cls, state: DecoderState) -> Copying | None:
        """None without a copy head."""
        if state.copy_keys is None or state.copy_ids is None or state.copy_mask is None:
            return None
        ids, index = torch.unique(state.copy_ids, return_inverse=True)
        allowed, anything = state.copy_mask, state.copy_mask.any(1, keepdim=True)
        return cls(
            ids=ids,
            index=index,
            keys=state.copy_keys.transpose(1, 2).contiguous(),  # not at every step
            mask=torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, -torch.inf),
            anything=None if bool(anything.all()) else anything,
        )

    def take(self, questions: Tensor) -> None:
        """Keep only the questions with the given indices `(B',)`."""
        self.index, self.keys, self.mask = self.index[questions], self.keys[questions], self.mask[questions]
        self.anything = None if self.anything is None else self.anything[questions]


class _CopyHead:
    """`model.CopyHead` for one token per row; N = B * beams rows."""

    def __init__(self, head: CopyHead) -> None:
        self.query, self.gate = packed_linear(head.query.weight), head.gate

    def __call__(self, hidden: Tensor, copying: Copying) -> tuple[Tensor, Tensor]:
        """From states `(N, D)`: what is copied `(N, U)`, and the share of the vocabulary softmax `(N, 1)`; float32."""
        n, d = hidden.shape
        b = len(copying.index)
        weights = torch.bmm(self.query(hidden).view(b, n // b, d), copying.keys).float()  # (B, beams, S)
        weights = weights * d**-0.5
        weights = (weights + copying.mask[:, None]).softmax(-1)
        gate = torch.sigmoid(self.gate(hidden).float())
        if copying.anything is not None:
            anything = copying.anything.repeat_interleave(n // b, dim=0)
            weights, gate = weights.nan_to_num(0.0), torch.where(anything, gate, torch.ones_like(gate))
        copied = torch.zeros(*weights.shape[:2], len(copying.ids), device=weights.device)
        index = copying.index[:, None].expand(-1, n // b, -1)
        return copied.scatter_add_(2, index, weights).view(n, -1), gate


class PreparedDecoder:
    """The decoder and heads of a model in evaluation mode, packed. Later changes of its weights are not seen.

    On a CPU in bfloat16 it holds a second copy of the decoder's and the head's weights.
    """

    def __init__(self, model: MemoryModel) -> None:
        self.model, c = model, model.config
        self.layers = [_Layer(block, model.dtype) for block in model.decoder.blocks]  # type: ignore[arg-type]
        self.norm = _norm(model.decoder.norm, model.dtype)
        self.head = packed_linear(model.embedding.weight if model.head is None else model.head.weight)
        self.scale = c.d_model**-0.5 if c.scale_head else None
        self.copy_head = None if model.copy_head is None else _CopyHead(model.copy_head)

    def start(self, encoded: Encoded, *, capacity: int, beams: int = 1) -> PreparedDecoding:
        """Prepare decoding of B questions, `capacity` tokens at most."""
        state = self.model.start(encoded, capacity=capacity, beams=beams)
        bias = self.model.decoder.bias(1, capacity).to(self.model.dtype)
        return PreparedDecoding(decoder=self, state=state, bias=bias, copying=Copying.of(state))


@dataclass(slots=True)
class PreparedDecoding:
    """One batch's way through a prepared decoder. `bias` is `(1, H, 1, capacity)`: of the last position.

    What takes a token per row also takes t tokens of one row, `(t,)`, and gives what follows each of them.
    """

    decoder: PreparedDecoder
    state: DecoderState
    bias: Tensor
    copying: Copying | None

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue what row `rows[i]` has decoded, `(B * beams,)`."""
        self.state.cache.reorder(rows)

    def forget(self, tokens: int) -> None:
        """Take back the last tokens that were fed."""
        self.state.cache.length -= tokens

    def take(self, questions: Tensor) -> None:
        """Keep only the questions with the given indices `(B',)`, with all their beams."""
        self.state.take(questions)
        if self.copying is not None:
            self.copying.take(questions)

    def best(self, ids: Tensor, *, banned: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Feed a token per question, `(B,)`: the log-probability `(B,)` float32 and the id `(B,)` of the best next
        one that is not banned; of equal ones the lower id.
        """
        hidden, d = self._decode(ids), self.decoder
        if self.copying is None or d.copy_head is None:
            return _best_of(self._logits(hidden).log_softmax(-1), banned)
        probability = self._logits(hidden).softmax(-1)
        for token_id in banned:
            probability[:, token_id] = -1.0
        best, token = probability.max(-1)
        ids_read = self.copying.ids
        copied, gate = d.copy_head(hidden, self.copying)
        read = gate * probability.index_select(1, ids_read) + (1 - gate) * copied  # (B, U)
        for token_id in banned:
            read.masked_fill_(ids_read == token_id, -1.0)
        # The best token is in what is read, or else it is the best of the vocabulary softmax.
        best_read, place = read.max(-1)
        best, token_read = gate.squeeze(1) * best, ids_read[place]
        better = (best_read > best) | ((best_read == best) & (token_read < token))
        best, token = torch.where(better, best_read, best), torch.where(better, token_read, token)
        return best.clamp_min(torch.finfo(torch.float32).tiny).log(), token

    def log_probs(self, ids: Tensor) -> Tensor:
        """Feed a token per row, `(N,)`: log-probabilities `(N, V)` float32 of the next."""
        hidden, d = self._decode(ids), self.decoder
        logits = self._logits(hidden)
        if self.copying is None or d.copy_head is None:
            return logits.log_softmax(-1)
        copied, gate = d.copy_head(hidden, self.copying)
        probability = (gate * logits.softmax(-1)).index_add_(1, self.copying.ids, (1 - gate) * copied)
        return probability.clamp_min_(torch.finfo(torch.float32).tiny).log_()

    def _logits(self, hidden: Tensor) -> Tensor:
        """Of the vocabulary, `(N, V)` float32."""
        d = self.decoder
        return d.head(hidden if d.scale is None else hidden * d.scale).float()

    def _decode(self, ids: Tensor) -> Tensor:
        """Normed states `(N, D)` of one more token per row, or of some of one row."""
        cache, d = self.state.cache, self.decoder
        tokens = len(ids) // len(cache.layers[0].keys)
        bias = self._bias(cache.length, tokens)
        x = F.embedding(ids, d.model.embedding.weight)  # (N, D)
        for layer, layer_cache in zip(d.layers, cache.layers, strict=True):
            x = layer(x, bias, layer_cache, cache.mask, cache.length)
        cache.length += tokens
        return d.norm(x)

    def _bias(self, start: int, tokens: int) -> Tensor:
        """Added to the next tokens' attention, `(1, H, tokens, start + tokens)`: positions, and none looks ahead."""
        capacity = self.bias.shape[-1]
        if tokens == 1:
            return self.bias[..., capacity - start - 1 :]
        lowest = torch.finfo(self.bias.dtype).min
        each = [
            F.pad(self.bias[..., capacity - start - i - 1 :], (0, tokens - 1 - i), value=lowest) for i in range(tokens)
        ]
        return torch.cat(each, dim=2)


def _best_of(log_probs: Tensor, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The best log-probability `(B,)` of `(B, V)` and its id; the others are overwritten."""
    for token_id in banned:
        log_probs[:, token_id] = -torch.inf
    best, token = log_probs.max(-1)
    return best, token
