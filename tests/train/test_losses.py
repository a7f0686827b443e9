"""Losses against values worked out by hand, and gradients: each part reaches exactly what it should."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.train import losses
from memstore.train.config import DevConfig, LossConfig
from memstore.train.data.batch import Batch
from memstore.train.initial_model import check_dev, check_losses, freeze
from tests import tiny
from tests.train.loop_cases import ToySource, contrast_batch

OF = torch.tensor([0, 0, 1])
LN = math.log


def make(system: str = "glimmer", **changes: object) -> MemoryModel:
    shape: dict[str, Any] = {"system": system, "alpha": 1.0 if system == "fid" else 1 / 3, "copy_head": True}
    model = tiny.model(**(shape | changes)).train()
    freeze(model)
    return model


def batch() -> Batch:
    return ToySource().batch(0)


def close(got: Tensor, want: float | Tensor) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want), rtol=1e-5, atol=1e-6)


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "want"), [("token", 7 / 3), ("question", (3 / 2 + 4) / 2)])
def test_answer_loss(mean: str, want: float) -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-4.0, -9.0, -9.0]])  # -9 is on padding
    mask = torch.tensor([[True, True, False], [True, False, False]])
    close(losses.answer_loss(log_probs, mask, mean=mean), want)


@pytest.mark.parametrize(("mean", "want"), [("token", 3 / 2), ("question", 3 / 2 / 2)])
def test_an_answer_without_tokens_costs_nothing(mean: str, want: float) -> None:
    log_probs, mask = torch.tensor([[-1.0, -2.0], [-9.0, -9.0]]), torch.tensor([[True, True], [False, False]])
    close(losses.answer_loss(log_probs, mask, mean=mean), want)


DISTILLATION = [
    # rank = (1/4, 3/4), lm = (1/2, 1/2); the second question has one passage: zero; mean of two questions
    ("lm||rank", 1.0, 1.0, (0.5 * LN(2) + 0.5 * LN(2 / 3)) / 2),
    ("rank||lm", 1.0, 1.0, (0.25 * LN(1 / 2) + 0.75 * LN(3 / 2)) / 2),
    # scores halved: rank = (1, sqrt 3) / (1 + sqrt 3)
    ("lm||rank", 2.0, 1.0, (0.5 * LN((1 + 3**0.5) / 2) + 0.5 * LN((1 + 3**0.5) / (2 * 3**0.5))) / 2),
]


@pytest.mark.parametrize(("direction", "t_s", "t_lm", "want"), DISTILLATION)
def test_distillation(direction: str, t_s: float, t_lm: float, want: float) -> None:
    scores, likelihoods = torch.tensor([1.0, 1.0 + LN(3), 5.0]), torch.tensor([-7.0, -7.0, -2.0])
    got = losses.distillation(scores, likelihoods, OF, direction=direction, score_temperature=t_s, lm_temperature=t_lm)
    close(got, want)


def test_the_readers_temperature_divides_its_log_likelihoods() -> None:
    likelihoods = torch.tensor([0.0, 4 * LN(3), 0.0])
    got = losses.distillation(
        torch.zeros(3), likelihoods, OF, direction="lm||rank", score_temperature=1.0, lm_temperature=4.0
    )
    close(got, (0.25 * LN(1 / 2) + 0.75 * LN(3 / 2)) / 2)


def test_the_gradient_of_distillation_is_the_difference_of_the_rankings() -> None:
    scores = torch.tensor([0.0, LN(3), 5.0], requires_grad=True)
    likelihoods = torch.zeros(3, requires_grad=True)
    losses.distillation(
        scores, likelihoods, OF, direction="lm||rank", score_temperature=1.0, lm_temperature=1.0
    ).backward()
    assert scores.grad is not None
    close(scores.grad, torch.tensor([1 / 4 - 1 / 2, 3 / 4 - 1 / 2, 0.0]) / 2)
    assert likelihoods.grad is None


@pytest.mark.parametrize(
    ("gold", "want"),
    [
        ([False, True, False], -LN(3 / 4)),  # the second question has no gold: it does not count
        ([True, True, False], 0.0),
        ([True, False, True], -LN(1 / 4) / 2),
        ([False, False, False], 0.0),
    ],
)
def test_gold_loss(gold: list[bool], want: float) -> None:
    close(losses.gold_loss(torch.tensor([0.0, LN(3), 2.0]), torch.tensor(gold), OF), want)


def test_contrast() -> None:
    similarities = torch.tensor([[LN(3), 0.0, LN(4)], [LN(2), 0.0, LN(5)]])
    apart = contrast_batch([[7], [8], [9]], [0, 0, 1], [True, False, True])
    close(losses.contrast(similarities, apart), -(LN(3 / 8) + LN(5 / 8)) / 2)
    unanswered = contrast_batch([[7], [8], [9]], [0, 0, 1], [True, False, False])
    close(losses.contrast(similarities, unanswered), -LN(3 / 8))
    close(losses.contrast(similarities, contrast_batch([[7], [8], [9]], [0, 0, 1], [False] * 3)), 0.0)


def test_contrast_leaves_out_twins_of_gold_passages() -> None:
    similarities = torch.tensor([[LN(3), 0.0, LN(4)], [LN(2), 0.0, LN(5)]])
    twins = contrast_batch([[7, 1], [8], [7, 1]], [0, 0, 1], [True, False, True])  # passages 0 and 2 are the same
    close(losses.contrast(similarities, twins), -(LN(3 / 4) + LN(5 / 6)) / 2)
    own = contrast_batch([[7], [7], [8]], [0, 0, 1], [True, False, True])  # one of the same question
    close(losses.contrast(similarities, own), -(LN(3 / 7) + LN(5 / 8)) / 2)


def test_the_whole_is_the_weighted_sum() -> None:
    model, weights = make(embedding_dim=8), (0.5, 2.0, 0.25, 3.0)
    names = ("distill_weight", "gold_weight", "dense_weight", "dense_distill_weight")
    found = losses.training_loss(model, batch(), LossConfig(**dict(zip(names, weights, strict=True))), seed=0)
    parts = found.parts
    want = parts["answer"] + sum(w * parts[n.removesuffix("_weight")] for n, w in zip(names, weights, strict=True))
    close(found.total.detach(), want)
    assert all(not p.requires_grad for p in parts.values())
    assert all(float(p) > 0 for p in parts.values())


def test_the_gold_loss_is_of_scores_over_their_temperature() -> None:
    model, given = make(dropout_rate=0.0), batch()
    config = LossConfig(distill_weight=0.0, gold_weight=1.0, score_temperature=0.25)
    got = losses.training_loss(model, given, config, seed=0).parts["gold"]
    close(got, losses.gold_loss(scored(model, given) / 0.25, given.gold, given.question_of))


def test_the_projection_learns_from_cosines_over_their_temperature_and_scores_over_theirs() -> None:
    """dense_distill is KL(rerank || dense): its gradient by a logit is dense's share minus the scorer's."""
    model, given = make(dropout_rate=0.0, embedding_dim=8), batch()
    config = LossConfig(dense_distill_weight=1.0, dense_temperature=0.2, score_temperature=0.25)
    questions, memories = model.encode_question(given.questions), model.encode_passages(given.passages)
    logits = model.embed(questions) @ model.embed(memories).T / 0.2  # (B, R)
    scores = scored(model, given)
    got = losses.dense_losses(model, questions, memories, scores, given, config)
    close(got["dense"].detach(), losses.contrast(logits, given).detach())
    want = 0.0
    for b in range(given.size):
        own = given.question_of == b
        scorer, dense = (scores[own] / 0.25).softmax(0), logits[b, own].detach().softmax(0)
        want += float((scorer * (scorer / dense).log()).sum()) / given.size
    close(got["dense_distill"].detach(), want)


@torch.no_grad()
def scored(model: MemoryModel, given: Batch) -> Tensor:
    """The scorer's scores of a batch, `(R,)`."""
    questions, memories = model.encode_question(given.questions), model.encode_passages(given.passages)
    return model.score(model.live_a(questions, memories, given.question_of))


