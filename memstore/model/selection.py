"""Which passages the reader gets: the rule that orders a question's passages, and the best few by it.

The rule has this one place; answering, training's dev scores and comparisons ask here. A hard top-k over rows whose
number differs from question to question. Refuses to know how scores are made and what a row holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memstore.errors import RequestError


def places(question_of: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's group (numbered without gaps) and its position there, from 0, both `(R,)`; `question_of` ascends."""
    _, group, counts = torch.unique_consecutive(question_of, return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    return group, torch.arange(len(group)) - starts[group]


def order(scores: Tensor | None, question_of: Tensor, prior: float | Sequence[float] = 0.0) -> Tensor:
    """What passages are ordered by, `(R,)` float32 on the CPU, higher is better: `score - prior * log(place)`, with
    the passage's place in the retriever's order, 1 for the best. Without scores the retriever's order alone.

    A small model's scorer knows less of rare words than BM25's counts do; `ModelConfig.retrieval_prior` is fitted on
    training questions.

    >>> scores, question_of = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0, 0, 0])
    >>> order(scores, question_of, prior=1.0)
    tensor([ 0.5000, -0.1931, -0.0986])
    >>> order(None, question_of)
    tensor([-0., -1., -2.])

    Args:
        scores: `(R,)`, the scorer's; None of a model without one.
        question_of: `(R,)` int64 ascending; rows of a question in the retriever's order, best first.
        prior: of all questions, or of each; 0 leaves scores as they are.
    """
    if scores is None:
        return -torch.arange(len(question_of)).float()
    place = places(question_of.cpu())[1] + 1  # (R,): 1 for the best
    weight = torch.tensor(prior)
    less: Tensor = (weight[question_of.cpu()] if weight.ndim else weight) * place.log()
    return scores.detach().float().cpu() - less


def log_shares(values: Tensor, question_of: Tensor) -> Tensor:
    """The log-softmax of `(R,)` within questions of any size, with its gradient; `question_of` `(R,)` ascends."""
    group, position = places(question_of)
    padded = by_question(values, question_of)  # (questions, longest)
    return padded.log_softmax(1)[group.to(values.device), position.to(values.device)]


def by_question(values: Tensor, question_of: Tensor, *, fill: float = -torch.inf) -> Tensor:
    """The values `(R,)` as `(questions, longest)`, padded with `fill`; `question_of` `(R,)` ascends."""
    group, position = places(question_of)
    shape = (int(group.max()) + 1, int(position.max()) + 1) if len(group) else (0, 0)
    padded = values.new_full(shape, fill)
    return padded.index_put((group.to(values.device), position.to(values.device)), values)


def enough(values: Tensor, question_of: Tensor, mass: Sequence[float | None], most: Sequence[int]) -> list[int]:
    """How many of each question's best rows hold a mass of the softmax of its values: at least 1, at most `most`.

    Depends on no other question: a batch gives what singles give.

    >>> values, question_of = torch.tensor([2.0, 2.0, 0.0, 5.0, 1.0]), torch.tensor([0, 0, 0, 1, 1])
    >>> enough(values, question_of, [0.9, 0.9], [3, 2]), enough(values, question_of, [None, 1.0], [2, 2])
    ([2, 1], [2, 2])

    Args:
        values: `(R,)`, what rows are ordered by; NaN counts as the worst there is.
        question_of: `(R,)` int64 ascending; every question has a row.
        mass: above 0 and at most 1, of each question; None where `most` alone counts.
        most: of each question.
    """
    if all(one is None for one in mass):
        return list(most)
    values = values.detach().double().cpu().nan_to_num(nan=-torch.inf, posinf=1e30, neginf=-torch.inf)
    shares = by_question(values, question_of.cpu()).softmax(1).sort(1, descending=True).values  # (questions, longest)
    before = shares.cumsum(1) - shares  # what the better rows hold
    wanted = torch.tensor([1.0 if one is None else one for one in mass], dtype=torch.float64)
    counts = (before < wanted[:, None]).sum(1).clamp(min=1).tolist()
    return [m if one is None or one >= 1 else min(m, count) for one, m, count in zip(mass, most, counts, strict=True)]


def best_first(values: Tensor, question_of: Tensor) -> Tensor:
    """All rows `(R,)` int64: questions ascending, within a question by descending values; see `select`.

    >>> best_first(torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([0, 0, 1, 1]))
    tensor([1, 0, 2, 3])
    """
    values = values.detach().float().cpu().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best = values.argsort(descending=True, stable=True)  # stable: equal values stay in row order
    return best[question_of.cpu()[best].argsort(stable=True)]  # questions ascending, best first within each


def select(scores: Tensor, question_of: Tensor, m: int | Sequence[int]) -> Tensor:
    """Pick at most m rows of each question, the best ones.

    >>> select(torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([0, 0, 1, 1]), 1)
    tensor([1, 2])

    Args:
        scores: `(R,)`, higher is better; NaN counts as the worst score there is.
        question_of: `(R,)` int64, each row's question.
        m: rows to keep per question, for all questions or for each of them.

    Returns:
        `(M,)` int64 on the CPU: indices of the rows kept, questions ascending, best first within a question.
        Of equal scores the lower row comes first.

    Raises:
        RequestError: m is below 1, or names fewer questions than `question_of` does.
    """
    question_of = question_of.cpu()
    questions = int(question_of.max()) + 1 if len(question_of) else 0
    limits = torch.tensor([m] * questions if isinstance(m, int) else list(m), dtype=torch.int64)
    if len(limits) < questions:
        raise RequestError(f"m has {len(limits)} values for {questions} questions; give one for each")
    if bool((limits < 1).any()):
        raise RequestError(f"m must keep at least 1 passage of each question, not {int(limits.min())}")
    best = best_first(scores, question_of)
    return best[places(question_of[best])[1] < limits[question_of[best]]]
