"""From encoded rows to answers: greedy and beam search over the model's next-token log-probabilities.

Works on token ids alone: refuses to know texts, passages and how the distribution is made (copy head or not).
Beam search follows the rules of stock `transformers` (`early_stopping=False`), and a test holds it to them.
The model should be in evaluation mode; nothing here changes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memstore.decode.prepared import PreparedDecoder, PreparedDecoding
from memstore.decode.spans import Phrases, Spans
from memstore.errors import RequestError
from memstore.model.model import Encoded, MemoryModel


@dataclass(frozen=True, slots=True)
class Decoded:
    """One answer.

    Attributes:
        ids: its tokens, without the start token and eos; may be empty.
        score: sum of the log-probabilities of its tokens, that of eos included where it came.
        finished: whether eos came within the length limit.
        steps: decoder steps spent; beam search may go on looking after the answer returned was complete.
    """

    ids: list[int]
    score: float
    finished: bool
    steps: int


def generate(
    model: MemoryModel,
    encoded: Encoded,
    *,
    max_new_tokens: int | Sequence[int],
    num_beams: int = 1,
    length_penalty: float = 1.0,
    banned: Sequence[int] = (),
    phrases: Phrases | None = None,
    prepared: PreparedDecoder | None = None,
) -> list[Decoded]:
    """Answer each of B questions: greedily, or by beam search with more than one beam.

    Args:
        model: in evaluation mode.
        encoded: what the decoder reads, B questions.
        max_new_tokens: tokens an answer may have, eos included; for all questions or for each of them.
        num_beams: hypotheses kept per question.
        length_penalty: beam search ranks finished hypotheses by `score / tokens ** length_penalty`.
        banned: token ids that no answer may hold, such as padding; scores are not normalised again.
        phrases: if given, answers are spans of the passages read, or one of these (token ids without eos), unless
            the length limit cuts them; scores are not normalised again.
        prepared: the same model's: same answers, sooner.

    Returns:
        One answer per question, in order.

    Raises:
        RequestError: a length limit or the number of beams is below 1, limits and questions differ in
            number, or a question has nothing to read.
    """
    limits = _limits(max_new_tokens, encoded)
    if num_beams < 1:
        raise RequestError(f"num_beams must be at least 1, not {num_beams}")
    if not limits:
        return []
    c = model.config
    spans = None
    if phrases is not None:
        spans = Spans.of(encoded, phrases, vocab_size=c.vocab_size, eos=c.eos_token_id, beams=num_beams)
    if num_beams == 1:
        return greedy(model, encoded, limits=limits, banned=banned, spans=spans, prepared=prepared)
    return beam_search(
        model,
        encoded,
        limits=limits,
        num_beams=num_beams,
        length_penalty=length_penalty,
        banned=banned,
        spans=spans,
        prepared=prepared,
    )


def _limits(max_new_tokens: int | Sequence[int], encoded: Encoded) -> list[int]:
    questions = encoded.layout.rows
    limits = [max_new_tokens] * questions if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != questions:
        raise RequestError(f"{len(limits)} length limits for {questions} questions; give one for each")
    if isinstance(max_new_tokens, int) and max_new_tokens < 1:
        raise RequestError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for question, limit in enumerate(limits):
        if limit < 1:
            raise RequestError(f"max_new_tokens must be at least 1, not {limit} (question {question})")
        if not encoded.layout.lengths[question]:
            raise RequestError(f"question {question} has no tokens to read, its own or a passage's")
    return limits


def _allowed(log_probs: Tensor, banned: Sequence[int], spans: Spans | None) -> Tensor:
    """Log-probabilities `(N, V)` with those of the tokens that may not come at minus infinity."""
    if banned:
        log_probs[..., list(banned)] = -torch.inf
    return log_probs if spans is None else log_probs.masked_fill_(~spans.allowed(), -torch.inf)


# --- greedy ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """One question's answer while greedy search extends it."""

    limit: int
    ids: list[int] = field(default_factory=list)
    score: float = 0.0
    tokens: int = 0
    finished: bool = False

    @property
    def done(self) -> bool:
        return self.finished or self.tokens == self.limit

    def extend(self, token: int, log_prob: float, eos: int) -> None:
        self.score += log_prob
        self.tokens += 1
        if token == eos:
            self.finished = True
        else:
            self.ids.append(token)

    def decoded(self) -> Decoded:
        return Decoded(ids=self.ids, score=self.score, finished=self.finished, steps=self.tokens)


