"""Ranking at first tokens alone, and finishing what is kept: what the whole layers give."""

from __future__ import annotations

import pytest
import torch

from memstore.model import selection
from memstore.model.model import MemoryModel
from memstore.model.packed import Layout, Tokens
from memstore.model.ranking import rank
from tests import tiny

QUESTION_OF = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
QUESTIONS = tiny.token_rows([5, 9, 1], seed=1)
PASSAGES = tiny.token_rows([12, 1, 30, 7, 0, 17, 48, 3], seed=2)
KEPT = torch.tensor([1, 2, 3, 4, 6])
SETTINGS = [
    pytest.param({}, id="one layer of two"),
    pytest.param({"alpha": 2 / 3, "beta": 1 / 2}, id="two of four"),
    pytest.param({"match_embedding": True, "feed_forward": "relu"}, id="match, relu"),
    pytest.param({"alpha": 1 / 6}, id="the only live layer"),
    pytest.param({"head_norms": True}, id="a norm before the scorer"),
]


def encoded(model: MemoryModel):  # type: ignore[no-untyped-def]
    questions = model.encode_question(Tokens.of(QUESTIONS))
    return questions, model.encode_passages(Tokens.of(PASSAGES)), QUESTION_OF


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("changes", SETTINGS)
@torch.inference_mode()
def test_scores_and_kept_rows_are_those_of_whole_layers(
    changes: dict[str, object], dtype: torch.dtype, close: float
) -> None:
    model = tiny.model(3, **changes).to(dtype)
    plain = model.live_a(*encoded(model))
    ranked = rank(model, *encoded(model))
    assert ranked.scores is not None
    assert ranked.scores.dtype is torch.float32
    torch.testing.assert_close(ranked.scores, model.score(plain), atol=close, rtol=close)
    for kept in (KEPT, torch.tensor([0]), torch.arange(len(PASSAGES))):
        taken, wanted = ranked.take(kept), plain.take(kept)
        torch.testing.assert_close(taken.states, wanted.states, atol=4 * close, rtol=close)
        assert torch.equal(taken.token_ids, wanted.token_ids)
        assert torch.equal(taken.question_of, wanted.question_of)
        torch.testing.assert_close(model.live_b(taken).states, model.live_b(wanted).states, atol=close, rtol=close)


class OtherBlock(torch.nn.Module):
    """A layer that is no T5's: one head, positions from a turn of the states, no feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = torch.nn.Linear(width, 2 * width, bias=False)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.cos(torch.arange(x.shape[1]) / 9)[:, None]  # (R, L, D), each row from position 0

    def keys_values(self, x: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = layout.to_rows(self.both(x)).chunk(2, dim=-1)
        return self.turned(keys).unsqueeze(1), values.unsqueeze(1)  # (R, 1, L, D)

    def rest(
        self, x: torch.Tensor, layout: Layout, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        weights = self.turned(layout.to_rows(x)).unsqueeze(1) @ keys.transpose(2, 3) + bias[:, :1]
        return x + layout.from_rows((weights.softmax(-1) @ values).squeeze(1))

    def forward(self, x: torch.Tensor, layout: Layout, bias: torch.Tensor) -> torch.Tensor:
        return self.rest(x, layout, *self.keys_values(x, layout), bias)


@torch.inference_mode()
def test_another_kind_of_block_ranks_by_its_own_two_steps() -> None:
    model = tiny.model(8, alpha=2 / 3, beta=1 / 2)
    torch.manual_seed(8)
    model.live.blocks = torch.nn.ModuleList(OtherBlock(model.config.d_model) for _ in model.live.blocks)
    plain, ranked = model.live_a(*encoded(model)), rank(model, *encoded(model))
    assert ranked.pending is not None
    torch.testing.assert_close(ranked.scores, model.score(plain), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ranked.take(KEPT).states, plain.take(KEPT).states, atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_a_batch_ranks_as_its_questions_one_by_one() -> None:
    model = tiny.model(4)
    together = rank(model, *encoded(model)).scores
    assert together is not None
    for b in range(len(QUESTIONS)):
        own = [p for p, q in zip(PASSAGES, QUESTION_OF.tolist(), strict=True) if q == b]
        question = model.encode_question(Tokens.of([QUESTIONS[b]]))
        alone = rank(model, question, model.encode_passages(Tokens.of(own)), torch.zeros(len(own), dtype=torch.int64))
        torch.testing.assert_close(alone.scores, together[QUESTION_OF.eq(b)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("system", "alpha"), [("lumen", 1 / 3), ("fid", 1.0)])
@torch.inference_mode()
def test_without_a_scorer_there_is_nothing_to_put_off(system: str, alpha: float) -> None:
    model = tiny.model(5, system=system, alpha=alpha)
    ranked = rank(model, *encoded(model))
    assert ranked.scores is None
    assert torch.equal(ranked.order(), -torch.arange(len(PASSAGES)).float())
    torch.testing.assert_close(ranked.take(KEPT).states, model.live_a(*encoded(model)).take(KEPT).states)


@torch.inference_mode()
def test_the_best_passages_are_kept_by_either() -> None:
    """Not only close: with random weights the order is the same."""
    model = tiny.model(6, alpha=2 / 3, beta=1 / 2)
    ranked = rank(model, *encoded(model))
    assert ranked.scores is not None
    plain = model.score(model.live_a(*encoded(model)))
    for m in (1, 2, 3):
        assert torch.equal(selection.select(ranked.scores, QUESTION_OF, m), selection.select(plain, QUESTION_OF, m))


@torch.inference_mode()
def test_the_order_holds_as_much_of_the_retrievers_as_the_config_says() -> None:
    model = tiny.model(6, retrieval_prior=0.5)
    ranked = rank(model, *encoded(model))
    assert ranked.scores is not None
    place = torch.tensor([1, 2, 3, 1, 1, 2, 3, 4])
    torch.testing.assert_close(ranked.order(), ranked.scores - 0.5 * place.log())


@torch.inference_mode()
def test_no_passages_and_none_kept_are_no_rows() -> None:
    model, nothing = tiny.model(7), torch.zeros(0, dtype=torch.int64)
    questions, memories, _ = encoded(model)
    none = rank(model, questions, memories.take(nothing), nothing)
    kept = rank(model, *encoded(model)).take(nothing)
    for rows in (none.take(nothing), kept):
        assert rows.states.shape == (0, model.config.d_model)
        assert rows.question_layout().lengths.tolist() == [0, 0, 0]
