"""The losses of training: cross-entropy of the answer, and distillation of the reader into the scorer.

    answer         -log p(answer | question, the kept passages); trains everything but the scorer
    distill        KL between the scorer's ranking and the ranking by log p(answer | question, one passage)
    gold           the scorer's cross-entropy to marked passages (off by default; GLIMMER has none)
    dense          retrieval projection: gold passages against all others in the batch (off by default)
    dense_distill  retrieval projection: KL to the scorer's ranking (off by default)

Selection is hard: no gradient passes through it, so the scorer learns only from its own losses. In distillation
p(answer | ...) carries no gradient. Refuses to know optimizers, devices' precision, texts and files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from memstore.model import selection
from memstore.model.model import MemoryModel, stream
from memstore.model.packed import Packed, Rows
from memstore.train.config import LossConfig
from memstore.train.data.batch import Batch
from memstore.train.through_codec import Through, as_they_are


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one batch.

    Attributes:
        total: the weighted sum, with its gradient.
        parts: each part as a detached scalar, without its weight. Also `gold_kept`: of the questions with gold
            passages, the share with a gold one among the kept passages.
    """

    total: Tensor
    parts: dict[str, Tensor]


def training_loss(
    model: MemoryModel, batch: Batch, config: LossConfig, *, seed: int, through: Through = as_they_are
) -> Losses:
    """All losses of one batch, computed by the functions that also answer questions.

    Args:
        model: in training mode, on its device.
        batch: on the CPU.
        config: weights and choices.
        seed: decides for which questions a gold passage is always kept.
        through: what a store makes of memories. Vectors for retrieval are made of those that no store has kept.
    """
    targets = batch.targets.to(model.device)
    questions = model.encode_question(batch.questions.to(model.device))
    memories = encode_memories(model, batch)
    rows = model.live_a(questions, through(memories), batch.question_of)
    scores = model.score(rows) if model.scorer is not None else None
    if scores is not None:
        rows = rows.with_order(scores.detach())
    kept = select(scores, batch, config, seed=seed)
    log_probs, mask = model.target_log_probs(model.live_b(rows.take(kept)), targets)
    parts = {"answer": answer_loss(log_probs, mask, mean=config.answer_mean)}
    total = parts["answer"]
    if scores is not None:
        ranking = scorer_losses(model, rows, scores, targets, batch, config)
        total = total + config.distill_weight * ranking.get("distill", 0.0)
        total = total + config.gold_weight * ranking.get("gold", 0.0)
        parts |= ranking
    if config.dense_weight or config.dense_distill_weight:
        dense = dense_losses(model, questions, memories, scores, batch, config)
        total = total + config.dense_weight * dense["dense"]
        total = total + config.dense_distill_weight * dense.get("dense_distill", 0.0)
        parts |= dense
    detached = {name: part.detach() for name, part in parts.items()}
    return Losses(total, detached | {"gold_kept": _gold_kept(kept, batch).to(total.device)})


def encode_memories(model: MemoryModel, batch: Batch) -> Packed:
    """The passages' memories: those of the batch, or made. Frozen ones are made as for a store: without gradient and
    without dropout.
    """
    if batch.memories is not None:
        states = stream(batch.memories.states.to(model.device, model.dtype))
        return Packed(states, batch.memories.token_ids.to(model.device), batch.memories.layout)
    tokens = batch.passages.to(model.device)
    if (model.memory_embedding or model.embedding).weight.requires_grad:
        return model.encode_passages(tokens)
    with evaluating(model), torch.no_grad():
        return model.encode_passages(tokens)


# --- the answer ---------------------------------------------------------------------------------------------


def select(scores: Tensor | None, batch: Batch, config: LossConfig, *, seed: int) -> Tensor:
    """The rows `(M,)` that pass to the reader: the `keep_k` best of each question; the first ones without scores.

    For a share `gold_in_reader` of the questions, the gold passage with the best score is always among them.
    """
    # Where no question has more passages, all are kept in their own order: no need to wait for the device's scores.
    if int(torch.bincount(batch.question_of).max()) <= config.keep_k:
        return torch.arange(len(batch.question_of))
    ranking = selection.order(scores, batch.question_of)  # without a prior, which is fitted after training
    kept = selection.select(ranking, batch.question_of, config.keep_k)
    if not config.gold_in_reader:
        return kept
    generator = torch.Generator().manual_seed(seed)
    forced = torch.rand(batch.size, generator=generator) < config.gold_in_reader  # (B,)
    candidates = (batch.gold & forced[batch.question_of]).nonzero().squeeze(1)
    if not len(candidates):
        return kept
    best = candidates[selection.select(ranking[candidates], batch.question_of[candidates], 1)]  # one per question
    ranking = ranking.index_fill(0, best, torch.inf)  # best of its question: selected, whatever its score
    return selection.select(ranking, batch.question_of, config.keep_k)