class _PlainDecoding:
    """`prepared.PreparedDecoding` by the model's own step."""

    def __init__(self, model: MemoryModel, encoded: Encoded, *, capacity: int, beams: int = 1) -> None:
        self.model, self.state = model, model.start(encoded, capacity=capacity, beams=beams)

    def best(self, ids: Tensor, *, banned: Sequence[int], spans: Spans | None) -> tuple[Tensor, Tensor]:
        best, token = _allowed(self.log_probs(ids), banned, spans).max(dim=-1)
        return best, token

    def log_probs(self, ids: Tensor) -> Tensor:
        return self.model.step(ids[:, None], self.state)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.state.cache.reorder(rows)

    def take(self, questions: Tensor) -> None:
        self.state.take(questions)


def _begin(
    model: MemoryModel, encoded: Encoded, *, capacity: int, beams: int, prepared: PreparedDecoder | None
) -> PreparedDecoding | _PlainDecoding:
    if prepared is not None:
        return prepared.start(encoded, capacity=capacity, beams=beams)
    return _PlainDecoding(model, encoded, capacity=capacity, beams=beams)


@torch.inference_mode()
def greedy(
    model: MemoryModel,
    encoded: Encoded,
    *,
    limits: Sequence[int],
    banned: Sequence[int] = (),
    spans: Spans | None = None,
    prepared: PreparedDecoder | None = None,
) -> list[Decoded]:
    """The most probable token at each step; of equal ones the lower id.

    Questions that are done leave the batch once they make up half of it: a departure copies the cross keys
    of those that stay, and halving bounds what all copies cost by what the first step reads.

    Args:
        model: in evaluation mode.
        encoded: B questions, each with something to read.
        limits: tokens per answer, eos included; B of them, at least 1 each.
        banned: token ids that no answer may hold.
        spans: of these questions, at the beginning; they are used up.
        prepared: the same model's, instead of its own step.
    """
    eos = model.config.eos_token_id
    lines = [_Line(limit) for limit in limits]
    live = list(lines)  # the line of each row still in the batch
    decoding = _begin(model, encoded, capacity=max(limits), beams=1, prepared=prepared)
    token = torch.full((len(live),), model.config.decoder_start_token_id, device=encoded.states.device)
    while True:
        best, token = decoding.best(token, banned=banned, spans=spans)  # (rows,), (rows,)
        for line, t, log_prob in zip(live, token.tolist(), best.tolist(), strict=True):
            if not line.done:
                line.extend(t, log_prob, eos)
        staying = [row for row, line in enumerate(live) if not line.done]
        if not staying:
            return [line.decoded() for line in lines]
        if 2 * len(staying) <= len(live):
            kept = torch.tensor(staying, device=token.device)
            decoding.take(kept)
            live, token = [live[row] for row in staying], token[kept]
            if spans is not None:
                spans.take(kept)
        if spans is not None:
            spans.extend(token)


@torch.inference_mode()
def greedy_uncached(model: MemoryModel, encoded: Encoded, *, limits: Sequence[int]) -> list[Decoded]:
    """The plain twin of `greedy`, for tests: every step decodes all tokens again, no question leaves early."""
    eos = model.config.eos_token_id
    lines = [_Line(limit) for limit in limits]
    targets = torch.zeros(len(lines), 0, dtype=torch.int64, device=encoded.states.device)
    while not all(line.done for line in lines):
        wanted = torch.cat([targets, targets.new_zeros(len(lines), 1)], dim=1)  # the last one is not read
        best, token = model.log_probs(encoded, wanted)[:, -1].max(dim=-1)
        for line, t, log_prob in zip(lines, token.tolist(), best.tolist(), strict=True):
            if not line.done:
                line.extend(t, log_prob, eos)
        targets = torch.cat([targets, token[:, None]], dim=1)
    return [line.decoded() for line in lines]


