"""The prepared decoder is the plain one, sooner: the same tokens, the same log-probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F

from memstore import decode
from memstore.decode.prepared import PreparedDecoder, packed_linear
from memstore.model.model import Encoded
from memstore.model.packed import Layout
from tests import tiny
from tests.tiny import CPU

EOS = 1
SETTINGS = [
    pytest.param({}, id="plain"),
    pytest.param({"copy_head": True}, id="copy"),
    pytest.param({"tie_word_embeddings": True, "scale_head": True, "feed_forward": "relu"}, id="tied"),
    pytest.param({"layer_norm_epsilon": 0.5, "scale_head": True}, id="epsilon, scaled"),
]
DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = (50, 7, 64, 3, 30)  # more and fewer than plain attention begins with; some ask for padding


def model(seed: int = 0, *, dtype: torch.dtype = torch.float32, **changes):
    """A tiny model whose answers end: 12 tokens take nearly all probability, and eos is one of them."""
    made = tiny.model(seed, **changes)
    with torch.no_grad():
        head = made.embedding if made.head is None else made.head
        head.weight[12:] *= 0.05
        head.weight[:12] *= 2.0
        head.weight[EOS] *= 1.5
    return made.to(dtype)


def encoded(made, lengths: tuple[int, ...] = LENGTHS, *, seed: int = 0, copied: float = 0.8) -> Encoded:
    """Something to read for each question; few different tokens, `copied` of them from passages."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    return Encoded(
        states=torch.randn(tokens, made.config.d_model, generator=generator).to(made.dtype),
        token_ids=torch.randint(3, 60, (tokens,), generator=generator),
        from_passage=torch.rand(tokens, generator=generator) < copied,
        layout=Layout(lengths),
    )


