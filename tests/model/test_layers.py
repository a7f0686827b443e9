"""The layers against plain formulas written out here; against stock T5 they are held in test_model_stock."""

from __future__ import annotations

import math

import pytest
import torch

from memstore.model import attention
from memstore.model.layers import (
    CrossAttention,
    Decoder,
    DecoderBlock,
    EncoderBlock,
    EncoderStack,
    FeedForward,
    RelativeBias,
    RMSNorm,
    SelfAttention,
)
from memstore.model.packed import Layout
from tests import tiny


def bucket(distance: int, *, bidirectional: bool, buckets: int = 32, max_distance: int = 128) -> int:
    """T5's bucket of `key - query`, one distance at a time."""
    base = 0
    if bidirectional:
        buckets //= 2
        base = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return base + distance
    far = exact + int(math.log(distance / exact) / math.log(max_distance / exact) * (buckets - exact))
    return base + min(far, buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 7), (7, 7), (3, 150), (150, 150)])
def test_relative_bias(bidirectional: bool, queries: int, keys: int) -> None:
    bias = RelativeBias(tiny.config(), bidirectional=bidirectional)
    with torch.no_grad():
        bias.table.weight.copy_(torch.arange(32)[:, None].expand(32, 3))  # the value is the bucket
        made = bias(queries, keys)
    want = [
        [bucket(k - (keys - queries + q), bidirectional=bidirectional) for k in range(keys)] for q in range(queries)
    ]
    assert made.shape == (1, 3, queries, keys)
    assert made[0, 0].tolist() == want
    assert made[0, 2].tolist() == want


def test_relative_bias_has_the_configs_buckets_and_distance() -> None:
    config = tiny.config(relative_attention_num_buckets=12, relative_attention_max_distance=20)
    bias = RelativeBias(config, bidirectional=True)
    with torch.no_grad():
        bias.table.weight.copy_(torch.arange(12)[:, None].expand(12, 3))
        made = bias(1, 30)[0, 0, 0].tolist()
    assert made == [bucket(k - 29, bidirectional=True, buckets=12, max_distance=20) for k in range(30)]


def test_rms_norm_does_not_subtract_the_mean() -> None:
    norm = RMSNorm(tiny.config(d_model=2, layer_norm_epsilon=2.5))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
        y = norm(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(y, torch.tensor([[3.0, 8.0]]) / math.sqrt(12.5 + 2.5))


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_feed_forward(kind: str) -> None:
    layer = FeedForward(tiny.config(feed_forward=kind)).eval()
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if kind == "relu":
            h = (x @ layer.wi.weight.T).clamp_min(0)
        else:
            g, linear = x @ layer.wi.weight[:64].T, x @ layer.wi.weight[64:].T
            h = 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))) * linear
        torch.testing.assert_close(layer(x), h @ layer.wo.weight.T)


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`(H, Q, d)` over `(H, K, d)`, unscaled, as T5 has it: `(Q, H * d)`."""
    weights = (q @ k.transpose(1, 2) + bias).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def test_self_attention_on_ragged_rows_equals_plain_attention_row_by_row() -> None:
    torch.manual_seed(0)
    config = tiny.config()
    layer, table = SelfAttention(config).eval(), RelativeBias(config, bidirectional=True)
    stack = EncoderStack(config, 1).eval()
    stack.blocks[0].attention, stack.bias = layer, table
    layout = Layout([4, 1, 0, 6])
    x = torch.randn(layout.tokens, 32)
    padding = layout.key_mask(x.device)
    assert padding is not None
    with torch.no_grad():
        bias = table(6, 6).masked_fill(~padding[:, None, None], -1e9)
        got = layer(x, layout, bias)
        for row, y in zip(x.split([4, 1, 0, 6]), got.split([4, 1, 0, 6]), strict=True):
            n = len(row)
            if n == 0:
                continue
            q, k, v = (row @ w.T for w in layer.qkv.weight.chunk(3))
            q, k, v = (t.view(n, 3, 8).transpose(0, 1) for t in (q, k, v))
            torch.testing.assert_close(y, plain_attention(q, k, v, table(n, n)[0]) @ layer.o.weight.T)


@pytest.mark.parametrize("first", [[5, 1, 0, 9], [1, 1, 0, 1], [3, 1, 0, 9]], ids=["all", "the first", "some"])
@torch.no_grad()
def test_a_block_in_two_steps_is_the_block_at_the_first_tokens_of_each_row(first: list[int]) -> None:
    torch.manual_seed(1)
    stack = EncoderStack(tiny.config(), 2).eval()
    layout, firsts = Layout([5, 1, 0, 9]), Layout(first)
    x, block = torch.randn(layout.tokens, 32), stack.layer(1)
    whole = block(layout.fill(x), layout, stack.bias_of(layout, x))
    chosen = torch.cat([torch.arange(n) + start for n, start in zip(first, layout.on(x.device).starts, strict=True)])
    keys, values = block.keys_values(layout.fill(x), layout)
    bias = stack.bias_of(layout, x, queries=firsts.width)
    assert bias.shape == (4, 3, firsts.width, layout.width)
    rest = block.rest(firsts.fill(x[chosen]), firsts, keys, values, bias)
    torch.testing.assert_close(rest[: firsts.tokens], whole[chosen], atol=1e-4, rtol=1e-5)


BIASES = {"none": None, "shared": (1, 3, 7, 50), "per row": (5, 3, 7, 50), "keys only": (5, 1, 1, 50)}


def attention_inputs(bias: tuple[int, ...] | None, dtype: torch.dtype) -> tuple[torch.Tensor | None, ...]:
    """q, k, v of 5 rows, 3 heads, 7 queries, 50 keys, of which a bias per row shuts off the last 9."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(5, 3, n, 8, generator=generator).to(dtype) for n in (7, 50, 50))
    if bias is None:
        return q, k, v, None
    made = torch.randn(bias, generator=generator).to(dtype)
    if len(made) > 1:
        made[2, ..., 41:] = torch.finfo(dtype).min
    return q, k, v, made