def answer_loss(log_probs: Tensor, mask: Tensor, *, mean: str) -> Tensor:
    """Cross-entropy, averaged over all tokens ("token"), or within each question and then over them ("question")."""
    lost = -(log_probs * mask)
    if mean == "token":
        return lost.sum() / mask.sum().clamp_min(1)
    return (lost.sum(1) / mask.sum(1).clamp_min(1)).mean()


# --- the scorer ---------------------------------------------------------------------------------------------


def scorer_losses(
    model: MemoryModel, rows: Rows, scores: Tensor, targets: Tensor, batch: Batch, config: LossConfig
) -> dict[str, Tensor]:
    """The losses "distill" and "gold", where the config wants them.

    They train the scorer, and with it live_a and the memory encoder.
    """
    parts = {}
    if config.distill_weight:
        taking_part = first_rows(batch, config.distill_passages)
        likelihoods = passage_likelihoods(model, rows.take(taking_part), targets, config)
        parts["distill"] = distillation(
            scores[taking_part.to(scores.device)],
            likelihoods,
            batch.question_of[taking_part],
            direction=config.distill_direction,
            score_temperature=config.score_temperature,
            lm_temperature=config.lm_temperature,
        )
    if config.gold_weight:
        parts["gold"] = gold_loss(scores / config.score_temperature, batch.gold, batch.question_of)
    return parts


@torch.no_grad()
def passage_likelihoods(model: MemoryModel, rows: Rows, targets: Tensor, config: LossConfig) -> Tensor:
    """Log p(answer | question, that passage alone), `(R,)` float32, without gradient and without dropout.

    Args:
        model: is put into evaluation mode, and back.
        rows: R rows after live_a.
        targets: `(B, t)`.
        config: `lm_log_probability`, and how many rows to decode at once.
    """
    found = []
    with evaluating(model):
        for piece in torch.split(torch.arange(len(rows.question_of)), config.lm_rows_at_once):
            alone = _alone(rows.take(piece))
            wanted = targets[rows.question_of[piece].to(targets.device)]  # (r, t)
            log_probs, mask = model.target_log_probs(model.live_b(alone), wanted)
            sums = (log_probs * mask).sum(1)
            found.append(sums if config.lm_log_probability == "sum" else sums / mask.sum(1).clamp_min(1))
    return torch.cat(found)


def distillation(
    scores: Tensor,
    likelihoods: Tensor,
    question_of: Tensor,
    *,
    direction: str,
    score_temperature: float,
    lm_temperature: float,
) -> Tensor:
    """The KL divergence of two rankings of each question's passages, averaged over questions (GLIMMER, section 3.3).

    Args:
        scores: `(R,)`, the scorer's.
        likelihoods: `(R,)`, log p(answer | question, passage), without gradient.
        question_of: `(R,)` ascending; groups may differ in size. A question with one passage adds zero.
        direction: "lm||rank" or "rank||lm".
        score_temperature: divides scores before their softmax.
        lm_temperature: divides likelihoods before theirs.
    """
    rank = selection.log_shares(scores / score_temperature, question_of)
    lm = selection.log_shares(likelihoods.detach() / lm_temperature, question_of)
    p, q = (lm, rank) if direction == "lm||rank" else (rank, lm)
    questions = int(selection.places(question_of)[0][-1]) + 1  # groups are numbered from 0, ascending
    return (p.exp() * (p - q)).sum() / questions


def gold_loss(scores: Tensor, gold: Tensor, question_of: Tensor) -> Tensor:
    """-log of the gold passages' share of softmax(scores), averaged over the questions that have any."""
    log_shares = selection.log_shares(scores, question_of)
    padded = selection.by_question(log_shares.masked_fill(~gold.to(scores.device), -torch.inf), question_of)
    with_gold = (
        selection.by_question(gold.float(), question_of, fill=0.0).any(1).nonzero().squeeze(1)
    )  # on the CPU: no waiting
    if not len(with_gold):
        return scores.sum() * 0.0  # zero, with a gradient of zeros
    return -padded.index_select(0, with_gold.to(scores.device)).logsumexp(1).mean()


