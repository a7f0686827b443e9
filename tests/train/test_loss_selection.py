"""The passages that the reader gets in training, by hand; and batches whose parts do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from memstore.model.packed import Tokens
from memstore.train import losses
from memstore.train.config import LossConfig
from tests.train.loop_cases import contrast_batch

GIVEN = contrast_batch([[7]] * 6, [0, 0, 0, 1, 1, 1], [False, False, True, True, False, False])
SCORES = torch.tensor([0.3, 0.9, 0.1, 0.8, 0.7, 0.2])


@pytest.mark.parametrize(
    ("scores", "keep_k", "gold_in_reader", "want"),
    [
        (SCORES, 2, 0.0, [1, 0, 3, 4]),
        (None, 2, 0.0, [0, 1, 3, 4]),
        (SCORES, 2, 1.0, [2, 1, 3, 4]),  # gold in place of the worst that was kept; already there: no change
        (None, 1, 1.0, [2, 3]),
        (SCORES, 9, 0.0, [0, 1, 2, 3, 4, 5]),  # all of them: nothing to choose
    ],
)
def test_the_passages_that_the_reader_gets(
    scores: Tensor | None, keep_k: int, gold_in_reader: float, want: list[int]
) -> None:
    config = LossConfig(keep_k=keep_k, gold_in_reader=gold_in_reader)
    assert losses.select(scores, GIVEN, config, seed=0).tolist() == want


@pytest.mark.parametrize(
    ("gold", "kept", "want"),
    [
        ([2, 3], [0, 1, 3, 4], 1 / 2),
        ([2, 3], [2, 3], 1),
        ([2], [2, 3], 1),  # the second question has no gold: it does not count
        ([2], [0, 3], 0),
        ([], [0, 3], 0),
        ([0, 1], [1, 4], 1),  # one gold passage is enough
    ],
)
def test_the_share_of_questions_whose_gold_was_kept(gold: list[int], kept: list[int], want: float) -> None:
    given = replace(GIVEN, gold=torch.tensor([row in gold for row in range(6)]))
    assert float(losses._gold_kept(torch.tensor(kept), given)) == want


def test_gold_is_given_to_a_share_of_the_questions() -> None:
    many = 400
    given = contrast_batch([[7]] * 2 * many, [i // 2 for i in range(2 * many)], [False, True] * many)
    config = LossConfig(keep_k=1, gold_in_reader=0.25)
    kept = losses.select(None, given, config, seed=5)
    assert kept.tolist() == losses.select(None, given, config, seed=5).tolist()
    assert kept.tolist() != losses.select(None, given, config, seed=6).tolist()
    assert 70 < int(given.gold[kept].sum()) < 130


@pytest.mark.parametrize(
    "change",
    [
        {"question_of": torch.tensor([0, 0, 0, 1, 0, 1])},
        {"question_of": torch.tensor([0, 0, 0, 0, 0, 0])},
        {"question_of": torch.tensor([0, 0, 0, 1, 1, 2])},
        {"gold": torch.zeros(5, dtype=torch.bool)},
        {"targets": torch.ones(3, 1, dtype=torch.int64)},
        {"tasks": ("one",)},
        {"passages": Tokens.of([[7]] * 5 + [[]])},
    ],
)
def test_a_batch_whose_parts_do_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"batch|question_of|empty"):
        replace(GIVEN, **change)