# --- the reader's opinion of each passage -------------------------------------------------------------------


def read_alone(model: MemoryModel, given: Batch, row: int) -> tuple[float, int]:
    """Sum of the answer's log-probabilities from one passage, by hand, and the answer's length."""
    b = int(given.question_of[row])
    questions = torch.split(given.questions.ids, given.questions.layout.lengths.tolist())
    passages = torch.split(given.passages.ids, given.passages.layout.lengths.tolist())
    answer = [t for t in given.targets[b].tolist() if t != 0]
    live = model.live_a(
        model.encode_question(Tokens.of([questions[b]])),
        model.encode_passages(Tokens.of([passages[row]])),
        torch.tensor([0]),
    )
    log_probs = model.log_probs(model.live_b(live), torch.tensor([answer]))[0]
    return sum(float(log_probs[i, t]) for i, t in enumerate(answer)), len(answer)


@torch.no_grad()
@pytest.mark.parametrize("mean", ["sum", "mean"])
@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_likelihoods_are_those_of_reading_one_passage(mean: str, at_once: int) -> None:
    model, given = make().eval(), batch()
    config = LossConfig(lm_log_probability=mean, lm_rows_at_once=at_once)  # type: ignore[arg-type]
    rows = model.live_a(
        model.encode_question(given.questions), model.encode_passages(given.passages), given.question_of
    )
    got = losses.passage_likelihoods(model, rows, given.targets, config)
    want = [read_alone(model, given, row) for row in range(len(given.question_of))]
    torch.testing.assert_close(got, torch.tensor([s / (n if mean == "mean" else 1) for s, n in want]))