# --- beam search ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Running:
    """A hypothesis that may go on. `row` is the beam whose cache it continues; a dead one scores -inf."""

    ids: tuple[int, ...]
    score: float
    row: int


@dataclass(frozen=True, slots=True)
class _Finished:
    """A hypothesis that ended, by eos or by the length limit; `value` ranks it."""

    value: float
    ids: tuple[int, ...]
    score: float
    by_eos: bool


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
            parent = self.running[beam].ids
            if token != self.eos and not at_limit:
                running.append(_Running(ids=(*parent, token), score=score, row=beam))
            elif rank < self.beams:
                self._finish(parent, token, score)
        self.running = self._filled(running)
        self.done = at_limit or not self._can_improve()

    def _finish(self, parent: tuple[int, ...], token: int, score: float) -> None:
        by_eos = token == self.eos
        ids = parent if by_eos else (*parent, token)
        self.finished.append(_Finished(self._normalised(score), ids, score, by_eos))
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
        best = self.finished[0]
        return Decoded(ids=list(best.ids), score=best.score, finished=best.by_eos, steps=self.tokens)


@torch.inference_mode()
def beam_search(
    model: MemoryModel,
    encoded: Encoded,
    *,
    limits: Sequence[int],
    num_beams: int,
    length_penalty: float = 1.0,
    banned: Sequence[int] = (),
    spans: Spans | None = None,
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
        spans: of these questions, at the beginning; they are used up.
        prepared: the same model's, instead of its own step.
    """
    c = model.config
    device = encoded.states.device
    searches = [_Search(limit, num_beams, length_penalty, c.eos_token_id) for limit in limits]
    live = list(searches)  # the search of each question still in the batch
    decoding = _begin(model, encoded, capacity=max(limits), beams=num_beams, prepared=prepared)
    parts = [decoding] if spans is None else [decoding, spans]
    ids = torch.full((len(live) * num_beams,), c.decoder_start_token_id, device=device)
    while True:
        log_probs = _allowed(decoding.log_probs(ids), banned, spans)
        log_probs = log_probs.view(len(live), num_beams, -1)  # (B, beams, V): one position
        scores = torch.tensor([[r.score for r in s.running] for s in live], device=device)  # (B, beams)
        _advance(live, scores[:, :, None] + log_probs)
        staying = [question for question, search in enumerate(live) if not search.done]
        if not staying:
            return [search.decoded() for search in searches]
        rows = torch.tensor([q * num_beams + r.row for q, s in enumerate(live) for r in s.running], device=device)
        for part in parts:
            part.reorder(rows)
        if 2 * len(staying) <= len(live):
            for part in parts:
                part.take(torch.tensor(staying, device=device))
            live = [live[question] for question in staying]
        last = [r.ids[-1] if r.ids else c.eos_token_id for s in live for r in s.running]  # dead ones: any token
        ids = torch.tensor(last, device=device)  # (B * beams,)
        if spans is not None:
            spans.extend(ids)


def _advance(searches: Sequence[_Search], totals: Tensor) -> None:
    """Hand each search its best `2 * beams` continuations out of `totals` `(B, beams, V)`."""
    _, beams, vocab_size = totals.shape
    best, index = totals.flatten(1).topk(min(2 * beams, beams * vocab_size))
    parents, tokens = index // vocab_size, index % vocab_size
    for row in zip(searches, best.tolist(), parents.tolist(), tokens.tolist(), strict=True):
        search, score, parent, token = row
        search.advance(score, parent, token)
