"""The copy head: a hand-computed mixture, and the edges (no passage, beams, padding)."""

from __future__ import annotations

import math

import pytest
import torch

from memstore.model.layers import DecoderCache
from memstore.model.model import CopyHead, DecoderState
from memstore.model.packed import Tokens
from tests import tiny

VOCAB = 5


def head(gate_bias: float = 0.0) -> CopyHead:
    """Width 2, identity maps, and a gate that is its bias."""
    made = CopyHead(tiny.config(d_model=2, copy_head=True))
    with torch.no_grad():
        made.query.weight.copy_(torch.eye(2))
        made.key.weight.copy_(torch.eye(2))
        made.gate.weight.zero_()
        made.gate.bias.fill_(gate_bias)
    return made


def decoder_state(keys: list[list[list[float]]], ids: list[list[int]], mask: list[list[bool]]) -> DecoderState:
    return DecoderState(
        cache=DecoderCache(layers=[], mask=None),
        copy_keys=torch.tensor(keys),
        copy_ids=torch.tensor(ids),
        copy_mask=torch.tensor(mask),
    )


@torch.no_grad()
def test_hand_computed_mixture() -> None:
    # Dot products 0, ln 2 * sqrt 2 (twice) and a question token's: attention 1/5, 2/5, 2/5, 0.
    key = math.log(2) * math.sqrt(2)
    state = decoder_state(
        [[[0.0, 9.0], [key, 0.0], [key, 5.0], [99.0, 0.0]]], [[4, 3, 3, 1]], [[True, True, True, False]]
    )
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0, math.log(4)]]])  # softmax: 1/8 each, 1/2 for token 4
    hidden = torch.tensor([[[1.0, 0.0]]])
    got = head(math.log(3))(hidden, logits, state).exp()  # 3/4 vocabulary, 1/4 copied
    eighth = 3 / 4 / 8
    want = [eighth, eighth, eighth, eighth + 1 / 4 * 4 / 5, 3 / 4 / 2 + 1 / 4 / 5]
    torch.testing.assert_close(got[0, 0], torch.tensor(want))


@torch.no_grad()
def test_without_passage_tokens_it_is_the_vocabulary_softmax() -> None:
    torch.manual_seed(0)
    hidden, logits = torch.randn(2, 3, 2), torch.randn(2, 3, VOCAB)
    state = decoder_state([[[1.0, 0.0]], [[1.0, 0.0]]], [[2], [2]], [[False], [True]])
    got = head()(hidden, logits, state)
    torch.testing.assert_close(got[0], logits[0].log_softmax(-1))
    assert not torch.allclose(got[1], logits[1].log_softmax(-1))


@torch.no_grad()
def test_beams_share_their_questions_keys() -> None:
    torch.manual_seed(0)
    hidden, logits = torch.randn(4, 3, 2), torch.randn(4, 3, VOCAB)  # two questions of two beams
    keys, ids, mask = (
        torch.randn(2, 6, 2).tolist(),
        [[0, 1, 2, 3, 4, 0]] * 2,
        [[True] * 6, [True] * 2 + [False] * 4],
    )
    got = head()(hidden, logits, decoder_state(keys, ids, mask))
    for n in range(4):
        b = n // 2
        own = decoder_state([keys[b]], [ids[b]], [mask[b]])
        one = head()(hidden[n : n + 1], logits[n : n + 1], own)
        torch.testing.assert_close(got[n], one[0])


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_probabilities_sum_to_one_and_question_tokens_are_not_copied(tied: bool) -> None:
    model = tiny.model(copy_head=True, tie_word_embeddings=tied, scale_head=tied)
    assert model.copy_head is not None
    model.copy_head.gate.weight.zero_()
    model.copy_head.gate.bias.fill_(-30.0)  # copying only
    question, passages = [50, 51, 52], [[60, 61], [61, 62, 63]]
    rows = model.live_a(
        model.encode_question(Tokens.of([question])),
        model.encode_passages(Tokens.of(passages)),
        torch.tensor([0, 0]),
    )
    probabilities = model.log_probs(model.live_b(rows), torch.tensor([[7, 8, 9]])).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 3))
    assert (probabilities[0] > 1e-4).nonzero()[:, 1].unique().tolist() == [60, 61, 62, 63]


def test_gradients_are_finite_without_passages() -> None:
    state = decoder_state([[[1.0, 0.0]]], [[2]], [[False]])
    made, hidden = head(), torch.randn(1, 1, 2, requires_grad=True)
    made(hidden, torch.zeros(1, 1, VOCAB, requires_grad=True), state)[0, 0, 3].backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
