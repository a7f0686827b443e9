"""A run that was interrupted anywhere goes on as if nothing had happened: parameters, metrics, best model, to the bit.

Bits may be asked for, as both runs do the same operations in the same order, on tensors of the same shapes, on one
processor with one number of threads. That is also what training promises.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file
from typer.testing import CliRunner

from memstore.cli import app
from memstore.cli.stopping import asked_to_stop
from memstore.errors import CheckpointError, ConfigError, OutputUnwritable
from memstore.train import loop, state
from memstore.train.config import TrainConfig
from memstore.train.data.batch import Batch
from memstore.train.data.cache import MANIFEST, CacheFingerprint, Manifest
from memstore.train.loop import train
from memstore.train.state import saved_states
from tests.train.loop_cases import ROOT, ToySource, config, records, run_two_processes


class Cut(Exception):
    """The power fails."""


class Failing(ToySource):
    """A source that fails at once, without any clean-up, when a certain batch is asked for."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batch(self, step: int) -> Batch:
        if step == self.at:
            raise Cut
        return super().batch(step)


def outcome(folder: Path) -> dict[str, Any]:
    """All files of a run, without times."""
    last = saved_states(folder / "run")[-1]
    found: dict[str, Any] = {"metrics": records(folder), "last": last.name}
    for path in (*last.glob("*.safetensors"), *(folder / "run").glob("*/model.safetensors")):
        found[str(path.relative_to(folder / "run"))] = {n: t.tolist() for n, t in load_file(path).items()}
    return found


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ({}, [5]),
        ({}, [1, 3]),  # before the first state, and a second time
        ({"accumulate": 2, "optimizer": {"lr": 3e-3, "name": "muon", "weight_decay": 0.1}}, [9]),
        ({"optimizer": {"lr": 3e-3, "name": "adafactor"}, "log_every": 3}, [4, 5]),
        ({"dtype": "bfloat16", "loss": {"keep_k": 1, "gold_in_reader": 0.5, "distill_direction": "rank||lm"}}, [3]),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, changes: dict[str, Any], cuts: list[int]) -> None:
    train(config(tmp_path / "whole", prefetch=1, **changes), source=ToySource())
    again = config(tmp_path / "cut", prefetch=1, **changes)
    for at in cuts:
        with pytest.raises(Cut):
            train(again, source=Failing(at))
    report = train(again, source=ToySource())
    assert report.finished
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_stopping_after_minutes_loses_no_step(tmp_path: Path) -> None:
    train(config(tmp_path / "whole", dev={"every_steps": 0}), source=ToySource())
    calls = 0
    finished = False
    while not finished:
        calls += 1
        stopping = config(tmp_path / "cut", dev={"every_steps": 0}, stop_after_minutes=1e-9)
        report = train(stopping, source=ToySource())
        assert report.step == calls
        finished = report.finished
    assert calls == stopping.steps
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_stopping_when_asked_loses_no_step(tmp_path: Path) -> None:
    train(config(tmp_path / "whole"), source=ToySource())
    asked = iter([False, True])
    report = train(config(tmp_path / "cut"), source=ToySource(), stopping=lambda: next(asked))
    assert (report.step, report.finished) == (2, False)
    assert train(config(tmp_path / "cut"), source=ToySource()).finished
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_the_command_stops_at_the_first_signal_and_restores_the_handlers(tmp_path: Path, monkeypatch: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    heard = []

    def pretend(settings: Any, say: Any, *, stopping: Any) -> Any:
        heard.append(stopping())
        os.kill(os.getpid(), signal.SIGTERM)
        heard.append(stopping())
        return train(settings, say, source=ToySource(), stopping=stopping)

    monkeypatch.setattr(loop, "train", pretend)
    monkeypatch.setattr(TrainConfig, "from_file", lambda _: config(tmp_path))
    result = CliRunner().invoke(app, ["train", "--config", "run.toml", "--json"])
    assert result.exit_code == 0, result.output
    assert heard == [False, True]
    assert json.loads(result.stdout)["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is before


HOLDS = """
import sys
from pathlib import Path
from memstore.train.state import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process trains in"):
            train(config(tmp_path), source=ToySource())
        other.kill()
    assert train(config(tmp_path), source=ToySource()).finished


def test_processes_that_load_batches_do_not_say_that_training_stops(monkeypatch: Any, capsys: Any) -> None:
    own, said = os.getpid(), []
    for process in (own, own + 1):  # a forked one has the handler too
        with asked_to_stop(announce=True) as asked, monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda process=process: process)
            signal.raise_signal(signal.SIGINT)
            assert asked()
        said.append("stopping after this step" in capsys.readouterr().err)
    assert said == [True, False]


def test_of_several_processes_only_the_first_prints(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(loop, "train", lambda settings, *_, stopping: train(settings, source=ToySource()))
    monkeypatch.setattr(TrainConfig, "from_file", lambda _: config(tmp_path, steps=1))
    result = CliRunner().invoke(app, ["train", "--config", "run.toml", "--json"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "run" / "last").is_dir()


SEVERAL = """
import os, sys
from pathlib import Path
from tests.train.loop_cases import ToySource, config
from memstore.train.loop import train

asked = iter([False, sys.argv[2] == "stop" and os.environ["RANK"] == "1"])
report = train(config(Path(sys.argv[1]), steps=4, log_every=4), source=ToySource(), stopping=lambda: next(asked, False))
assert report.step == (2 if sys.argv[2] == "stop" else 4), report.step
"""


@pytest.mark.slow
def test_several_processes_stop_together_when_one_is_asked_and_go_on_without_loss(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    script = tmp_path / "run.py"
    script.write_text(SEVERAL)
    for name, until in (("whole", "end"), ("cut", "stop"), ("cut", "end")):
        run_two_processes(script, str(tmp_path / name), until)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_leftover_that_another_process_removes_too_is_no_error(tmp_path: Path, monkeypatch: Any) -> None:
    train(config(tmp_path), source=ToySource())
    (tmp_path / "run" / "state" / ".tmp-step-00000008").mkdir()
    remove = shutil.rmtree

    def faster(path: Path, **options: Any) -> None:
        remove(path)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", faster)
    assert train(config(tmp_path), source=ToySource()).finished


KILLED = """
import os, sys
from pathlib import Path
from tests.train.loop_cases import ToySource, config
from memstore.train.loop import train

class Killed(ToySource):
    def batch(self, step):
        if step == 5:
            os.kill(os.getpid(), 9)
        return super().batch(step)

train(config(Path(sys.argv[1]), prefetch=1), source=Killed())
"""


def test_a_killed_process_leaves_complete_states(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == -9
    # 1 step is in flight while batch 5 is made: the state of step 2 or 4 is there
    assert [p.name for p in saved_states(tmp_path / "run")][-1] in ("step-00000002", "step-00000004")
    for leftover in ("state/.tmp-step-00000006",):
        (tmp_path / "run" / leftover).mkdir()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "los')  # half a line
    report = train(config(tmp_path), source=ToySource())
    assert report.finished
    assert not list((tmp_path / "run" / "state").glob(".tmp-*"))
    assert [r["step"] for r in records(tmp_path)] == [2, 3, 4, 6, 6]


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    first = train(config(tmp_path), source=ToySource())
    before = outcome(tmp_path)
    again = train(config(tmp_path), source=Failing(0))
    assert again == first
    assert outcome(tmp_path) == before


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    train(config(tmp_path, checkpoints={"every_steps": 1, "keep_last": 3}, steps=5), source=ToySource())
    assert [p.name for p in saved_states(tmp_path / "run")] == [f"step-0000000{i}" for i in (3, 4, 5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"optimizer": {"lr": 1e-3, "warmup_steps": 2}}, r"optimizer\.lr was 0\.003 and is now 0\.001"),
        ({"steps": 4}, "already at step 6"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    train(config(tmp_path), source=ToySource())
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path, **changes), source=ToySource())


def test_a_setting_that_memstore_has_no_more_does_not_end_a_run_that_did_not_use_it(tmp_path: Path) -> None:
    train(config(tmp_path, steps=2), source=ToySource())
    (state,) = (tmp_path / "run" / "state").glob("*/state.json")
    values = json.loads(state.read_text())
    values["identity"]["model"]["extractive"] = False
    state.write_text(json.dumps(values))
    assert train(config(tmp_path, steps=3), source=ToySource()).step == 3
    values["identity"]["model"]["extractive"] = True
    for state in (tmp_path / "run" / "state").glob("*/state.json"):
        state.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="made with extractive, which memstore has no more"):
        train(config(tmp_path, steps=4), source=ToySource())


def test_a_setting_that_memstore_gained_since_does_not_end_a_run(tmp_path: Path) -> None:
    train(config(tmp_path), source=ToySource())
    path = saved_states(tmp_path / "run")[-1] / "state.json"
    values = json.loads(path.read_text())
    for part, name in {"loss": "gold_weight", "optimizer": "clip_norm", "model": "embedding_dim"}.items():
        del values["identity"][part][name]
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"loss\.gold_weight was 0\.0 and is now 0\.5"):
        train(config(tmp_path, steps=8, loss={"keep_k": 2, "gold_weight": 0.5}), source=ToySource())
    assert train(config(tmp_path, steps=8), source=ToySource()).finished


def test_a_run_goes_on_with_the_same_cache_elsewhere_but_not_with_another(tmp_path: Path) -> None:
    def cache(name: str, passages: str) -> dict[str, Any]:
        made_from = CacheFingerprint(
            passages=passages, retriever="", k=1, tokenizer="", passage_template="", max_passage_tokens=1,
            max_question_tokens=1, max_answer_tokens=1,
        )  # fmt: skip
        manifest = Manifest(
            fingerprint=made_from, vocab_size=9, passages=0, tokens=0, sets={}, pretraining={}, files={}
        )
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(manifest.to_json())
        return {"cache": str(tmp_path / name)}

    train(config(tmp_path, steps=2, data=cache("one", "a")), source=ToySource())
    train(config(tmp_path, steps=4, data=cache("moved", "a")), source=ToySource())
    with pytest.raises(ConfigError, match=r"data\.cache was '"):
        train(config(tmp_path, steps=6, data=cache("other", "b")), source=ToySource())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_broken_state_is_reported(tmp_path: Path, name: str) -> None:
    train(config(tmp_path), source=ToySource())
    path = saved_states(tmp_path / "run")[-1] / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=str(path.parent)):
        train(config(tmp_path, steps=8), source=ToySource())


def test_a_state_that_cannot_be_read_is_not_called_broken(tmp_path: Path, monkeypatch: Any) -> None:
    train(config(tmp_path), source=ToySource())

    def denied(path: Path, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(state, "load_file", denied)
    with pytest.raises(CheckpointError, match=r"step-00000006 cannot be read: .*Permission denied"):
        train(config(tmp_path, steps=8), source=ToySource())


@pytest.mark.parametrize(
    "refusal",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "safetensors"],
)
def test_a_full_disk_is_reported_and_costs_no_more_than_the_steps_since_the_last_state(
    tmp_path: Path, monkeypatch: Any, refusal: Exception
) -> None:
    train(config(tmp_path / "whole"), source=ToySource())
    plain, written = state.save_file, []

    def full(tensors: Any, path: Path) -> None:
        plain(tensors, path)
        written.append(path.name)
        if len(written) == 4:  # the second state's optimizer
            raise refusal

    monkeypatch.setattr(state, "save_file", full)
    folder = tmp_path / "cut"
    with pytest.raises(OutputUnwritable, match=r"step-00000004 cannot be .*No space left.* goes on from step-00000002"):
        train(config(folder), source=ToySource())
    assert [p.name for p in (folder / "run" / "state").iterdir()] == ["step-00000002"]
    assert train(config(folder), source=ToySource()).finished
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputUnwritable, match=r"run cannot be written: .*; name another `out`"):
        train(config(tmp_path), source=ToySource())


def test_a_full_disk_before_the_first_state_says_that_nothing_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    def full(tensors: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OutputUnwritable, match=r"No space left on device\. .* goes on from the beginning"):
        train(config(tmp_path), source=ToySource())


def test_batches_of_processes_are_those_of_threads(tmp_path: Path) -> None:
    for name, changes in {"threads": {}, "processes": {"loader_processes": 2, "prefetch": 2}}.items():
        train(config(tmp_path / name, **changes), source=ToySource())
    assert outcome(tmp_path / "processes") == outcome(tmp_path / "threads")