@torch.inference_mode()
def steps(made, read: Encoded, fed: list[int], banned: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The best token's log-probability, by the plain and by the prepared decoder, when the same tokens are fed."""
    state = made.start(read, capacity=len(fed))
    progress = PreparedDecoder(made).start(read, capacity=len(fed))
    plain, prepared = [], []
    for token in fed:
        ids = torch.full((read.layout.rows,), token)
        log_probs = made.step(ids[:, None], state)[:, -1]
        log_probs[:, banned] = -torch.inf
        plain.append(torch.stack([v.double() for v in log_probs.max(-1)]))
        prepared.append(torch.stack([v.double() for v in progress.best(ids, banned=banned)]))
    return plain, prepared


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("changes", SETTINGS)
def test_every_step_gives_the_plain_steps_best_token(changes, dtype):
    seen = set()
    for seed in range(4):
        made = model(seed, dtype=dtype, **changes)
        for banned in ([], [0], [0, 5, 30]):
            plain, prepared = steps(made, encoded(made, seed=seed), [0, 8, 3, 40, 8, 20], banned)
            for a, b in zip(plain, prepared, strict=True):
                assert torch.equal(a[1], b[1])
                assert torch.allclose(a[0], b[0], atol=1e-5, rtol=0)
                seen |= set(a[1].tolist())
    assert len(seen) > 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("changes", SETTINGS)
def test_greedy_answers_are_the_same(changes, dtype):
    """Also while questions leave the batch."""
    endings = set()
    for seed in range(4):
        made = model(seed, dtype=dtype, **changes)
        read = encoded(made, seed=seed)
        options = {"max_new_tokens": [9, 1, 4, 9, 6], "banned": [0]}
        plain = decode.generate(made, read, **options)
        prepared = decode.generate(made, read, **options, prepared=PreparedDecoder(made))
        assert [(d.ids, d.finished, d.steps) for d in plain] == [(d.ids, d.finished, d.steps) for d in prepared]
        assert [d.score for d in prepared] == pytest.approx([d.score for d in plain], abs=1e-4)
        endings |= {d.finished for d in plain}
    assert endings == {True, False}


@pytest.mark.parametrize("changes", SETTINGS)
def test_beams_find_the_same(changes):
    """Also while questions leave the batch."""
    for seed in range(4):
        made = model(seed, **changes)
        read = encoded(made, seed=seed)
        read.from_passage[: LENGTHS[0]] = False  # nothing to copy in the first
        options = {"max_new_tokens": [9, 1, 4, 9, 6], "banned": [0], "num_beams": 3}
        plain = decode.generate(made, read, **options)
        prepared = decode.generate(made, read, **options, prepared=PreparedDecoder(made))
        assert [(d.ids, d.finished, d.steps) for d in plain] == [(d.ids, d.finished, d.steps) for d in prepared]
        assert [d.score for d in prepared] == pytest.approx([d.score for d in plain], abs=1e-4)


def all_but(*ids):
    return [i for i in range(tiny.VOCAB_SIZE) if i not in ids]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens_of_no_probability_are_reported_apart(num_beams):
    """Where nothing else may come: below e^-103 a probability is zero in float32, its logarithm is not."""
    made = model()
    with torch.no_grad():
        made.head.weight.mul_(40.0)
    read = encoded(made, copied=0.0)
    options = {"max_new_tokens": 5, "num_beams": num_beams, "banned": all_but(40, 41, 42, 50, 51)}
    plain = decode.generate(made, read, **options)
    prepared = decode.generate(made, read, **options, prepared=PreparedDecoder(made))
    assert min(d.score for d in plain) < -150
    assert [d.ids for d in prepared] == [d.ids for d in plain]
    assert [d.score for d in prepared] == pytest.approx([d.score for d in plain], rel=1e-4)


def test_a_token_of_no_probability_has_a_finite_score_beside_a_copy_head():
    """The mixture is bounded below, where the vocabulary softmax is zero and the token cannot be copied."""
    made = model(copy_head=True)
    with torch.no_grad():
        made.head.weight.mul_(40.0)
    read = encoded(made, copied=0.0)
    options = {"max_new_tokens": 2, "banned": all_but(100)}
    plain = decode.generate(made, read, **options)
    prepared = decode.generate(made, read, **options, prepared=PreparedDecoder(made))
    lowest = math.log(torch.finfo(torch.float32).tiny)
    assert [d.ids for d in prepared] == [d.ids for d in plain] == [[100, 100]] * len(LENGTHS)
    assert min(d.score for d in plain) < 2 * lowest + 1
    assert [d.score for d in prepared] == pytest.approx([d.score for d in plain], rel=1e-4)


@pytest.mark.parametrize("copied", [0.0, 1.0])
def test_nothing_to_copy_and_nothing_else(copied):
    made = model(3, copy_head=True)
    for a, b in zip(*steps(made, encoded(made, copied=copied), [0, 7, 9], [0]), strict=True):
        assert torch.equal(a[1], b[1])
        assert torch.allclose(a[0], b[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("nothing", [0, 2])
def test_some_with_nothing_to_copy(nothing):
    """Also when some have left the batch."""
    made = model(3, copy_head=True)
    read = encoded(made)
    start = int(read.layout.on(CPU).starts[nothing])
    read.from_passage[start : start + LENGTHS[nothing]] = False
    options = {"max_new_tokens": [1, 1, 6, 1, 6], "banned": [0, EOS]}
    plain = decode.generate(made, read, **options)
    prepared = decode.generate(made, read, **options, prepared=PreparedDecoder(made))
    assert [d.ids for d in plain] == [d.ids for d in prepared]
    assert [d.score for d in prepared] == pytest.approx([d.score for d in plain], abs=1e-4)
    for a, b in zip(*steps(made, read, [0, 7, 9], [0]), strict=True):
        assert torch.equal(a[1], b[1])
        assert torch.allclose(a[0], b[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("gate", "banned", "token"), [(60.0, [], 0), (60.0, [0, 1], 2), (-60.0, [], 10), (-60.0, [10], 20)]
)
def test_of_equal_tokens_the_lower(gate, banned, token):
    """All of the vocabulary is as probable; 10 and 20 are read equally often. The gate leaves one side or the other."""
    made = model(0, copy_head=True)
    with torch.no_grad():
        made.head.weight.zero_()
        made.copy_head.gate.weight.zero_()
        made.copy_head.gate.bias.fill_(gate)
        made.copy_head.query.weight.zero_()
    read = Encoded(torch.randn(4, 32), torch.tensor([20, 10, 20, 10]), torch.ones(4).bool(), Layout([4]))
    ((plain,), (prepared,)) = steps(made, read, [0], banned)
    assert plain[1].item() == prepared[1].item() == token
    assert torch.allclose(plain[0], prepared[0], atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_packed_linear_is_a_linear(rows, dtype):
    generator = torch.Generator().manual_seed(rows)
    for inside, outside in ((24, 72), (32, 32), (256, 1000)):
        weight = torch.randn(outside, inside, generator=generator).to(dtype)
        x = torch.randn(rows, inside, generator=generator).to(dtype)
        assert torch.allclose(packed_linear(weight)(x), F.linear(x, weight), atol=1e-5, rtol=1e-2)


def test_without_the_librarys_packing_it_is_plain(monkeypatch):
    """Where torch has no such operators, or the processor no bfloat16."""
    made = model(2, dtype=torch.bfloat16, copy_head=True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    plain, prepared = steps(made, encoded(made), [0, 8, 3], [0])
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, prepared, strict=True))
    assert packed_linear(made.head.weight).func.__name__ == "_linear"
