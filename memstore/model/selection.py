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
