"""Which passages the reader gets: the best few of each question, by the scorer's numbers.

A hard top-k over rows whose number differs from question to question. Refuses to know how scores are made and
what a row holds.
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


def after_retrieval(scores: Tensor, question_of: Tensor, prior: float | Sequence[float]) -> Tensor:
    """Scores `(R,)` less `prior * log(place)`: the scorer and the retriever's order decide together.

    A small model's scorer knows less of rare words than BM25's counts do; `ModelConfig.retrieval_prior` is fitted on
    training questions.

    Args:
        scores: `(R,)`, the scorer's.
        question_of: `(R,)` int64 ascending; rows of a question in the retriever's order, best first.
        prior: of all questions, or of each; 0 leaves scores as they are.
    """
    place = places(question_of.cpu())[1] + 1  # (R,): 1 for the best
    weight = torch.tensor(prior)
    less: Tensor = (weight[question_of.cpu()] if weight.ndim else weight) * place.log()
    return scores - less.to(scores)


def select(scores: Tensor, question_of: Tensor, m: int | Sequence[int]) -> Tensor:
    """Pick at most m rows of each question, the best ones.

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
    scores = scores.detach().float().cpu().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    question_of = question_of.cpu()
    questions = int(question_of.max()) + 1 if len(question_of) else 0
    limits = torch.tensor([m] * questions if isinstance(m, int) else list(m), dtype=torch.int64)
    if len(limits) < questions:
        raise RequestError(f"m has {len(limits)} values for {questions} questions; give one for each")
    if bool((limits < 1).any()):
        raise RequestError(f"m must keep at least 1 passage of each question, not {int(limits.min())}")
    order = scores.argsort(descending=True, stable=True)  # stable: equal scores stay in row order
    order = order[question_of[order].argsort(stable=True)]  # questions ascending, best first within each
    question = question_of[order]
    counts = torch.bincount(question, minlength=questions)
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[question]  # 0 for a question's best row
    return order[rank < limits[question]]
