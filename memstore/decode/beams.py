"""Beam search over next-token log-probabilities, by the rules of stock `transformers` (`early_stopping=False`).

A test holds it to them. Works on token ids alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from memstore.decode.prepared import PreparedDecoder
from memstore.decode.steps import Decoded, allowed, begin
from memstore.model.model import Encoded, MemoryModel


@dataclass(frozen=True, slots=True)
class _Running:
    """A hypothesis that may go on. `row` is the beam whose cache it continues; a dead one scores -inf. `scores` are
    those after each token.
    """

    ids: tuple[int, ...]
    score: float
    row: int
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Finished:
    """A hypothesis that ended, by eos or by the length limit; `value` ranks it."""

    value: float
    ids: tuple[int, ...]
    score: float
    by_eos: bool
    scores: tuple[float, ...]


@dataclass(slots=True)
class _Search:
    """One question's beams. The rules are those of stock `transformers` with `early_stopping=False`:

    Each step looks at the best `2 * beams` continuations. Those that end (eos, or the length limit) are
    finished if they are among the best `beams`, and are ranked by `score / tokens ** length_penalty`, eos
    counting as a token; the best `beams` finished ones are remembered. The best `beams` that do not end run
    on. The search is over when there are `beams` finished ones and the best running one, its score
    normalised by its present length, is not better than the worst of them.
    """

    limit: int
    beams: int
    length_penalty: float
    eos: int
    running: list[_Running] = field(default_factory=list)
    finished: list[_Finished] = field(default_factory=list)  # best first
    tokens: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.running = self._filled([_Running(ids=(), score=0.0, row=0)])

    def _filled(self, running: list[_Running]) -> list[_Running]:
        dead = _Running(ids=(), score=-torch.inf, row=0)
        return (running + [dead] * self.beams)[: self.beams]

    def advance(self, scores: Sequence[float], beams: Sequence[int], tokens: Sequence[int]) -> None:
        """Take the best `2 * beams` continuations, best first: score, beam continued, and token of each."""
        if self.done:
            return
        self.tokens += 1
        at_limit = self.tokens == self.limit
        running = []
        for rank, (score, beam, token) in enumerate(zip(scores, beams, tokens, strict=True)):
            if score == -torch.inf:
                continue
            parent, scores_so_far = self.running[beam].ids, (*self.running[beam].scores, score)
            if token != self.eos and not at_limit:
                running.append(_Running(ids=(*parent, token), score=score, row=beam, scores=scores_so_far))
            elif rank < self.beams:
                self._finish(parent, token, scores_so_far)
        self.running = self._filled(running)
        self.done = at_limit or not self._can_improve()

    def _finish(self, parent: tuple[int, ...], token: int, scores: tuple[float, ...]) -> None:
        by_eos = token == self.eos
        ids = parent if by_eos else (*parent, token)
        self.finished.append(_Finished(self._normalised(scores[-1]), ids, scores[-1], by_eos, scores))
        self.finished.sort(key=lambda f: -f.value)  # stable: of equal ones the earlier stays ahead
        del self.finished[self.beams :]

    def _can_improve(self) -> bool:
        best = self._normalised(self.running[0].score)
        worst = self.finished[-1].value if len(self.finished) == self.beams else -torch.inf
        return best > worst

    def _normalised(self, score: float) -> float:
        return score / math.pow(self.tokens, self.length_penalty)

    def decoded(self) -> Decoded:
        """The best hypothesis."""
        best, *others = self.finished
        return Decoded(
            ids=list(best.ids),
            score=best.score,
            finished=best.by_eos,
            steps=self.tokens,
            log_probs=tuple(after - before for before, after in pairwise((0.0, *best.scores))),
            runner_up=others[0].score if others else None,
        )


@torch.inference_mode()
def beam_search(
    model: MemoryModel,
    encoded: Encoded,
    *,
    limits: Sequence[int],
    num_beams: int,
    length_penalty: float = 1.0,
    banned: Sequence[int] = (),
    prepared: PreparedDecoder | None = None,
) -> list[Decoded]:
    """The best finished hypothesis of each question, by `score / tokens ** length_penalty`.

    The beams of a question share its cross keys and values.

    Args:
        model: in evaluation mode.
        encoded: B questions, each with something to read.
        limits: tokens per answer, eos included; B of them, at least 1 each.
        num_beams: hypotheses kept per question.
        length_penalty: above 0 favours long answers, below 0 short ones.
        banned: token ids that no answer may hold.
        prepared: the same model's, instead of its own step.
    """
    c = model.config
    device = encoded.states.device
    searches = [_Search(limit, num_beams, length_penalty, c.eos_token_id) for limit in limits]
    live = list(searches)  # the search of each question still in the batch
    decoding = begin(model, encoded, capacity=max(limits), beams=num_beams, prepared=prepared)
    ids = torch.full((len(live) * num_beams,), c.decoder_start_token_id, device=device)
    while True:
        log_probs = allowed(decoding.log_probs(ids), banned)
        log_probs = log_probs.view(len(live), num_beams, -1)  # (B, beams, V): one position
        scores = torch.tensor([[r.score for r in s.running] for s in live], device=device)  # (B, beams)
        _advance(live, scores[:, :, None] + log_probs)
        staying = [question for question, search in enumerate(live) if not search.done]
        if not staying:
            return [search.decoded() for search in searches]
        rows = torch.tensor([q * num_beams + r.row for q, s in enumerate(live) for r in s.running], device=device)
        decoding.reorder(rows)
        if 2 * len(staying) <= len(live):
            decoding.take(torch.tensor(staying, device=device))
            live = [live[question] for question in staying]
        last = [r.ids[-1] if r.ids else c.eos_token_id for s in live for r in s.running]  # dead ones: any token
        ids = torch.tensor(last, device=device)  # (B * beams,)


def _advance(searches: Sequence[_Search], totals: Tensor) -> None:
    """Hand each search its best `2 * beams` continuations out of `totals` `(B, beams, V)`."""
    _, beams, vocab_size = totals.shape
    best, index = totals.flatten(1).topk(min(2 * beams, beams * vocab_size))
    parents, tokens = index // vocab_size, index % vocab_size
    for row in zip(searches, best.tolist(), parents.tolist(), tokens.tolist(), strict=True):
        search, score, parent, token = row
        search.advance(score, parent, token)
