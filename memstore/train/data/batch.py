"""Batches that the training loop reads: questions with their candidate passages, as token ids.

This is the contract between the data side and the loop. Refuses to know texts, tokenizers, files and models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from memstore.model.packed import Packed, Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """B questions with R candidate passages and their answers. All tensors are on the CPU.

    Attributes:
        questions: B packed questions, each of at least one token.
        passages: R packed passages: all candidates of question 0, then of question 1, and so on. Those of one
            question are in retrieval order, best first. A question has at least one passage, and a passage at
            least one token. Eos alone means "no passage".
        question_of: `(R,)` int64, ascending: the question that each passage belongs to.
        targets: `(B, t)` int64: answers, each with eos at its end, padded with the pad id.
        gold: `(R,)` bool: whether the passage holds an answer, or is of a page that proves it (`data.gold` decides).
        tasks: each question's task, for metrics.
        memories: the passages' memories `(T, D)` float32, if a store has them; None if they are to be made.
    """

    questions: Tokens
    passages: Tokens
    question_of: Tensor
    targets: Tensor
    gold: Tensor
    tasks: tuple[str, ...]
    memories: Packed | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        b, r = self.size, self.passages.layout.rows
        shapes = {"targets": (b, -1), "question_of": (r,), "gold": (r,)}
        for name, want in shapes.items():
            got = tuple(getattr(self, name).shape)
            if len(got) != len(want) or any(w not in (-1, g) for g, w in zip(got, want, strict=True)):
                raise ValueError(f"a batch of {b} questions and {r} passages has {name} of shape {got}, not {want}")
        if len(self.tasks) != b:
            raise ValueError(f"a batch of {b} questions names {len(self.tasks)} tasks")
        counts = torch.bincount(self.question_of, minlength=b)
        if bool((self.question_of.diff() < 0).any()) or len(counts) != b or bool((counts == 0).any()):
            raise ValueError("question_of must ascend and give each question at least one passage")
        if bool((self.passages.layout.lengths == 0).any()) or bool((self.questions.layout.lengths == 0).any()):
            raise ValueError("no question and no passage may be empty: use eos alone for 'no passage'")
        if self.memories is not None and not torch.equal(self.memories.token_ids, self.passages.ids):
            raise ValueError("the memories are of other tokens than the passages")

    @property
    def size(self) -> int:
        """B, the number of questions."""
        return self.questions.layout.rows

    @property
    def tokens(self) -> int:
        """Tokens read and written: questions, passages, and answers with their padding."""
        return self.questions.layout.tokens + self.passages.layout.tokens + self.targets.numel()


@dataclass(frozen=True, slots=True)
class DevBatch(Batch):
    """A batch for dev scores.

    Attributes:
        answers: every accepted answer of each question.
        ids: each question's id.
    """

    answers: tuple[tuple[str, ...], ...]
    ids: tuple[str, ...]


class BatchSource(Protocol):
    """Gives batches. Each depends only on the seed and the step, so that resuming needs no state."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whatever was asked before. Several threads may call it at once."""
        ...

    def dev(self) -> Iterator[DevBatch]:
        """The batches for dev scores, the same ones every time; none if there are no dev questions."""
        ...
