"""`[data] codec`: live layers are trained on memories that went through a codec, and a resumed run on the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memstore.codec import get_codec
from memstore.errors import ConfigError, TrainingDiverged
from memstore.model.packed import Packed, Tokens
from memstore.train import losses
from memstore.train.config import DevConfig, LossConfig, TrainConfig
from memstore.train.data.cache import MANIFEST, CacheFingerprint, Manifest
from memstore.train.data.settings import DataSettings
from memstore.train.dev_scores import measure
from memstore.train.loop import train
from memstore.train.through_codec import ThroughCodec, read
from tests import tiny
from tests.train.loop_cases import ToySource, config, records
from tests.train.test_resume import Cut, Failing, outcome


def with_codec(folder: Path, codec: str | None, **changes: Any) -> TrainConfig:
    made_from = CacheFingerprint(
        passages="", retriever="", k=1, tokenizer="", passage_template="", max_passage_tokens=1,
        max_question_tokens=1, max_answer_tokens=1,
    )  # fmt: skip
    manifest = Manifest(fingerprint=made_from, vocab_size=9, passages=0, tokens=0, sets={}, pretraining={}, files={})
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    (folder / "cache" / MANIFEST).write_text(manifest.to_json())
    data = {"cache": str(folder / "cache")} | ({} if codec is None else {"codec": codec})
    return config(folder, data=data, prefetch=1, **changes)


def fitted(name: str) -> ThroughCodec:
    model = tiny.model()
    with torch.no_grad():
        some = model.encode_passages(ToySource().batch(0).passages)
    return ThroughCodec(get_codec(name).fit(some.states, some.token_ids, weights=model.first_live_weights))


@pytest.mark.parametrize("name", ["bf16", "int8", "int8-fitted", "pq"])
def test_the_live_layers_read_decoded_memories_and_gradients_pass(name: str) -> None:
    through = fitted(name)
    states = torch.randn(5, tiny.config().d_model, requires_grad=True)
    tokens = Tokens.of([[4, 5], [6, 7, 8]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = through(Packed(states, tokens.ids, tokens.layout)).states
    arrays = through.codec.encode(states.detach(), tokens.ids)
    assert torch.equal(found, through.codec.decode(arrays, tokens.ids, dtype=torch.float32, device="cpu"))
    found.backward(torch.arange(states.numel()).view_as(states).float())
    assert torch.equal(states.grad, torch.arange(states.numel()).view_as(states).float())  # type: ignore[arg-type]


def test_losses_likelihoods_and_dev_scores_are_of_decoded_memories() -> None:
    """All change when the codec does, and the memory encoder learns through it."""
    model, source = tiny.model(), ToySource()
    with_zeros = [lambda m: m, lambda m: Packed(m.states * 0.0, m.token_ids, m.layout)]
    parts, scores = [], []
    for through in with_zeros:
        found = losses.training_loss(model.eval(), source.batch(0), LossConfig(keep_k=1), seed=0, through=through)
        parts.append(found.parts)
        dev = measure(model, source.tokenizer, source.dev(), DevConfig(max_new_tokens=2), keep_k=2, through=through)
        scores.append([measured.scores["loss"] for measured in dev])
    assert parts[0]["answer"] != parts[1]["answer"]
    assert parts[0]["distill"] != parts[1]["distill"]
    assert scores[0] != scores[1]
    model.zero_grad()
    losses.training_loss(model, source.batch(0), LossConfig(), seed=0, through=fitted("pq")).total.backward()  # type: ignore[no-untyped-call]
    gradient = model.memory_encoder.layer(0).attention_norm.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_the_loss_falls(tmp_path: Path) -> None:
    train(with_codec(tmp_path, "pq", steps=60, log_every=20, dev={"every_steps": 0}), source=ToySource())
    first, *_, last = [line["answer"] for line in records(tmp_path)]
    assert last < 0.9 * first


@pytest.mark.parametrize("cuts", [[5], [1, 3]])
def test_resumed_equals_uninterrupted(tmp_path: Path, cuts: list[int]) -> None:
    train(with_codec(tmp_path / "whole", "pq"), source=ToySource())
    for at in cuts:
        with pytest.raises(Cut):
            train(with_codec(tmp_path / "cut", "pq"), source=Failing(at))
    assert train(with_codec(tmp_path / "cut", "pq"), source=ToySource()).finished
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    tables = "run/codecs/memories.safetensors"
    assert (tmp_path / "cut" / tables).read_bytes() == (tmp_path / "whole" / tables).read_bytes()


def test_a_run_without_its_tables_or_with_another_codec_is_refused(tmp_path: Path) -> None:
    train(with_codec(tmp_path, "pq", steps=2), source=ToySource())
    with pytest.raises(ConfigError, match=r"data\.codec was 'pq' and is now 'pq16'"):
        train(with_codec(tmp_path, "pq16", steps=4), source=ToySource())
    (tmp_path / "run" / "codecs" / "memories.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no tables of the codec 'pq'"):
        train(with_codec(tmp_path, "pq", steps=4), source=ToySource())


def test_without_a_codec_a_run_is_what_it_was(tmp_path: Path) -> None:
    """Its identity has no such key, as those that earlier versions saved."""
    assert "codec" not in DataSettings(cache=tmp_path).to_dict()
    train(with_codec(tmp_path, None, steps=2), source=ToySource())
    assert train(with_codec(tmp_path, None, steps=4), source=ToySource()).finished
    assert not (tmp_path / "run" / "codecs").exists()


def test_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown codec 'pq9'"):
        DataSettings(cache=tmp_path, codec="pq9")


def test_what_is_not_finite_is_reported_as_divergence() -> None:
    tokens = Tokens.of([[4]])
    memories = Packed(torch.full((1, tiny.config().d_model), torch.inf), tokens.ids, tokens.layout)
    with pytest.raises(TrainingDiverged, match=r"optimizer\.lr"):
        read("int8", Path())(memories)
