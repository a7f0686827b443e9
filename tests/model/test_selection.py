import math

import pytest
import torch

from memstore.errors import RequestError
from memstore.model.selection import best_first, enough, log_shares, order, select

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "question_of", "m", "kept"),
    [
        ([0.1, 0.9, 0.5], [0, 0, 0], 2, [1, 2]),
        ([0.1, 0.9, 0.5], [0, 0, 0], 3, [1, 2, 0]),
        ([0.1, 0.9, 0.5], [0, 0, 0], 9, [1, 2, 0]),  # more than there are
        ([1.0, 2.0, 2.0, 1.0], [0, 0, 0, 0], 3, [1, 2, 0]),  # ties: the lower row first
        ([5.0, 1.0, 9.0, 2.0, 3.0], [0, 0, 1, 1, 1], 1, [0, 2]),  # never across questions
        ([5.0, 1.0, 2.0, 9.0, 3.0], [0, 0, 1, 1, 1], [2, 1], [0, 1, 3]),  # each its own number
        ([1.0, 2.0, 3.0], [0, 2, 2], [1, 1, 1], [0, 2]),  # a question without rows
        ([1.0, 2.0], [0, 0], [1, 4, 4], [1]),  # questions after the last row
        ([NAN, -INF, 0.0, INF], [0, 0, 0, 0], 4, [3, 2, 0, 1]),  # NaN is worst, level with minus infinity
        ([], [], 3, []),
    ],
)
def test_rows_kept(scores, question_of, m, kept):
    rows = select(torch.tensor(scores), torch.tensor(question_of, dtype=torch.int64), m)
    assert rows.dtype == torch.int64
    assert rows.tolist() == kept


def test_many_rows_equal_sorting_each_question_by_itself():
    generator = torch.Generator().manual_seed(0)
    question_of = torch.randint(0, 30, (800,), generator=generator).sort().values
    scores = torch.randint(0, 20, (800,), generator=generator).float()  # many ties
    expected = []
    for question in range(30):
        rows = [r for r in range(800) if question_of[r] == question]
        expected += sorted(rows, key=lambda r: (-scores[r].item(), r))[:7]
    assert select(scores, question_of, 7).tolist() == expected


def test_integer_and_bfloat16_scores():
    question_of = torch.zeros(3, dtype=torch.int64)
    assert select(-torch.arange(3), question_of, 2).tolist() == [0, 1]
    assert select(torch.tensor([1.0, 3.0, 2.0], dtype=torch.bfloat16), question_of, 2).tolist() == [1, 2]


@pytest.mark.parametrize("m", [0, -1, [1, 0]])
def test_nothing_to_keep_is_refused(m):
    with pytest.raises(RequestError, match="at least 1 passage"):
        select(torch.zeros(2), torch.tensor([0, 1]), m)


def test_too_few_numbers_are_refused():
    with pytest.raises(RequestError, match="1 values for 2 questions"):
        select(torch.zeros(2), torch.tensor([0, 1]), [3])


def test_the_retrievers_order_counts_as_much_as_it_is_reported_to() -> None:
    scores, question_of = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0]), torch.tensor([0, 0, 0, 1, 1])
    log = [math.log(n) for n in (1, 2, 3, 1, 2)]
    got = order(scores, question_of, 0.5)
    torch.testing.assert_close(got, scores - 0.5 * torch.tensor(log))
    torch.testing.assert_close(order(scores, question_of, [0.0, 2.0]), torch.tensor([1, 1, 1, 1, 2 - 2 * log[1]]))
    assert torch.equal(order(scores, question_of, 0.0), scores)
    assert torch.equal(order(scores, question_of, 2), order(scores, question_of, 2.0))
    assert select(order(scores, question_of, 2.0), question_of, 1).tolist() == [0, 3]
    assert select(scores, question_of, 1).tolist() == [0, 4]


def test_without_scores_the_retrievers_order_is_the_rule() -> None:
    question_of = torch.tensor([0, 0, 1])
    assert select(order(None, question_of, 3.0), question_of, 1).tolist() == [0, 2]


def test_scores_are_compared_on_the_cpu_as_float32_without_gradient() -> None:
    scores = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    got = order(scores, torch.tensor([0, 0]), 0.5)
    assert (got.dtype, got.requires_grad, got.device.type) == (torch.float32, False, "cpu")


def test_the_rows_that_are_kept_are_the_first_of_all() -> None:
    values, question_of = torch.tensor([1.0, NAN, 3.0, 3.0, -INF]), torch.tensor([0, 0, 0, 1, 1])
    assert best_first(values, question_of).tolist() == [2, 0, 1, 3, 4]
    assert select(values, question_of, 2).tolist() == [2, 0, 3, 4]


def test_shares_are_a_softmax_within_questions_of_any_size() -> None:
    values = torch.tensor([0.0, math.log(3), 7.0, 1.0, 1.0, 1.0 + math.log(2)])
    got = log_shares(values, torch.tensor([0, 0, 4, 5, 5, 5]))  # questions may be missing
    torch.testing.assert_close(got.exp(), torch.tensor([1 / 4, 3 / 4, 1.0, 1 / 4, 1 / 4, 1 / 2]))


THREE = [math.log(p) for p in (0.2, 0.7, 0.1)]


@pytest.mark.parametrize(
    ("values", "mass", "most", "number"),
    [
        (THREE, 0.1, 3, 1),  # the best one always
        (THREE, 0.69, 3, 1),
        (THREE, 0.71, 3, 2),
        (THREE, 0.89, 3, 2),
        (THREE, 0.91, 3, 3),
        (THREE, 0.91, 2, 2),  # never more than the most
        (THREE, 1.0, 3, 3),
        (THREE, None, 2, 2),
        ([5.0, 5.0, 5.0, 5.0], 0.6, 4, 3),  # of equals as many as it takes
        ([700.0, 0.0], 0.999, 2, 1),
        ([INF, 0.0], 0.999, 2, 1),
        ([NAN, -INF], 0.999, 2, 1),  # nothing has a share: still one
        ([0.0, NAN], 0.999, 2, 1),
    ],
)
def test_rows_that_hold_a_mass(values, mass, most, number):
    question_of = torch.zeros(len(values), dtype=torch.int64)
    assert enough(torch.tensor(values), question_of, [mass], [most]) == [number]


def test_the_mass_of_each_question_is_its_own():
    generator = torch.Generator().manual_seed(1)
    sizes, masses, most = [1, 7, 40, 3], [0.5, 0.9, None, 0.3], [5, 4, 10, 3]
    values = torch.randn(sum(sizes), generator=generator) * 3
    question_of = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    alone = [
        enough(part, torch.zeros(len(part), dtype=torch.int64), [mass], [m])[0]
        for part, mass, m in zip(values.split(sizes), masses, most, strict=True)
    ]
    assert enough(values, question_of, masses, most) == alone
    assert alone[2] == 10
