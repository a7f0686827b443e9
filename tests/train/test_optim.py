"""The learning rate's schedule, which parameter goes to which optimizer, and the optimizer's state in a file."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from memstore.errors import CheckpointMismatch
from memstore.model.model import MemoryModel
from memstore.train.config import OptimizerConfig
from memstore.train.initial_model import freeze
from memstore.train.optim import MuonByShape, Optimizer, learning_rate
from tests import tiny

NAMES = ["adamw", "adafactor", "muon"]


def config(**values: Any) -> OptimizerConfig:
    return OptimizerConfig(**({"lr": 0.1, "warmup_steps": 4} | values))


@pytest.mark.parametrize(
    ("values", "want"),  # at steps 0, 3, 4, 9, 14, 19 of 20
    [
        ({"schedule": "constant"}, [0.025, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "constant", "warmup_steps": 0}, [0.1] * 6),
        ({"schedule": "linear"}, [0.025, 0.1, 0.1 * 15 / 16, 0.1 * 10 / 16, 0.1 * 5 / 16, 0.0]),
        ({"schedule": "linear", "decay_share": 0.5}, [0.025, 0.1, 0.1, 0.1, 0.05, 0.0]),
        ({"schedule": "linear", "decay_share": 0.5, "final_lr_share": 0.2}, [0.025, 0.1, 0.1, 0.1, 0.06, 0.02]),
        ({"schedule": "linear", "decay_share": 0.0}, [0.025, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "cosine", "decay_share": 0.5},
         [0.025, 0.1, 0.1, 0.1, 0.05, 0.0]),
        ({"schedule": "inverse_sqrt"},
         [0.025, 0.1, *(0.1 * math.sqrt(4 / n) for n in (5, 10, 15, 20))]),
    ],
)  # fmt: skip
def test_learning_rate(values: dict[str, Any], want: list[float]) -> None:
    got = [learning_rate(step, config(**values), steps=20) for step in (0, 3, 4, 9, 14, 19)]
    assert got == pytest.approx(want)


def test_a_cosine_is_not_a_line() -> None:
    values = [learning_rate(s, config(schedule="cosine", warmup_steps=0), steps=8) for s in (1, 3, 5)]
    assert values == pytest.approx([0.1 * (1 + math.cos(math.pi * x)) / 2 for x in (0.25, 0.5, 0.75)])


def set_gradients(model: MemoryModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_through_a_file_and_the_next_step_is_the_same(name: str) -> None:
    """To the bit, as resuming requires: the same operations on tensors of the same shapes, by one process."""
    model, other = tiny.model(copy_head=True), tiny.model(copy_head=True)
    values = config(name=name, weight_decay=0.1)
    optimizer = Optimizer(model, values)
    for step in range(3):
        set_gradients(model, step)
        optimizer.step(0.01)
    other.load_state_dict(model.state_dict())
    resumed = Optimizer(other, values)
    resumed.load(load(save(optimizer.state())))
    for one, its in ((model, optimizer), (other, resumed)):
        set_gradients(one, 7)
        its.step(0.02)
    for (n, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), n
    assert {k: v.tolist() for k, v in optimizer.state().items()} == {k: v.tolist() for k, v in resumed.state().items()}


def test_without_the_state_the_next_step_would_differ() -> None:
    model = tiny.model()
    first = Optimizer(model, config())
    set_gradients(model, 0)
    first.step(0.01)
    assert len(first.state()) == 3 * len(list(model.parameters()))  # step, exp_avg, exp_avg_sq
    other = tiny.model()
    other.load_state_dict(model.state_dict())
    for one, its in ((model, first), (other, Optimizer(other, config()))):
        set_gradients(one, 1)
        its.step(0.01)
    assert not torch.equal(model.embedding.weight, other.embedding.weight)


def test_state_of_another_optimizer_is_refused() -> None:
    model = tiny.model()
    optimizer = Optimizer(model, config(name="adafactor"))
    set_gradients(model, 0)
    optimizer.step(0.01)
    with pytest.raises(CheckpointMismatch, match="adafactor for "):
        Optimizer(model, config(name="adamw")).load(optimizer.state())


def test_muon_takes_the_matrices_inside_blocks_and_adamw_the_rest() -> None:
    model = tiny.model(copy_head=True, embedding_dim=8)
    optimizer = Optimizer(model, config(name="muon"))
    by_id = {id(p): n for n, p in model.named_parameters()}
    taken = {
        name: {by_id[id(p)] for group in part.param_groups for p in group["params"]}
        for name, part in optimizer.parts.items()
    }
    assert taken["muon"] | taken["adamw"] == set(by_id.values())
    assert not taken["muon"] & taken["adamw"]
    assert {n.split(".")[0] for n in taken["muon"]} == {"memory_encoder", "live", "decoder", "copy_head"}
    assert {n for n in taken["adamw"] if ".blocks." in n} == {
        n for n in by_id.values() if "norm" in n and "blocks" in n
    }
    assert {"embedding.weight", "head.weight", "scorer.weight", "projection.weight", "live.bias.table.weight",
            "copy_head.gate.weight"} <= taken["adamw"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_for_matrices_alone(name: str) -> None:
    model = tiny.model(copy_head=True)
    optimizer = Optimizer(model, config(name=name, weight_decay=0.3))
    for part in optimizer.parts.values():
        for group in part.param_groups:
            for p in group["params"]:
                decays = p.ndim == 2 and not any(
                    p is q for q in (model.embedding.weight, model.head.weight, *(  # type: ignore[union-attr]
                        s.bias.table.weight for s in (model.memory_encoder, model.live, model.decoder)))
                )  # fmt: skip
                assert group["weight_decay"] == (0.3 if decays else 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parts_never_move(name: str) -> None:
    model = tiny.model(system="lumen")
    freeze(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = Optimizer(model, config(name=name, weight_decay=0.5))
    set_gradients(model, 0)
    optimizer.step(0.1)
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n.split(".")[0] for n in before} - {"memory_encoder", "memory_embedding"}


def test_gradients_are_clipped_to_the_norm_and_dropped() -> None:
    model = tiny.model()
    optimizer = Optimizer(model, config(clip_norm=0.5, beta1=0.0))
    set_gradients(model, 0)
    want = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    norm = optimizer.step(0.0)
    torch.testing.assert_close(norm, want.norm())
    kept = torch.cat([v.flatten() for k, v in optimizer.state().items() if "/exp_avg/" in k])
    torch.testing.assert_close(kept.norm(), torch.tensor(0.5))
    assert all(p.grad is None for p in model.parameters())


def test_no_clipping_without_a_limit() -> None:
    model = tiny.model()
    optimizer = Optimizer(model, config(clip_norm=0.0, beta1=0.0))
    set_gradients(model, 0)
    norm = optimizer.step(0.0)
    kept = torch.cat([v.flatten() for k, v in optimizer.state().items() if "/exp_avg/" in k])
    torch.testing.assert_close(kept.norm(), norm)


def test_the_list_of_gradients_is_complete() -> None:
    model = tiny.model()
    gradients, here = Optimizer(model, config()).gradients()
    assert [g.shape for g in gradients] == [p.shape for p in model.parameters()]
    assert not any(bool(g.any()) for g in gradients)
    assert here.tolist() == [0.0] * len(gradients)


def test_a_parameter_that_no_process_reached_has_no_weight_decay() -> None:
    model = tiny.model()
    optimizer = Optimizer(model, config(weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_gradients(model, 0)
    assert model.scorer is not None
    model.scorer.weight.grad = None
    _, reached = optimizer.gradients()
    optimizer.forget(reached)
    optimizer.step(0.1)
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == {"scorer.weight"}


def test_muon_of_several_matrices_together_is_muon_of_each() -> None:
    shapes = [(8, 24), (8, 24), (8, 24), (32, 8), (32, 8), (16, 16)]
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([p.clone().requires_grad_() for p in first] for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    one, other = MuonByShape(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        ours[1].grad = theirs[1].grad = None  # one of three of this shape has none
        one.step()
        other.step()
    assert torch.equal(ours[1], first[1])
    for p, q, before in zip(ours, theirs, first, strict=True):
        moved = (q - before).norm()
        assert (p - q).norm() <= 1e-2 * moved  # orthogonalised in bfloat16
    assert [n for n, p in enumerate(ours) if torch.equal(p, first[n])] == [1]