# --- the retrieval projection -------------------------------------------------------------------------------


def dense_losses(
    model: MemoryModel, questions: Packed, memories: Packed, scores: Tensor | None, batch: Batch, config: LossConfig
) -> dict[str, Tensor]:
    """The losses of the retrieval projection: "dense" (InfoNCE), and "dense_distill" where there are scores."""
    if not config.dense_trains_encoder:
        questions = Packed(questions.states.detach(), questions.token_ids, questions.layout)
        memories = Packed(memories.states.detach(), memories.token_ids, memories.layout)
    cosines = model.embed(questions) @ model.embed(memories).T / config.dense_temperature  # (B, R)
    parts = {"dense": contrast(cosines, batch)}
    if config.dense_distill_weight and scores is not None:
        own = cosines[batch.question_of.to(cosines.device), torch.arange(cosines.shape[1], device=cosines.device)]
        parts["dense_distill"] = distillation(
            own,
            scores / config.score_temperature,
            batch.question_of,
            direction="lm||rank",
            score_temperature=1.0,
            lm_temperature=1.0,
        )
    return parts


def contrast(similarities: Tensor, batch: Batch) -> Tensor:
    """-log of the gold passages' share of softmax(similarities) over all passages, averaged over questions with gold.

    Args:
        similarities: `(B, R)`.
        batch: says which passages are gold. A twin of a gold passage has the same tokens, but is not marked for this
            question. It is as right as the gold one, so it is left out of the softmax.
    """
    device = similarities.device
    asking = batch.question_of[batch.gold]  # of each gold passage, its question
    if not len(asking):
        return similarities.sum() * 0.0
    question_of, gold = batch.question_of.to(device), batch.gold.to(device)
    positive = (question_of == torch.arange(batch.size, device=device)[:, None]) & gold  # (B, R)
    twin = twins(batch)  # (R,): passages of the same tokens have the same number
    # (B, numbers): whether a question has a gold passage with this number.
    has = torch.zeros(batch.size, int(twin.max()) + 1, dtype=torch.bool, device=device)
    has[asking.to(device), twin[batch.gold].to(device)] = True
    out = has[:, twin.to(device)] & ~positive  # (B, R)
    log_shares = similarities.masked_fill(out, -torch.inf).log_softmax(1).masked_fill(~positive, -torch.inf)
    return -log_shares.index_select(0, torch.unique(asking).to(device)).logsumexp(1).mean()


def twins(batch: Batch) -> Tensor:
    """A number for each passage, `(R,)` int64; passages of the same tokens have the same."""
    numbers: dict[bytes, int] = {}
    rows = torch.split(batch.passages.ids, batch.passages.layout.lengths.tolist())
    return torch.tensor([numbers.setdefault(row.numpy().tobytes(), len(numbers)) for row in rows])


# --- pieces -------------------------------------------------------------------------------------------------


@contextmanager
def evaluating(model: MemoryModel) -> Iterator[None]:
    """Put the model into evaluation mode (no dropout) within the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def first_rows(batch: Batch, count: int) -> Tensor:
    """The rows `(M,)` of the first `count` passages of each question; of all passages if `count` is 0."""
    _, position = selection.places(batch.question_of)
    return (position < (count or len(position))).nonzero().squeeze(1)


def _alone(rows: Rows) -> Rows:
    """The same rows, each with a question of its own, so that a reader sees one passage at a time."""
    return Rows(
        states=rows.states,
        token_ids=rows.token_ids,
        from_passage=rows.from_passage,
        layout=rows.layout,
        question_of=torch.arange(len(rows.question_of)),
        questions=len(rows.question_of),
        order=rows.order,
    )


def _gold_kept(kept: Tensor, batch: Batch) -> Tensor:
    """Of the questions with gold passages, the share with a kept one; 0 if there are no such questions."""
    have = torch.zeros(batch.size, dtype=torch.bool)
    have[batch.question_of[batch.gold]] = True
    got = torch.zeros(batch.size, dtype=torch.bool)
    got[batch.question_of[kept][batch.gold[kept]]] = True
    return got.sum() / have.sum().clamp_min(1)
