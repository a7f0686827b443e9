"""The loop end to end on tiny models: it learns, it writes its files, and it reports what is wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memstore import checkpoint
from memstore.errors import ConfigError, TrainingDiverged
from memstore.model.packed import Tokens
from memstore.train import loop
from memstore.train.ahead import batch_numbers
from memstore.train.config import ModelTable
from memstore.train.data.batch import Batch, DevBatch
from memstore.train.dev_scores import measure
from memstore.train.initial_model import open_model
from memstore.train.loop import train
from memstore.train.losses import Losses, training_loss
from memstore.train.metrics import Measured, plot
from memstore.train.processes import Processes
from memstore.train.state import saved_states
from tests import tiny
from tests.train.loop_cases import (
    ROOT,
    ToySource,
    config,
    process_env,
    records,
    run_two_processes,
    save_tokenizer,
)

# --- what a run leaves --------------------------------------------------------------------------------------


def test_a_run_writes_metrics_states_and_models(tmp_path: Path) -> None:
    lines: list[str] = []
    report = train(config(tmp_path), lines.append, source=ToySource())
    out = tmp_path / "run"
    assert sorted(p.name for p in out.iterdir()) == ["best", "last", "lock", "metrics.jsonl", "state"]
    assert [p.name for p in saved_states(out)] == ["step-00000004", "step-00000006"]
    found = records(tmp_path)
    assert [(r["step"], "dev" in r) for r in found] == [(2, False), (3, True), (4, False), (6, False), (6, True)]
    assert set(found[0]) == {"step", "loss", "answer", "distill", "gold_kept", "grad_norm", "lr", "tokens"}
    assert set(found[1]["dev"]) == {"all", "other", "toy"}
    assert set(found[1]["dev"]["toy"]) == {
        "accuracy", "em", "f1", "loss", "em_with_gold", "with_gold", "questions",
        "retrieved@1", "retrieved@2", "reranked@1", "reranked@2",
    }  # fmt: skip
    assert report.finished
    assert report.tokens == found[-2]["tokens"] == sum(ToySource().batch(i).tokens for i in range(6))
    assert report.checkpoint == out / "best"
    assert lines[1].startswith("step 1 took ")
    assert "tokens/s" in lines[2]
    assert "dev (best so far)" in lines[3]


def test_the_models_it_leaves_can_be_loaded(tmp_path: Path) -> None:
    train(config(tmp_path, checkpoints={"every_steps": 0, "every_minutes": 0}), source=ToySource())
    for name in ("best", "last"):
        model, tokenizer = checkpoint.load(tmp_path / "run" / name)
        assert model.dtype == torch.bfloat16
        assert model.config.trained
        assert tokenizer.fingerprint == tiny.text_tokenizer().fingerprint


def test_dev_answers_read_as_many_passages_as_the_reader_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(*args: Any, keep_k: int, **options: Any) -> Iterator[Measured]:
        read.append(keep_k)
        return measure(*args, keep_k=keep_k, **options)

    monkeypatch.setattr(loop, "measure", counted)
    train(config(tmp_path, steps=1, loss={"keep_k": 3}), source=ToySource())
    assert read == [3]


def test_without_dev_batches_there_is_no_best(tmp_path: Path) -> None:
    class Blind(ToySource):
        def dev(self) -> Iterator[DevBatch]:
            return iter(())

    report = train(config(tmp_path), source=Blind())
    assert report.best_score is None
    assert report.checkpoint == tmp_path / "run" / "last"


def test_the_best_model_is_the_first_of_the_highest_score(tmp_path: Path) -> None:
    dev = {"every_steps": 1, "max_new_tokens": 4, "best_by": "recall", "recall_at": [1]}
    report = train(config(tmp_path, dev=dev, steps=5), source=ToySource())
    scores = [r["dev"]["all"]["reranked@1"] for r in records(tmp_path) if "dev" in r]
    assert report.best_score == max(scores)
    assert report.best_step == 1 + scores.index(max(scores))


@pytest.mark.parametrize("system", ["fid", "lumen"])
def test_other_systems_train_by_the_same_command(tmp_path: Path, system: str) -> None:
    table = config(tmp_path).model
    changed = {"system": system, "alpha": 1.0 if system == "fid" else 1 / 3}
    model = {"source": "scratch", "tokenizer": table.tokenizer, "config": table.config | changed}
    report = train(config(tmp_path, model=model), source=ToySource())
    trained, _ = checkpoint.load(tmp_path / "run" / "last")
    begun, _ = open_model(ModelTable(**model), seed=3)  # type: ignore[arg-type]
    moved = {n.split(".")[0] for n, p in begun.named_parameters() if not torch.equal(p, trained.get_parameter(n))}
    assert moved == {n.split(".")[0] for n, _ in begun.named_parameters()} - {"memory_encoder", "memory_embedding"}
    assert "reranked@1" not in report.scores["all"]


def test_accumulating_two_halves_equals_the_whole(tmp_path: Path) -> None:
    """Mean over batches of equal weight: the answer loss per question, without dropout and distillation."""

    class Halves(ToySource):
        def batch(self, step: int) -> Batch:
            return Pair().half(step // 2, step % 2)

    class Pair(ToySource):
        def half(self, step: int, which: int) -> Batch:
            whole = super().batch(step)
            rows = (whole.question_of // 2 == which).nonzero().squeeze(1)
            questions = torch.split(whole.questions.ids, whole.questions.layout.lengths.tolist())
            passages = torch.split(whole.passages.ids, whole.passages.layout.lengths.tolist())
            return Batch(
                questions=Tokens.of(list(questions[2 * which : 2 * which + 2])),
                passages=Tokens.of([passages[r] for r in rows.tolist()]),
                question_of=whole.question_of[rows] - 2 * which,
                targets=whole.targets[2 * which : 2 * which + 2],
                gold=whole.gold[rows],
                tasks=whole.tasks[2 * which : 2 * which + 2],
            )

    plain = {"model": {"source": "scratch", "tokenizer": str(save_tokenizer(tmp_path)),
                       "config": tiny.config(dropout_rate=0.0).to_dict()},
             "loss": {"answer_mean": "question", "distill_weight": 0.0}, "steps": 3,
             "optimizer": {"warmup_steps": 0, "eps": 1e-3}}  # fmt: skip
    train(config(tmp_path / "one", **plain), source=Pair())
    train(config(tmp_path / "two", accumulate=2, **plain), source=Halves())
    for a, b in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        for name in {
            "loss",
            "answer",
            "grad_norm",
        } & a.keys():  # AdamW's step alone does not depend on the gradient's size
            assert a[name] == pytest.approx(b[name], rel=1e-3)
    one, two = (checkpoint.load(tmp_path / name / "run" / "last")[0] for name in ("one", "two"))
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_computing_activations_again_changes_nothing(tmp_path: Path) -> None:
    """To the bit, on any one processor: the second computation runs the same operations on the same tensors."""
    train(config(tmp_path / "plain"), source=ToySource())
    train(config(tmp_path / "again", checkpoint_activations=True), source=ToySource())
    plain, again = (checkpoint.load(tmp_path / name / "run" / "last")[0] for name in ("plain", "again"))
    for (name, p), q in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert name == q[0]
        assert torch.equal(p, q[1]), name


def test_from_a_stock_t5(tmp_path: Path) -> None:
    folder = tiny.save_stock_t5(tmp_path / "t5", "v1.1")
    model = {"source": "t5", "path": str(folder), "config": {"alpha": 1 / 3, "beta": 1 / 2}}
    report = train(config(tmp_path, model=model, steps=2, dev={"every_steps": 2}), source=ToySource())
    assert report.finished


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    wild = {"lr": 1e30, "warmup_steps": 0, "schedule": "constant", "clip_norm": 0.0}
    with pytest.raises(TrainingDiverged, match="Lower"):
        train(config(tmp_path, optimizer=wild, log_every=6, steps=30, dev={"every_steps": 0}), source=ToySource())
    for state in saved_states(tmp_path / "run"):
        assert json.loads((state / "state.json").read_text())["run"]["step"] < 6


def test_a_model_that_is_not_finite_does_not_become_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> Losses:
        found = training_loss(*args, **options)
        return Losses(found.total * math.nan, found.parts)

    monkeypatch.setattr(loop, "training_loss", broken)
    with pytest.raises(TrainingDiverged, match="loss is nan in the steps up to 2"):
        train(config(tmp_path, log_every=50, dev={"every_steps": 2, "max_new_tokens": 4}), source=ToySource())
    assert not (tmp_path / "run" / "best").exists()


def test_an_error_of_the_source_ends_the_run(tmp_path: Path) -> None:
    class Broken(ToySource):
        def batch(self, step: int) -> Batch:
            raise KeyError("row 7 of the cache")

    with pytest.raises(KeyError, match="row 7"):
        train(config(tmp_path), source=Broken())


# --- other machines -----------------------------------------------------------------------------------------

BARE = """
import sys
for name in ("zarr", "numcodecs", "tensorstore", "tantivy", "faiss", "zstandard", "transformers", "sentencex",
             "accelerate", "matplotlib", "typer", "rich", "pydantic", "httpx"):
    sys.modules[name] = None  # importing it fails
