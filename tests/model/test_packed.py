"""Packing is bookkeeping: what goes in comes out, at the place that a plain loop would put it."""

from __future__ import annotations

import pytest
import torch

from memstore.model.packed import Layout, Packed, Rows, Tokens, join, matches
from tests.tiny import CPU

LENGTHS = [[3, 1, 4], [2, 2, 2], [1], [0, 3], [3, 0, 2, 0], [0, 0], []]


def rows_of(x: torch.Tensor, layout: Layout) -> list[list[float]]:
    """A packed tensor as a list of lists."""
    return [part.tolist() for part in x.split(layout.lengths.tolist())]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_layout_counts(lengths: list[int]) -> None:
    layout = Layout(lengths)
    assert (layout.rows, layout.longest, layout.tokens) == (
        len(lengths),
        max(lengths, default=0),
        sum(lengths),
    )
    assert layout.on(CPU).starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    assert layout.on(CPU).row_of.tolist() == [r for r, n in enumerate(lengths) for _ in range(n)]
    assert layout.on(CPU).position.tolist() == [p for n in lengths for p in range(n)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_pad_fills_with_zeros_and_from_rows_undoes_it(lengths: list[int]) -> None:
    layout = Layout(lengths)
    x = torch.arange(1.0, layout.tokens + 1)[:, None] * torch.tensor([1.0, -1.0])
    padded = layout.pad(x)
    assert padded.shape == (layout.rows, layout.longest, 2)
    for row, want in enumerate(x.split(lengths)):
        assert torch.equal(padded[row, : len(want)], want)
        assert not padded[row, len(want) :].any()
    assert torch.equal(layout.from_rows(padded)[: layout.tokens], x)


@pytest.mark.parametrize(
    "lengths", [[3, 5, 7, 2], [5, 5, 5], [37], [1], [100, 100, 40, 0, 40], [70] * 3, [5] * 7 + [6]]
)
def test_rows_between_layers_hold_the_tokens_where_padding_would(lengths: list[int]) -> None:
    layout = Layout(lengths)
    x = torch.randn(layout.tokens, 2, generator=torch.Generator().manual_seed(0))
    rows = layout.to_rows(layout.fill(x))
    mask, padded = layout.key_mask(CPU), layout.pad(x)
    real = slice(None) if mask is None else mask
    assert rows.shape == padded.shape
    assert torch.equal(rows[real], padded[real])
    rows = rows.detach().requires_grad_()
    back = layout.from_rows(rows)
    assert len(back) == layout.filled
    assert torch.equal(back[: layout.tokens], x)
    gradient = layout.fill(torch.randn(layout.tokens, 2, generator=torch.Generator().manual_seed(1)))
    back.backward(gradient)  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert torch.equal(rows.grad[real], layout.pad(gradient)[real])
    if mask is not None:
        assert not rows.grad[~mask].any()


def test_a_single_row_is_padded_to_its_rounded_width() -> None:
    layout = Layout([37])
    padded = layout.pad(torch.arange(1, 40))  # two tokens of filler after it
    assert padded.tolist() == [[*range(1, 38), 0]]
    assert torch.equal(layout.from_rows(padded)[:37], torch.arange(1, 38))


@pytest.mark.parametrize("lengths", [[4], [2, 2], [3, 1]], ids=str)
def test_padding_leaves_out_what_is_after_the_tokens(lengths: list[int]) -> None:
    assert torch.equal(Layout(lengths).pad(torch.arange(9)), Layout(lengths).pad(torch.arange(4)))


def test_key_mask_is_true_on_tokens_and_none_without_padding() -> None:
    mask = Layout([1, 3, 0]).key_mask(torch.device("cpu"))
    assert mask is not None
    assert mask.tolist() == [[True, False, False], [True, True, True], [False, False, False]]
    assert Layout([2, 2]).key_mask(torch.device("cpu")) is None


def test_padded_bools_are_false() -> None:
    assert Layout([1, 2]).pad(torch.ones(3, dtype=torch.bool)).tolist() == [[True, False], [True, True]]


def test_tokens_of_lists() -> None:
    tokens = Tokens.of([[5, 6], [], [7]])
    assert tokens.ids.tolist() == [5, 6, 7]
    assert tokens.layout.lengths.tolist() == [2, 0, 1]
    assert Tokens.of([]).ids.dtype == torch.int64


def packed(rows: list[list[int]]) -> Packed:
    """Packed rows whose states are their token ids, as floats."""
    tokens = Tokens.of(rows)
    return Packed(states=tokens.ids[:, None].float(), token_ids=tokens.ids, layout=tokens.layout)


@pytest.fixture
def joined() -> Rows:
    questions = packed([[10, 11], [20], []])
    passages = packed([[1, 2], [3], [], [4, 5, 6]])
    return join(questions, passages, torch.tensor([0, 0, 1, 2]))


def test_join_puts_each_passage_after_its_question(joined: Rows) -> None:
    assert rows_of(joined.token_ids, joined.layout) == [[10, 11, 1, 2], [10, 11, 3], [20], [4, 5, 6]]
    assert torch.equal(joined.states[:, 0], joined.token_ids.float())
    assert rows_of(joined.from_passage.int(), joined.layout) == [[0, 0, 1, 1], [0, 0, 1], [0], [1, 1, 1]]
    assert joined.question_layout().lengths.tolist() == [7, 1, 3]


def test_join_keeps_the_questions_dtype() -> None:
    questions, passages = packed([[1]]), packed([[2]])
    half = Packed(states=passages.states.bfloat16(), token_ids=passages.token_ids, layout=passages.layout)
    assert join(questions, half, torch.tensor([0])).states.dtype == torch.float32


def test_take_selects_rows(joined: Rows) -> None:
    taken = joined.take(torch.tensor([1, 3]))
    assert rows_of(taken.token_ids, taken.layout) == [[10, 11, 3], [4, 5, 6]]
    assert torch.equal(taken.states[:, 0], taken.token_ids.float())
    assert rows_of(taken.from_passage.int(), taken.layout) == [[0, 0, 1], [1, 1, 1]]
    assert taken.question_of.tolist() == [0, 2]
    assert taken.question_layout().lengths.tolist() == [3, 0, 3]


def test_take_changes_the_order_within_a_question(joined: Rows) -> None:
    taken = joined.take(torch.tensor([1, 0, 2, 3]))
    assert rows_of(taken.token_ids, taken.layout) == [[10, 11, 3], [10, 11, 1, 2], [20], [4, 5, 6]]


def test_matches_are_tokens_of_the_other_side() -> None:
    def packed(rows: list[list[int]]) -> Packed:
        tokens = Tokens.of(rows)
        return Packed(torch.zeros(len(tokens.ids), 1), tokens.ids, tokens.layout)

    questions, passages = packed([[5, 6], [7]]), packed([[6, 8, 6], [], [5, 7, 9]])
    rows = join(questions, passages, torch.tensor([0, 0, 1]))
    # [5 6 | 6 8 6], [5 6 |], [7 | 5 7 9]: the 5 of the last passage stands in another question
    assert matches(rows, 10).int().tolist() == [0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0]
