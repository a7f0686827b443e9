"""Dev scores: answers the dev questions as a server would, and finds the ranks of gold passages.

Knows the model, dev batches and the tokenizer; refuses to know the training loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from memstore import decode
from memstore.model import selection
from memstore.model.model import MemoryModel
from memstore.model.packed import Packed
from memstore.model.ranking import rank
from memstore.model.tokens import TextTokenizer
from memstore.questions.metrics import accuracy, exact_match, f1
from memstore.train.config import DevConfig
from memstore.train.data.batch import DevBatch
from memstore.train.metrics import Measured
from memstore.train.through_codec import Through, as_they_are


@torch.inference_mode()
def measure(
    model: MemoryModel,
    tokenizer: TextTokenizer,
    batches: Iterable[DevBatch],
    config: DevConfig,
    *,
    keep_k: int,
    through: Through = as_they_are,
) -> Iterator[Measured]:
    """The scores and ranks of every dev question.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        batches: dev batches, on the CPU.
        config: how answers are made.
        keep_k: passages that pass to the reader, where the config says 0.
        through: what a store makes of memories.
    """
    for batch in batches:
        yield from _measure(model, tokenizer, batch, config, config.keep_k or keep_k, through)


def _measure(
    model: MemoryModel, tokenizer: TextTokenizer, batch: DevBatch, config: DevConfig, keep_k: int, through: Through
) -> list[Measured]:
    questions = model.encode_question(batch.questions.to(model.device))
    memories = model.encode_passages(batch.passages.to(model.device))
    ranked = rank(model, questions, through(memories), batch.question_of)
    orders = {"retrieved": selection.order(None, batch.question_of)}
    if ranked.scores is not None:
        orders["reranked"] = ranked.order()
    if model.projection is not None:
        orders["dense"] = _cosines(model, questions, memories, batch.question_of)
    kept = selection.select(orders.get("reranked", orders["retrieved"]), batch.question_of, keep_k)
    encoded = model.live_b(ranked.take(kept))
    log_probs, mask = model.target_log_probs(encoded, batch.targets.to(model.device))
    losses = -((log_probs * mask).sum(1) / mask.sum(1).clamp_min(1)).cpu()
    padding = [model.config.pad_token_id]
    decoded = decode.generate(
        model,
        encoded,
        max_new_tokens=config.max_new_tokens,
        num_beams=model.config.num_beams,
        banned=padding,
    )
    ranks = {name: gold_ranks(values, batch) for name, values in orders.items()}
    found = []
    for i, (line, answers) in enumerate(zip(decoded, batch.answers, strict=True)):
        guess = tokenizer.decode(line.ids)
        scores = {"em": exact_match(guess, answers), "f1": f1(guess, answers), "accuracy": accuracy(guess, answers)}
        own = {name: found_at[i] for name, found_at in ranks.items() if found_at[i]}
        found.append(Measured(task=batch.tasks[i], scores=scores | {"loss": float(losses[i])}, ranks=own))
    return found


def gold_ranks(values: Tensor, batch: DevBatch) -> list[int]:
    """For each question the rank (from 1) of its best gold passage, by descending values; 0 without gold."""
    order = selection.best_first(values, batch.question_of)
    question = batch.question_of[order]
    place = selection.places(question)[1]
    ranks = [0] * batch.size
    for row in batch.gold[order].nonzero().squeeze(1).tolist():
        b = int(question[row])
        ranks[b] = ranks[b] or int(place[row]) + 1  # rows come best first: the first one counts
    return ranks


def _cosines(model: MemoryModel, questions: Packed, memories: Packed, question_of: Tensor) -> Tensor:
    """The cosine of each passage with its question, `(R,)`: dense retrieval's score."""
    vectors = model.embed(questions)[question_of.to(model.device)]
    return (vectors * model.embed(memories)).sum(-1).cpu()
