"""From encoded rows to answers: greedy search over the model's next-token log-probabilities, or beam search.

Works on token ids alone: refuses to know texts, passages and how the distribution is made (copy head or not).
The model should be in evaluation mode; nothing here changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from memstore.decode.beams import beam_search
from memstore.decode.drafts import MOST, Drafts
from memstore.decode.prepared import PreparedDecoder
from memstore.decode.sampling import Sampling
from memstore.decode.steps import Decoded, allowed, begin
from memstore.errors import RequestError
from memstore.model.model import Encoded, MemoryModel

OnToken = Callable[[int, int], bool]
"""Called with a question's number and a token of its answer, as soon as that is certain. False ends the answer."""


def generate(
    model: MemoryModel,
    encoded: Encoded,
    *,
    max_new_tokens: int | Sequence[int],
    num_beams: int = 1,
    length_penalty: float = 1.0,
    banned: Sequence[int] = (),
    prepared: PreparedDecoder | None = None,
    on_token: OnToken | None = None,
    max_steps: int | None = None,
    sampling: Sampling | None = None,
) -> list[Decoded]:
    """Answer each of B questions: greedily, or by beam search with more than one beam.

    Args:
        model: in evaluation mode.
        encoded: what the decoder reads, B questions.
        max_new_tokens: tokens an answer may have, eos included; for all questions or for each of them.
        num_beams: hypotheses kept per question.
        length_penalty: beam search ranks finished hypotheses by `score / tokens ** length_penalty`.
        banned: token ids that no answer may hold, such as padding; scores are not normalised again.
        prepared: the same model's: same answers, sooner.
        on_token: see there. Beam search never calls it: its tokens are certain only at the end.
        max_steps: decoder steps of one question alone, at least one for each of its tokens: leaves out drafts beyond.
        sampling: draws tokens instead of taking the best; for one beam.

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
    if num_beams == 1:
        return greedy(
            model,
            encoded,
            limits=limits,
            banned=banned,
            prepared=prepared,
            on_token=on_token,
            max_steps=max_steps,
            sampling=sampling,
        )
    if sampling is not None:
        raise RequestError("beam search takes the best tokens: sample with one beam")
    return beam_search(
        model,
        encoded,
        limits=limits,
        num_beams=num_beams,
        length_penalty=length_penalty,
        banned=banned,
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


# --- greedy ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """One question's answer while greedy search extends it."""

    number: int
    limit: int
    on_token: OnToken | None = None
    ids: list[int] = field(default_factory=list)
    score: float = 0.0
    log_probs: list[float] = field(default_factory=list)
    tokens: int = 0
    finished: bool = False
    fed: int = 0
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.finished or self.stopped or self.tokens == self.limit

    def extend(self, token: int, log_prob: float, eos: int) -> None:
        self.score += log_prob
        self.log_probs.append(log_prob)
        self.tokens += 1
        if token == eos:
            self.finished = True
        else:
            self.ids.append(token)
            self.stopped = self.on_token is not None and not self.on_token(self.number, token)

    def decoded(self) -> Decoded:
        steps, each = self.fed or self.tokens, tuple(self.log_probs)
        return Decoded(ids=self.ids, score=self.score, finished=self.finished, steps=steps, log_probs=each)


@torch.inference_mode()
def greedy(
    model: MemoryModel,
    encoded: Encoded,
    *,
    limits: Sequence[int],
    banned: Sequence[int] = (),
    prepared: PreparedDecoder | None = None,
    on_token: OnToken | None = None,
    max_steps: int | None = None,
    sampling: Sampling | None = None,
) -> list[Decoded]:
    """The most probable token at each step, of equal ones the lower id; with `sampling`, one that is drawn.

    One question alone, with a prepared decoder, is answered several tokens a step where it copies a passage.
    Questions that are done leave the batch once they make up half of it: a departure copies the cross keys
    of those that stay, and halving bounds what all copies cost by what the first step reads.

    Args:
        model: in evaluation mode.
        encoded: B questions, each with something to read.
        limits: tokens per answer, eos included; B of them, at least 1 each.
        banned: token ids that no answer may hold.
        prepared: the same model's, instead of its own step.
        on_token: see there.
        max_steps: of one question alone, its drafts included.
        sampling: draws the tokens.
    """
    eos = model.config.eos_token_id
    lines = [_Line(number, limit, on_token) for number, limit in enumerate(limits)]
    if prepared is not None and len(lines) == 1 and sampling is None:
        return [_drafted(prepared, encoded, lines[0], banned=banned, max_steps=max_steps)]
    live = list(lines)  # the line of each row still in the batch
    decoding = begin(model, encoded, capacity=max(limits), beams=1, prepared=prepared)
    token = torch.full((len(live),), model.config.decoder_start_token_id, device=encoded.states.device)
    while True:
        if sampling is None:
            best, token = decoding.best(token, banned=banned)  # (rows,), (rows,)
        else:
            best, token = sampling.draw(allowed(decoding.log_probs(token), banned))
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


def _drafted(
    prepared: PreparedDecoder, encoded: Encoded, line: _Line, *, banned: Sequence[int], max_steps: int | None
) -> Decoded:
    """One question's answer: each step is fed the last token and a draft of those after it, and what it gives counts
    up to the first that the draft has otherwise.
    """
    c = prepared.model.config
    decoding = prepared.start(encoded, capacity=line.limit)
    drafts = Drafts.of(encoded, eos=c.eos_token_id)
    last, draft = c.decoder_start_token_id, list[int]()
    while True:
        best, given = decoding.best(torch.tensor([last, *draft], device=encoded.states.device), banned=banned)
        line.fed += 1 + len(draft)
        right = 0  # tokens of the draft that are as given
        for token, log_prob in zip(given.tolist(), best.tolist(), strict=True):
            line.extend(token, log_prob, c.eos_token_id)
            if line.done:
                return line.decoded()
            if right == len(draft) or token != draft[right]:
                break
            right += 1
        decoding.forget(len(draft) - right)
        left = line.limit - line.tokens
        spare = MOST if max_steps is None else max(0, max_steps - line.fed - left)  # each token still has its step
        last, draft = token, drafts.after(line.ids, most=min(MOST, left - 1, spare))


@torch.inference_mode()
def greedy_uncached(model: MemoryModel, encoded: Encoded, *, limits: Sequence[int]) -> list[Decoded]:
    """The plain twin of `greedy`, for tests: every step decodes all tokens again, no question leaves early."""
    eos = model.config.eos_token_id
    lines = [_Line(number, limit) for number, limit in enumerate(limits)]
    targets = torch.zeros(len(lines), 0, dtype=torch.int64, device=encoded.states.device)
    while not all(line.done for line in lines):
        wanted = torch.cat([targets, targets.new_zeros(len(lines), 1)], dim=1)  # the last one is not read
        best, token = model.log_probs(encoded, wanted)[:, -1].max(dim=-1)
        for line, t, log_prob in zip(lines, token.tolist(), best.tolist(), strict=True):
            if not line.done:
                line.extend(t, log_prob, eos)
        targets = torch.cat([targets, token[:, None]], dim=1)
    return [line.decoded() for line in lines]