import memstore.train.loop
"""


def test_it_imports_on_a_bare_machine() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_processes_share_the_batches_and_read_each_once(tmp_path: Path) -> None:
    settings = config(tmp_path, accumulate=2)  # of 6 steps
    processes = [Processes(rank=r, world=3, device=torch.device("cpu")) for r in range(3)]
    read = [list(batch_numbers(settings, p, first=4)) for p in processes]
    assert read[0] == [24, 27, 30, 33]
    assert sorted(n for numbers in read for n in numbers) == list(range(4 * 2 * 3, 6 * 2 * 3))


SEVERAL = """
import sys
from pathlib import Path
from tests.train.loop_cases import ToySource, config
from memstore.train.loop import train
loss = {"answer_mean": "question", "distill_weight": 0.0}
train(config(Path(sys.argv[1]), steps=4, loss=loss, accumulate=int(sys.argv[2])), print, source=ToySource())
"""


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    script = tmp_path / "run.py"
    script.write_text(SEVERAL)
    run_two_processes(script, str(tmp_path / "two"), "1")
    alone = [sys.executable, str(script), str(tmp_path / "one"), "2"]
    subprocess.run(alone, cwd=ROOT, env=process_env(), check=True, timeout=120)
    two, one = (records(tmp_path / name) for name in ("two", "one"))
    assert [r["step"] for r in two] == [r["step"] for r in one]
    for a, b in zip(two, one, strict=True):
        for name in {"loss", "tokens", "lr"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-4)
        for task, figures in a.get("dev", {}).items():
            assert figures == pytest.approx(b["dev"][task], rel=1e-3)
    states = [saved_states(tmp_path / name / "run")[-1] for name in ("two", "one")]
    assert [s.name for s in states] == ["step-00000004"] * 2


def test_several_processes_without_accelerate_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match="accelerate"):
        train(config(tmp_path), source=ToySource())


@pytest.mark.parametrize("world", ["1", "2"])
def test_a_missing_gpu_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        train(config(tmp_path, device="cuda"), source=ToySource())


def test_processes_that_cannot_be_joined_do_not_each_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate", reason="several processes need accelerate")
    alone = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", lambda cpu: alone)
    with pytest.raises(ConfigError, match="2 processes were started"):
        Processes.join("cpu")


def test_an_unknown_device_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used here"):
        train(config(tmp_path, device="gpu"), source=ToySource())


COMPILED = """
import sys
from pathlib import Path
from tests.train.loop_cases import ToySource, config, save_tokenizer
from memstore.train.loop import train
from tests import tiny
folder = Path(sys.argv[1])
shape = tiny.config(dropout_rate=0.0, num_layers=3, num_decoder_layers=1).to_dict()
model = {"source": "scratch", "tokenizer": str(save_tokenizer(folder)), "config": shape}
for name, compiled in (("plain", False), ("compiled", True)):
    train(config(folder / name, model=model, compile=compiled, steps=4, dev={"every_steps": 0}), source=ToySource())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="without vector instructions torch's compiler makes C++ that no compiler takes (torch 2.13)",
)
def test_compiled_blocks_compute_the_same(tmp_path: Path) -> None:
    # In a process of its own: as it is loaded, torch's compiler warns about torch's own code. With a cache of its own:
    # torch's shared one may hold code that was compiled for vectors of another width, which writes out of bounds here.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled-code")}
    command = [sys.executable, "-c", COMPILED, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=250, env=environment)
    plain, compiled = (records(tmp_path / name) for name in ("plain", "compiled"))
    for a, b in zip(plain, compiled, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)


def test_a_picture_of_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    train(config(tmp_path), source=ToySource())
    path = plot(tmp_path / "run" / "metrics.jsonl")
    assert path == tmp_path / "run" / "metrics.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_metrics_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no metrics file"):
        plot(tmp_path / "metrics.jsonl")
