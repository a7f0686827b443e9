"""The reader heeds the ranking: shares of the passages' scores, added to the decoder's cross-attention."""

from __future__ import annotations

import math

import pytest
import torch

from memstore.decode.prepared import PreparedDecoder
from memstore.model.model import Encoded, MemoryModel
from memstore.model.packed import Rows, Tokens
from memstore.model.ranking import Ranked, rank
from tests import tiny

QUESTIONS = Tokens.of([[5, 6, 7], [8, 9]])
PASSAGES = Tokens.of([[10, 11], [12, 13, 14, 15], [16, 17, 18], [19, 20, 21, 22], [23]])
QUESTION_OF = torch.tensor([0, 0, 0, 1, 1])
ORDER = torch.tensor([1.0, 3.0, -2.0, 0.5, 0.5])
TARGETS = torch.tensor([[3, 4, 1], [6, 1, 0]])


def model(bias: float) -> MemoryModel:
    return tiny.model(3, score_bias=bias)


def ranked(of: MemoryModel) -> Ranked:
    return rank(of, of.encode_question(QUESTIONS), of.encode_passages(PASSAGES), QUESTION_OF)


def read(of: MemoryModel, rows: Rows) -> torch.Tensor:
    return of.log_probs(of.live_b(rows), TARGETS)


@torch.no_grad()
def test_tokens_get_the_logarithm_of_their_passages_share() -> None:
    of = model(2.0)
    bias = of.live_b(ranked(of).take(torch.arange(5), ORDER)).bias
    shares = torch.cat([ORDER[:3].softmax(0), torch.tensor([0.5, 0.5])])
    assert bias is not None
    lengths = torch.tensor([5, 7, 6, 6, 3])  # of question and passage together
    torch.testing.assert_close(bias, 2 * shares.log().repeat_interleave(lengths))


@torch.no_grad()
def test_with_a_large_bias_only_the_best_passage_is_read() -> None:
    of = model(1000.0)
    both = read(of, ranked(of).take(torch.tensor([0, 1, 2, 3]), ORDER))
    best = read(of, ranked(of).take(torch.tensor([1, 3]), ORDER))
    torch.testing.assert_close(both, best)


@torch.no_grad()
def test_passages_of_equal_scores_are_read_as_without_a_bias() -> None:
    kept = torch.arange(5)
    with_bias = read(model(2.0), ranked(model(2.0)).take(kept, torch.zeros(5)))
    torch.testing.assert_close(with_bias, read(model(0.0), ranked(model(0.0)).take(kept)))


@torch.no_grad()
def test_unequal_scores_change_what_is_read() -> None:
    kept, of = torch.arange(5), model(2.0)
    assert (read(of, ranked(of).take(kept, ORDER)) - read(of, ranked(of).take(kept, torch.zeros(5)))).abs().max() > 1e-3


@torch.no_grad()
def test_rows_that_nobody_ranked_have_no_bias() -> None:
    of = model(2.0)
    rows = of.live_a(of.encode_question(QUESTIONS), of.encode_passages(PASSAGES), QUESTION_OF)
    assert of.live_b(rows).bias is None


@torch.no_grad()
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_takes_no_other_passage_along(score: float) -> None:
    of, order = model(1.0), ORDER.clone()
    order[2] = score
    assert read(of, ranked(of).take(torch.arange(5), order)).isfinite().all()


@torch.no_grad()
def test_the_prepared_decoder_has_the_same_bias() -> None:
    of = model(2.0)
    encoded = of.live_b(ranked(of).take(torch.arange(5), ORDER))
    first = torch.zeros(2, dtype=torch.int64)
    prepared = PreparedDecoder(of).start(encoded, capacity=4).log_probs(first)
    plain = of.step(first[:, None], of.start(encoded, capacity=4))[:, 0]
    torch.testing.assert_close(prepared, plain)
    without = Encoded(encoded.states, encoded.token_ids, encoded.from_passage, encoded.layout)
    assert (PreparedDecoder(of).start(without, capacity=4).log_probs(first) - plain).abs().max() > 1e-3


def test_the_answer_trains_no_scorer_through_the_bias() -> None:
    """Selection is hard: the scorer learns from its own losses alone."""
    of = model(2.0)
    rows = of.live_a(of.encode_question(QUESTIONS), of.encode_passages(PASSAGES), QUESTION_OF)
    read(of, rows.with_order(of.score(rows))).sum().backward()
    assert of.scorer is not None
    assert of.scorer.weight.grad is None
