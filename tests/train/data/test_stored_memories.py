"""Training batches with the memories of a built store: the same as encoding, and refused where they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore import checkpoint
from memstore.errors import CandidatesMismatch, ConfigError, FingerprintMismatch
from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.tables import read_table
from memstore.train.config import LossConfig, TrainConfig
from memstore.train.data.batch import Batch
from memstore.train.data.mixture import MixedBatches
from memstore.train.data.prepare import PrepareOptions, prepare
from memstore.train.data.settings import DataSettings
from memstore.train.initial_model import freeze
from memstore.train.loop import train
from memstore.train.losses import training_loss
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.train.data import data_cases as cases

Made = Callable[..., MixedBatches]
TEXTS: dict[str, Any] = {"max_passage_tokens": 200, "max_question_tokens": 120, "passage_template": "{title}: {text}"}
VOCABULARY = tiny.VOCAB_SIZE + 10  # with the sentinels


def save_model(folder: Path, seed: int) -> None:
    made = tiny.model(seed, vocab_size=VOCABULARY, **TEXTS)
    checkpoint.save(folder, made, cases.tokenizer(vocab_size=VOCABULARY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, a `store` of its memories as bfloat16, one of another model (`others`), a short one, and a cache."""
    made = tmp_path_factory.mktemp("stored")
    corpus = cases.write_corpus(made / "corpus.jsonl")
    save_model(made / "model", 0)
    save_model(made / "other", 7)
    for name, model, limit in (("store", "model", None), ("others", "other", None), ("short", "model", 2)):
        build(BuildOptions(corpus=(corpus,), out=made / name, model=str(made / model), dtype="float32", codec="bf16",
                           limit=limit))  # fmt: skip
    tasks = cases.write_questions(made, cases.QUESTIONS)
    prepare(
        PrepareOptions(out=made / "cache", store=made / "store", tasks=tasks, k=4),
        cases.tokenizer(vocab_size=VOCABULARY),
    )
    return made


def model_of(folder: Path, *, frozen: bool = True) -> MemoryModel:
    model, _ = checkpoint.load(folder / "model", dtype=torch.float32)
    freeze(model, memories=frozen)
    return model


@pytest.fixture
def batches(folder: Path) -> Made:
    def make(*, memories: str | None = "store", **data: Any) -> MixedBatches:
        values: dict[str, Any] = {"cache": str(folder / "cache"), "train": ["nq.train"], "questions": 6} | data
        if memories is not None:
            values["memories"] = str(folder / memories)
        settings = read_table(DataSettings, values, where="the training config", name="data")
        return MixedBatches(settings, tokenizer=cases.tokenizer(vocab_size=VOCABULARY), seed=1)

    return make


def test_the_batches_are_the_same_and_hold_the_memories(batches: Made, folder: Path) -> None:
    given, plain = batches().batch(3), batches(memories=None).batch(3)
    assert plain.memories is None
    assert given.memories is not None
    assert torch.equal(given.passages.ids, plain.passages.ids)
    assert torch.equal(given.targets, plain.targets)
    with torch.no_grad():
        encoded = model_of(folder).eval().encode_passages(plain.passages)
    torch.testing.assert_close(given.memories.states, encoded.states, atol=0.05, rtol=0.01)  # bfloat16
    assert torch.equal(given.memories.layout.lengths, encoded.layout.lengths)


def test_tokens_have_the_memories_that_they_have_in_the_whole_passage(batches: Made, folder: Path) -> None:
    source, model = batches(), model_of(folder).eval()
    assert source.memories is not None
    wanted, sources = [], []
    for row in (2, 0, 2):
        whole = torch.from_numpy(source.cache.passages[row].astype("int64"))
        places = np.array([0, 3, 4, len(whole) - 1])
        with torch.no_grad():
            wanted.append(model.encode_passages(Tokens.of([whole])).states[places])
        sources.append((row, places))
    given = source.memories.load(sources)
    torch.testing.assert_close(given.states, torch.cat(wanted), atol=0.05, rtol=0.01)  # bfloat16
    assert given.layout.lengths.tolist() == [4, 4, 4]


@pytest.mark.parametrize("window", ["begin", "answer"])
def test_windows_come_with_memories_of_the_same_tokens(window: str, batches: Made) -> None:
    settings = {"window": window, "passage_tokens": [[0, 12]], "choice": "gold", "unrelated": 0.5}
    given, plain = batches(**settings).batch(0), batches(memories=None, **settings).batch(0)
    assert given.memories is not None
    assert given.memories.layout.lengths.tolist() == plain.passages.layout.lengths.tolist()
    assert torch.equal(given.memories.token_ids, plain.passages.ids)
    assert int(plain.passages.layout.lengths.max()) == 12


def loss_of(model: MemoryModel, batch: Batch) -> torch.Tensor:
    return training_loss(model, batch, LossConfig(keep_k=2), seed=0).total


def test_the_loss_and_its_gradients_are_those_of_encoding(batches: Made, folder: Path) -> None:
    gradients = []
    for memories in ("store", None):
        model = model_of(folder).eval()
        loss = loss_of(model, batches(memories=memories).batch(0))
        loss.backward()
        gradients.append((loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (stored, own), (live, wanted) = gradients
    assert stored == pytest.approx(live, rel=0.02)
    assert own.keys() == wanted.keys()
    assert not any(name.startswith("memory_encoder") for name in own)
    name = max(wanted, key=lambda n: float(wanted[n].norm()))
    assert float((own[name] - wanted[name]).norm() / wanted[name].norm()) < 0.1


def test_training_from_a_store_encodes_no_passage(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a passage was encoded")

    monkeypatch.setattr(MemoryModel, "encode_passages", never)
    values: dict[str, Any] = {
        "out": str(tmp_path / "run"), "steps": 3, "dtype": "float32", "log_every": 1,
        "model": {"source": "checkpoint", "path": str(folder / "model"), "frozen_memories": True},
        "data": {"cache": str(folder / "cache"), "memories": str(folder / "store"), "train": ["nq.train"],
                 "questions": 4},
        "loss": {"keep_k": 2}, "optimizer": {"lr": 1e-3, "warmup_steps": 1},
        "checkpoints": {"every_steps": 0, "every_minutes": 0}, "dev": {"every_steps": 0},
    }  # fmt: skip
    report = train(read_table(TrainConfig, values, where="test"))
    assert report.step == 3
    values |= {"steps": 4}
    assert train(read_table(TrainConfig, values, where="test")).step == 4  # it goes on
    values |= {"out": str(tmp_path / "other")}
    values["model"] |= {"frozen_memories": False}
    with pytest.raises(ConfigError, match="set frozen_memories = true"):
        train(read_table(TrainConfig, values, where="test"))


def test_memories_of_another_model_are_refused(batches: Made, folder: Path) -> None:
    model, tokenizer = model_of(folder), cases.tokenizer(vocab_size=VOCABULARY)
    own, others = batches().memories, batches(memories="others").memories
    assert own is not None
    assert others is not None
    own.require(model, tokenizer)
    with pytest.raises(FingerprintMismatch):
        others.require(model, tokenizer)


def test_a_store_without_the_passages_is_refused(batches: Made) -> None:
    with pytest.raises(CandidatesMismatch, match="passages"):
        batches(memories="short").batch(0)


def test_memories_are_not_for_questions_made_from_passages(batches: Made) -> None:
    with pytest.raises(ConfigError, match="pretrain_share above 0"):
        batches(pretrain_share=[[0, 0.5]])
    with pytest.raises(ConfigError, match="fixed_length"):
        batches(fixed_length=True)
