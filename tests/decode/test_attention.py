"""Shares of the decoder's cross-attention, against attention computed by hand."""

from __future__ import annotations

import pytest
import torch

from memstore.decode.attention import attention_shares
from memstore.model.layers import CrossAttention
from memstore.model.model import Encoded, MemoryModel
from memstore.model.packed import Layout
from tests import tiny

ROWS = [[5, 3, 7], [4, 6]]
ANSWERS = [[40, 41, 42], [50]]


def encoded_of(rows: list[list[int]], *, seed: int = 0, bias: bool = False) -> Encoded:
    lengths = [sum(one) for one in rows]
    generator = torch.Generator().manual_seed(seed)
    return Encoded(
        states=torch.randn(sum(lengths), 32, generator=generator),
        token_ids=torch.randint(3, 99, (sum(lengths),), generator=generator),
        from_passage=torch.ones(sum(lengths), dtype=torch.bool),
        layout=Layout(lengths),
        bias=torch.randn(sum(lengths), generator=generator) if bias else None,
    )


def by_hand(model: MemoryModel, encoded: Encoded, answer: list[int], rows: list[int]) -> list[float]:
    """One question's shares, token by token."""
    seen = []

    def hear(module: CrossAttention, args: tuple[torch.Tensor, ...]) -> None:
        q = module.q(args[0])[0, -1].view(module.heads, module.d_kv)
        scores = torch.einsum("hd,hsd->hs", q, args[1][0])
        seen.append((scores if encoded.bias is None else scores + encoded.bias).softmax(-1).mean(0))

    modules = [m for m in model.decoder.modules() if isinstance(m, CrossAttention)]
    hooks = [m.register_forward_pre_hook(hear) for m in modules]
    state = model.start(encoded, capacity=len(answer))
    for token in [model.config.decoder_start_token_id, *answer[:-1]]:
        model.step(torch.tensor([[token]]), state)
    for hook in hooks:
        hook.remove()
    mean = torch.stack(seen).mean(0)
    return [float(part.sum()) for part in mean.split(rows)]


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_shares_are_the_mean_over_layers_heads_and_tokens(bias: bool) -> None:
    model, encoded = tiny.model(), encoded_of(ROWS[:1], bias=bias)
    [shares] = attention_shares(model, encoded, ANSWERS[:1], ROWS[:1])
    assert shares == pytest.approx(by_hand(model, encoded, ANSWERS[0], ROWS[0]), abs=1e-5)
    assert sum(shares) == pytest.approx(1, abs=1e-5)


@torch.inference_mode()
def test_a_batch_gives_what_its_questions_give_alone() -> None:
    model, both = tiny.model(copy_head=True), encoded_of(ROWS)
    together, first = attention_shares(model, both, ANSWERS, ROWS), 0
    for at, rows in enumerate(ROWS):
        part = slice(first, first := first + sum(rows))
        alone = Encoded(both.states[part], both.token_ids[part], both.from_passage[part], Layout([sum(rows)]))
        [shares] = attention_shares(model, alone, [ANSWERS[at]], [rows])
        assert together[at] == pytest.approx(shares, abs=1e-5)


@torch.inference_mode()
def test_an_empty_answer_has_what_its_end_looked_at() -> None:
    model, encoded = tiny.model(), encoded_of(ROWS[:1])
    [shares] = attention_shares(model, encoded, [[]], ROWS[:1])
    assert shares == pytest.approx(by_hand(model, encoded, [model.config.eos_token_id], ROWS[0]), abs=1e-5)


@torch.inference_mode()
def test_nothing_stays_on_the_model() -> None:
    model = tiny.model()
    attention_shares(model, encoded_of(ROWS), ANSWERS, ROWS)
    assert not any(module._forward_pre_hooks for module in model.modules())
