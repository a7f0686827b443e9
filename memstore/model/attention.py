"""Attention of queries to keys and values, fused or by plain products, and what is added to its scores.

T5 does not scale scores (the scale is in the initialisation), so `scale=1.0` everywhere. Refuses to know parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Plain attention instead of the fused one in bfloat16 (see `attend`). Milliseconds, fused and plain, 12 heads of
# width 64, one thread of an AMD EPYC with AVX-512 bfloat16, no AMX:
#   40 rows of 163 tokens (reading)               109    60
#   1 query over 1,550 keys (a decoder step)      2.0    0.33
#   1 query over 64 keys; over 32                 0.09   0.07;   0.05  0.07
#   1 row of 20 tokens                            0.07   0.10
# In float32 neither was faster: 16.0 and 17.1 for 10 rows of 163 tokens.
_PLAIN_FROM = 40  # keys
_PLAIN_SCORES = 1 << 20  # scores held at a time: they stay in the cache, and bound memory
_ALIGNED = 16  # numbers; see `masked_bias`


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, dropout: float) -> Tensor:
    """`softmax(q k^T + bias) v`: `(R, H, Q, d_kv)` over `(R, H, K, d_kv)` to `(R, Q, H, d_kv)`, unscaled.

    Fused, but for bfloat16 on a CPU without gradients, where two products and a softmax were measured faster.
    """
    bfloat16 = q.is_cpu and q.dtype is torch.bfloat16
    plain = bfloat16 and k.shape[2] >= _PLAIN_FROM and not torch.is_grad_enabled() and not dropout
    if plain and not torch.compiler.is_compiling():  # its loop over rows would be compiled for every width
        return plain_attend(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0).transpose(1, 2)


def plain_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """What `attend` gives, by matrix products over some rows at a time. Scores are rounded to the dtype, as stock
    T5 without fused attention does.
    """
    r, h, queries, d = q.shape
    out = q.new_empty(r, queries, h, d)
    most = max(1, _PLAIN_SCORES // max(1, h * queries * k.shape[2]))
    first = 0
    while first < r:
        step = 1 << min(most, r - first).bit_length() - 1  # powers of two: few shapes (`packed.rounded`)
        rows = slice(first, first + step)
        first += step
        scores = q[rows] @ k[rows].transpose(2, 3)  # (step, H, Q, K)
        if bias is not None:
            scores += bias if len(bias) == 1 else bias[rows]
        out[rows] = (scores.softmax(-1) @ v[rows]).transpose(1, 2)
    return out


def masked_bias(bias: Tensor, mask: Tensor | None) -> Tensor:
    """Position bias `(1, H, Q, K)` with padded keys (`mask` `(R, K)` false) shut off: `(1 or R, H, Q, K)`.

    The most negative finite number, not minus infinity: a row of padding alone stays free of NaN. In a GPU's memory
    its rows are a multiple of 16 numbers apart, as fused attention wants them there: it would copy the whole bias in
    every layer.
    """
    keys = bias.shape[-1]
    if bias.is_cuda and keys % _ALIGNED:
        bias = F.pad(bias, (0, -keys % _ALIGNED))
        mask = None if mask is None else F.pad(mask, (0, -keys % _ALIGNED))
    if mask is not None:
        bias = bias.masked_fill(~mask[:, None, None, :], torch.finfo(bias.dtype).min)
    return bias[..., :keys]