def test_likelihoods_have_no_dropout_and_no_gradient_and_restore_the_mode() -> None:
    model, given = make(dropout_rate=0.5), batch()
    rows = model.live_a(
        model.encode_question(given.questions), model.encode_passages(given.passages), given.question_of
    )
    first, second = (losses.passage_likelihoods(model, rows, given.targets, LossConfig()) for _ in range(2))
    close(first, second)
    assert not first.requires_grad
    assert model.training


@pytest.mark.parametrize(
    ("count", "want"), [(0, [0, 1, 2, 3, 4]), (1, [0, 3]), (2, [0, 1, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_how_many_passages_take_part(count: int, want: list[int]) -> None:
    given = contrast_batch([[7]] * 5, [0, 0, 0, 1, 1], [False] * 5)
    assert losses.first_rows(given, count).tolist() == want


def test_distillation_is_over_the_passages_that_take_part() -> None:
    model, given = make(dropout_rate=0.0), batch()
    assert int((given.question_of == 0).sum()) > 2  # so that the second question's places differ
    config = LossConfig(distill_passages=2, score_temperature=0.5, lm_temperature=3.0, lm_log_probability="sum")
    got = losses.training_loss(model, given, config, seed=0).parts["distill"]
    scores, want = scored(model, given), 0.0
    for b in range(given.size):
        rows = (given.question_of == b).nonzero().squeeze(1).tolist()[:2]
        with torch.no_grad():
            lm = torch.tensor([read_alone(model.eval(), given, row)[0] for row in rows])
        p, q = (lm / 3.0).softmax(0), (scores[rows] / 0.5).softmax(0)
        want += float((p * (p / q).log()).sum()) / given.size  # lm||rank
    close(got, want)


# --- gradients ----------------------------------------------------------------------------------------------


def reached(model: MemoryModel) -> set[str]:
    """Parts of the model that have a gradient other than zero."""
    return {_part(n) for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def _part(name: str) -> str:
    """`live.blocks.0.attention.qkv.weight` is of `live.blocks.0`, `decoder.norm.weight` of `decoder`."""
    pieces = name.split(".")
    return ".".join(pieces[:3]) if name.startswith("live.blocks") else ".".join(pieces[: 1 + (pieces[0] == "live")])


ENCODER = {"embedding", "memory_encoder", "live.bias", "live.blocks.0"}
READER = {"live.blocks.1", "final_norm", "decoder", "copy_head", "head"}


def test_the_answer_trains_everything_but_the_scorer() -> None:
    model = make(embedding_dim=8)
    losses.training_loss(model, batch(), LossConfig(distill_weight=0.0), seed=0).total.backward()  # type: ignore[no-untyped-call]
    assert reached(model) == ENCODER | READER


@pytest.mark.parametrize("direction", ["lm||rank", "rank||lm"])
@pytest.mark.parametrize("part", ["distill", "gold"])
def test_what_trains_the_scorer_trains_live_a_and_memory_encoder_but_never_the_reader(
    part: str, direction: str
) -> None:
    model, given = make(embedding_dim=8), batch()
    config = LossConfig(
        distill_weight=float(part == "distill"),
        gold_weight=float(part == "gold"),
        distill_direction=direction,  # type: ignore[arg-type]
    )
    questions, memories = model.encode_question(given.questions), model.encode_passages(given.passages)
    rows = model.live_a(questions, memories, given.question_of)
    losses.scorer_losses(model, rows, model.score(rows), given.targets, given, config)[part].backward()  # type: ignore[no-untyped-call]
    assert reached(model) == ENCODER | {"scorer"}


def test_the_scorers_gradient_in_the_whole_is_that_of_distillation_alone() -> None:
    model, given = make(dropout_rate=0.0), batch()
    found = []
    for weight in (1.0, 3.0):
        model.zero_grad()
        losses.training_loss(model, given, LossConfig(distill_weight=weight), seed=0).total.backward()  # type: ignore[no-untyped-call]
        assert model.scorer is not None
        assert model.scorer.weight.grad is not None
        found.append(model.scorer.weight.grad.clone())
    torch.testing.assert_close(3 * found[0], found[1])


def test_lumen_does_not_train_its_memories() -> None:
    model, given = make("lumen"), batch()
    found = losses.training_loss(model, given, LossConfig(), seed=0)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert reached(model) == {"embedding", "question_encoder", "live.bias", "live.blocks.0", *READER}
    assert set(found.parts) == {"answer", "gold_kept"}
    memories = losses.encode_memories(model, given).states  # no dropout in training: they are precomputed
    close(memories, model.eval().encode_passages(given.passages).states)


def test_a_glimmer_with_frozen_memories_learns_to_read_them() -> None:
    model, given = make(), batch()
    freeze(model, memories=True)
    losses.training_loss(model, given, LossConfig(), seed=0).total.backward()  # type: ignore[no-untyped-call]
    assert reached(model) == {"live.bias", "live.blocks.0", "live.blocks.1", "scorer", *READER} - {"embedding"}
    memories = losses.encode_memories(model, given).states  # no dropout in training: they are precomputed
    close(memories, model.eval().encode_passages(given.passages).states)


def test_fid_trains_by_the_same_code() -> None:
    model = make("fid")
    losses.training_loss(model, batch(), LossConfig(), seed=0).total.backward()  # type: ignore[no-untyped-call]
    blocks = {f"live.blocks.{i}" for i in range(6)}
    assert reached(model) == {"embedding", "live.bias", "final_norm", "decoder", "copy_head", "head"} | blocks


@pytest.mark.parametrize(
    ("deep", "want"), [(False, {"projection"}), (True, {"projection", "embedding", "memory_encoder"})]
)
@pytest.mark.parametrize("part", ["dense", "dense_distill"])
def test_the_projection_learns_alone_or_with_the_encoder(part: str, deep: bool, want: set[str]) -> None:
    model, given = make(embedding_dim=8), batch()
    config = LossConfig(dense_weight=1.0, dense_distill_weight=1.0, dense_trains_encoder=deep)
    questions, memories = model.encode_question(given.questions), model.encode_passages(given.passages)
    scores = model.score(model.live_a(questions, memories, given.question_of))
    losses.dense_losses(model, questions, memories, scores, given, config)[part].backward()  # type: ignore[no-untyped-call]
    assert reached(model) == want


def test_in_bfloat16_every_parameter_has_a_finite_float32_gradient() -> None:
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.training_loss(model, batch(), LossConfig(), seed=0)
    found.total.backward()  # type: ignore[no-untyped-call]
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.dtype == torch.float32
        assert bool(p.grad.isfinite().all()), name


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["lumen", "fid"])
def test_the_best_cannot_be_kept_by_recall_without_a_scorer(system: str) -> None:
    check_dev(make("glimmer"), DevConfig(best_by="recall"))
    check_dev(make(system), DevConfig(best_by="recall", every_steps=0))
    with pytest.raises(ValueError, match=f"needs a scorer, and {system} has none"):
        check_dev(make(system), DevConfig(best_by="recall"))


@pytest.mark.parametrize(
    ("system", "width", "weight"),
    [("lumen", 8, "gold_weight"), ("fid", 8, "dense_distill_weight"), ("glimmer", 0, "dense_weight")],
)
def test_a_loss_without_its_part_is_refused(system: str, width: int, weight: str) -> None:
    with pytest.raises(ValueError, match=weight):
        check_losses(make(system, embedding_dim=width), LossConfig(**{weight: 1.0}))  # type: ignore[arg-type]