@torch.no_grad()
@pytest.mark.parametrize("scores", [1, 3 * 7 * 50 * 2, 1 << 20], ids=["a row at a time", "two rows", "all rows"])
@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
def test_plain_attention_equals_fused(
    bias: tuple[int, ...] | None, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_PLAIN_SCORES", scores)
    q, k, v, mask = attention_inputs(bias, torch.float32)
    fused = attention.attend(q, k, v, mask, dropout=0.0)
    torch.testing.assert_close(attention.plain_attend(q, k, v, mask), fused, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
def test_attention_in_bfloat16_is_close_to_float32(bias: tuple[int, ...] | None) -> None:
    q, k, v, mask = attention_inputs(bias, torch.bfloat16)
    exact = attention.attend(q.float(), k.float(), v.float(), None if mask is None else mask.float(), dropout=0.0)
    got = attention.attend(q, k, v, mask, dropout=0.0)
    assert got.dtype is torch.bfloat16
    assert (got - exact).norm() < 0.015 * exact.norm()  # bfloat16 has 8 bits: 0.004 for each rounding


def test_attention_has_gradients_in_bfloat16() -> None:
    q, k, v, _ = attention_inputs(None, torch.bfloat16)
    q.requires_grad_()
    attention.attend(q, k, v, None, dropout=0.0).float().sum().backward()
    assert q.grad is not None
    assert bool(q.grad.isfinite().all())


@pytest.mark.parametrize("lengths", [[5, 5], [5, 2]], ids=["even", "ragged"])
def test_cross_attention_shares_a_questions_keys_among_its_beams(lengths: list[int]) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(tiny.config()).eval()
    layout = Layout(lengths)
    encoded = torch.randn(layout.tokens, 32)
    x = torch.randn(2 * 3, 2, 32)  # two questions of three beams, two positions each
    mask = layout.key_mask(x.device)
    additive = None if mask is None else torch.zeros(mask.shape).masked_fill(~mask, -1e9)[:, None, None]
    with torch.no_grad():
        keys, values = layer.keys_values(encoded, layout)
        got = layer(x, keys, values, additive)
        for n in range(6):
            row = encoded.split(lengths)[n // 3]
            k, v = ((row @ w.T).view(-1, 3, 8).transpose(0, 1) for w in layer.kv.weight.chunk(2))
            q = (x[n] @ layer.q.weight.T).view(2, 3, 8).transpose(0, 1)
            torch.testing.assert_close(got[n], plain_attention(q, k, v, torch.zeros(())) @ layer.o.weight.T)


def test_a_stack_in_two_parts_is_the_stack() -> None:
    torch.manual_seed(0)
    stack = EncoderStack(tiny.config(), 3).eval()
    layout = Layout([4, 2])
    x = torch.randn(6, 32)
    with torch.no_grad():
        parts = stack(stack(x, layout, last=1), layout, first=1)
        torch.testing.assert_close(parts, stack(x, layout))
        assert torch.equal(stack(x, layout, last=0), x)  # nothing is computed


def test_in_training_every_layer_drops_and_the_residual_stream_passes() -> None:
    """A rate of 1 drops all that passes a dropout: what a block adds, and in each part what its last map reads."""
    config, layout, x = tiny.config(dropout_rate=1.0), Layout([4, 2]), torch.ones(6, 32)
    bias, queries = torch.zeros(1, 3, 4, 4), torch.ones(2, 1, 32)
    encoder, decoder = EncoderBlock(config), Decoder(config)
    cache = decoder.start(x, layout, capacity=1)
    block, layer = decoder.blocks[0], cache.layers[0]
    assert isinstance(block, DecoderBlock)
    for part in (encoder.feed_forward(x), encoder.attention(x, layout, bias), block.cross(queries, layer.cross_keys,
                 layer.cross_values, cache.mask), decoder(queries, cache)):  # fmt: skip
        assert not part.any()
    for made in (encoder, block):  # what the parts add is dropped too
        made.attention.dropout = made.feed_forward.dropout.p = 0.0
    block.cross.dropout = 0.0
    assert torch.equal(encoder(x, layout, bias), x)  # to the bit: zeros are added
    assert torch.equal(block(queries, bias[..., :1, :1], layer, cache.mask, 0), queries)
    encoder.eval()
    assert (encoder(x, layout, bias) != x).any()


def test_in_training_the_decoder_drops_embeddings_before_its_blocks_and_states_after_its_norm() -> None:
    decoder, read = Decoder(tiny.config(dropout_rate=1.0)), []

    def something(norm: RMSNorm, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        read.append(args[0])
        return torch.ones_like(output)

    decoder.norm.register_forward_hook(something)
    x = torch.ones(1, 2, 32)
    cache = decoder.start(torch.ones(3, 32), Layout([3]), capacity=2)
    assert not decoder(x, cache).any()
    assert not read[0].any()  # the blocks add nothing: these are the embeddings
