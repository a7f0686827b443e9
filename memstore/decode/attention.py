"""What the decoder looked at: each kept row's share of its cross-attention while it wrote an answer.

A pass of its own over the finished answer, for who asks: decoding itself keeps no attention. Works on token ids alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memstore.model.layers import CrossAttention
from memstore.model.model import Encoded, MemoryModel


@torch.inference_mode()
def attention_shares(
    model: MemoryModel, encoded: Encoded, answers: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The shares of each question's rows, `[question; passage]`, which sum to 1: the mean over layers, heads and tokens
    of the answer; over its end where it has no tokens.

    Args:
        model: in evaluation mode.
        encoded: what was read, B questions.
        answers: token ids of each answer.
        rows: the number of tokens of each row, by question.
    """
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    written = [list(ids) or [eos] for ids in answers]
    width = max(map(len, written), default=0)
    targets = torch.tensor([ids + [pad] * (width - len(ids)) for ids in written], device=encoded.states.device)
    looked = _Looked([len(ids) for ids in written])
    hooks = [
        module.register_forward_pre_hook(looked)  # for this pass alone
        for module in model.decoder.modules()
        if isinstance(module, CrossAttention)
    ]
    try:
        model.log_probs(encoded, targets)
    finally:
        for hook in hooks:
            hook.remove()
    shares = (looked.sums / len(hooks)).cpu()  # (B, S)
    return [
        [float(part.sum()) for part in of_question[: sum(lengths)].split(list(lengths))]
        for of_question, lengths in zip(shares, rows, strict=True)
    ]


class _Looked:
    """Sums, over layers, the attention `(B, S)` that B answers of so many tokens pay to what was read."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.sums: Tensor = torch.zeros(())

    def __call__(self, module: Any, args: tuple[Any, ...]) -> None:
        """Hears of one layer's cross-attention: states `(B, t, D)`, keys `(B, H, S, d_kv)`, values and mask."""
        x, keys, _, mask = args
        b, t, _ = x.shape
        q = module.q(x).view(b, t, module.heads, module.d_kv).transpose(1, 2)
        scores = (q @ keys.transpose(2, 3)).float()  # (B, H, t, S)
        weights = (scores if mask is None else scores + mask.float()).softmax(-1).mean(1)  # (B, t, S)
        counts = torch.tensor(self.tokens, device=x.device)
        counted = torch.arange(t, device=x.device)[None] < counts[:, None]  # (B, t)
        self.sums = self.sums.to(x.device) + (weights * counted[:, :, None]).sum(1) / counts[:, None]
