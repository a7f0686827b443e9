"""Our model against stock `transformers`: every flavour of T5, and each system against its own composition of
stock parts. The stock weights are drawn in the test, and go through files both ways."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from memstore.checkpoint.loading import from_t5
from memstore.model.model import MemoryModel
from memstore.model.packed import Packed, Tokens
from tests import tiny

FLAVOURS: tuple[tiny.Flavour, ...] = ("v1.0", "v1.1", "flan", "mt5")
LENGTHS = [300, 1, 140]  # distances well past 128, where buckets stop telling them apart
NO_PASSAGE = torch.zeros(0, dtype=torch.int64)


def close(got: Tensor, want: Tensor) -> None:
    """Equal to 1e-4, as the design asks."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {flavour: tiny.save_stock_t5(tmp_path_factory.mktemp("t5"), flavour) for flavour in FLAVOURS}


@pytest.fixture(scope="module", params=FLAVOURS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def stock(folder: Path) -> T5ForConditionalGeneration:
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()  # mT5's class is not a T5's, but has its parts


def raw_states(stock: T5ForConditionalGeneration, ids: Tensor, layers: int) -> Tensor:
    """Stock residual stream `(L, D)` of one row after so many encoder layers, before any norm."""
    return stock.encoder(ids[None], output_hidden_states=True).hidden_states[layers][0]


def stock_tail(stock: T5ForConditionalGeneration, first: int) -> nn.Module:
    """A stock encoder of the layers from `first` on, given the position biases that T5 keeps in layer 0."""
    tail = copy.deepcopy(stock.encoder)
    table = tail.block[0].layer[0].SelfAttention.relative_attention_bias
    tail.block = tail.block[first:]
    tail.block[0].layer[0].SelfAttention.relative_attention_bias = table
    tail.block[0].layer[0].SelfAttention.has_relative_attention_bias = True
    return tail


def passages_alone(model: MemoryModel, rows: list[Tensor]) -> Tensor:
    """Encoder output of rows of passage tokens only: memories after empty questions."""
    memories = model.encode_passages(Tokens.of(rows))
    nothing = model.encode_question(Tokens.of([NO_PASSAGE] * len(rows)))
    return model.live_b(model.live_a(nothing, memories, torch.arange(len(rows)))).states


@torch.no_grad()
@pytest.mark.parametrize("alpha", [1 / 6, 1 / 3, 1 / 2, 1])
def test_encoder_cut_anywhere_equals_stock(folder: Path, stock: T5ForConditionalGeneration, alpha: float) -> None:
    model, _ = from_t5(folder, alpha=alpha, beta=1 / 2)
    rows = tiny.token_rows(LENGTHS)
    want = torch.cat([stock.encoder(row[None]).last_hidden_state[0] for row in rows])
    close(passages_alone(model, rows), want)


@torch.no_grad()
@pytest.mark.parametrize("system", ["lumen", "glimmer"])
def test_a_memory_is_the_residual_stream_before_the_norm(
    folder: Path, stock: T5ForConditionalGeneration, system: str
) -> None:
    model, _ = from_t5(folder, system=system, alpha=1 / 2)
    rows = tiny.token_rows(LENGTHS)
    want = torch.cat([raw_states(stock, row, 3) for row in rows])
    close(model.encode_passages(Tokens.of(rows)).states, want)
    close(model.encode_question(Tokens.of(rows)).states, want)


@torch.no_grad()
def test_teacher_forced_log_probs_equal_stock(folder: Path, stock: T5ForConditionalGeneration) -> None:
    model, _ = from_t5(folder)
    rows, targets = tiny.token_rows([40, 40]), torch.stack(tiny.token_rows([150, 150], seed=1))
    memories = model.encode_passages(Tokens.of(rows))
    nothing = model.encode_question(Tokens.of([NO_PASSAGE] * 2))
    encoded = model.live_b(model.live_a(nothing, memories, torch.arange(2)))
    want = stock(input_ids=torch.stack(rows), labels=targets).logits.log_softmax(-1)
    close(model.log_probs(encoded, targets), want)


@torch.no_grad()
def test_fid_equals_fid_of_stock_parts(folder: Path, stock: T5ForConditionalGeneration) -> None:
    """alpha = 1: each `[question; passage]` through the stock encoder, all of them to the stock decoder."""
    model, _ = from_t5(folder, system="fid")
    questions, passages = tiny.token_rows([7, 3]), tiny.token_rows([20, 150, 9], seed=1)
    question_of = torch.tensor([0, 0, 1])
    targets = torch.stack(tiny.token_rows([12, 12], seed=2))
    rows = model.live_a(
        model.encode_question(Tokens.of(questions)), model.encode_passages(Tokens.of(passages)), question_of
    )
    encoded = model.live_b(rows)
    got = model.log_probs(encoded, targets)
    pairs = [torch.cat([questions[q], p]) for q, p in zip(question_of.tolist(), passages, strict=True)]
    outputs = [stock.encoder(pair[None]).last_hidden_state[0] for pair in pairs]
    close(encoded.states, torch.cat(outputs))
    for b, states in enumerate([torch.cat(outputs[:2]), outputs[2]]):
        logits = stock(encoder_outputs=BaseModelOutput(states[None]), labels=targets[b : b + 1]).logits
        close(got[b], logits[0].log_softmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("system", ["lumen", "glimmer"])
def test_late_interaction_equals_stock_parts(folder: Path, stock: T5ForConditionalGeneration, system: str) -> None:
    """alpha = 1/2: the stock encoder's upper half over stock lower-half states of question and passage."""
    model, _ = from_t5(folder, system=system, alpha=1 / 2)
    questions, passages = tiny.token_rows([7, 3]), tiny.token_rows([20, 150, 9], seed=1)
    question_of = torch.tensor([0, 0, 1])
    rows = model.live_a(
        model.encode_question(Tokens.of(questions)), model.encode_passages(Tokens.of(passages)), question_of
    )
    tail = stock_tail(stock, 3)
    want = [
        tail(inputs_embeds=torch.cat([raw_states(stock, questions[q], 3), raw_states(stock, p, 3)])[None])
        for q, p in zip(question_of.tolist(), passages, strict=True)
    ]
    close(model.live_b(rows).states, torch.cat([w.last_hidden_state[0] for w in want]))


def test_gradients_equal_stock(folder: Path) -> None:
    """One loss through encoder and decoder: the same gradient on embeddings, head and position biases."""
    stock = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    model, _ = from_t5(folder)
    row, targets = tiny.token_rows([30])[0], tiny.token_rows([6], seed=1)[0][None]
    stock(input_ids=row[None], labels=targets).loss.backward()
    nothing = Packed(torch.zeros(0, 32), NO_PASSAGE, Tokens.of([NO_PASSAGE]).layout)
    memories = model.encode_passages(Tokens.of([row]))
    encoded = model.live_b(model.live_a(nothing, memories, torch.tensor([0])))
    nn.functional.nll_loss(model.log_probs(encoded, targets)[0], targets[0]).backward()
    assert model.embedding.weight.grad is not None
    close(model.embedding.weight.grad, stock.shared.weight.grad)
    if model.head is not None:
        close(model.head.weight.grad, stock.lm_head.weight.grad)
    table = stock.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    close(model.memory_encoder.bias.table.weight.grad + model.live.bias.table.weight.grad, table)
    assert table.abs().max() > 1e-3  # more than the tolerance: the comparison could fail
