"""The files of a run: states to resume from, and models to use. Never pickle, never half a file.

    out/state/step-00001000/   model.safetensors, optimizer.safetensors, state.json; a folder is renamed into
                               place when it is complete
    out/best/, out/last/       checkpoints that `memstore.checkpoint.loading.load` reads
    out/lock                   held by the process that trains

Random numbers need no state: every step draws them from the seed and its number.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memstore import checkpoint, locks
from memstore.checkpoint.files import read_json
from memstore.errors import CheckpointError, CheckpointMismatch, ConfigError, OutputUnwritable
from memstore.files import sync, system_errors
from memstore.model.config import ModelConfig, without_gone
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.tables import read_table
from memstore.train.config import LossConfig, OptimizerConfig
from memstore.train.data.settings import DataSettings
from memstore.train.optim import Optimizer

log = logging.getLogger(__name__)
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
LOCK = "lock"
_NO_LOCKS = "the file system of %s has no locks (%s): make sure that no other process trains there"
_PREFIX, _TEMPORARY = "step-", ".tmp-"


@dataclass(slots=True)
class RunState:
    """The progress of a run; its parameters are saved beside it.

    Attributes:
        step: optimizer steps done.
        tokens: read and written, in all processes.
        seconds: spent on steps.
        best_score, best_step: of the model in `best/`.
        window: sums that the next line of metrics averages over `window_steps` steps.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int | None = None
    window: dict[str, float] = field(default_factory=dict)
    window_steps: int = 0
    window_tokens: int = 0
    window_seconds: float = 0.0


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock a run's folder within the block: two runs would overwrite each other's states.

    The lock ends with the process, however it ends. Without locks, as on the file systems of some clusters, the run
    goes on with a warning.

    Raises:
        ConfigError: another process trains there.
        OutputUnwritable: the folder cannot be made, or may not be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = (out / LOCK).open("w")
    except OSError as error:
        raise _unwritable(out, error) from error
    with held as file:
        try:
            mine = locks.lock(file, inherited=False)  # else processes that load batches would hold it too
        except locks.NoLocks as error:
            log.warning(_NO_LOCKS, out, error.strerror)
            mine = True
        except OSError as error:
            raise _unwritable(out, error) from error
        if not mine:
            raise ConfigError(f"another process trains in {out}: wait for it, end it, or name another `out`")
        yield


def _unwritable(out: Path, error: OSError) -> OutputUnwritable:
    return OutputUnwritable(f"{out} cannot be written: {error.strerror or error}; name another `out`")


def save_state(
    out: Path, model: MemoryModel, optimizer: Optimizer, run: RunState, identity: Mapping[str, Any], *, keep_last: int
) -> Path:
    """Write a state under a temporary name, flush it, rename it, and remove all but the `keep_last` newest.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full. Earlier states stay as they are.
    """
    states = out / "state"
    final = states / f"{_PREFIX}{run.step:08d}"
    temporary = states / (_TEMPORARY + final.name)
    parameters = {name: p.detach().cpu().contiguous() for name, p in model.state_dict().items()}
    values = {"run": asdict(run), "identity": dict(identity)}
    try:
        with system_errors():
            states.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            save_file(parameters, temporary / MODEL)
            save_file(optimizer.state(), temporary / OPTIMIZER)
            (temporary / STATE).write_text(json.dumps(values, indent=1), encoding="utf-8")
            for path in (*temporary.iterdir(), temporary):
                sync(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # it takes space that is missing now
        reason = error.strerror or error
        earlier = saved_states(out)
        begins = f"from {earlier[-1].name}" if earlier else "from the beginning"
        raise OutputUnwritable(
            f"{final} cannot be written: {reason}. Make room, and run the same command again: it goes on {begins}."
        ) from error
    shutil.rmtree(final, ignore_errors=True)  # this step was saved before: the run had already ended
    temporary.rename(final)
    sync(states)
    for path in saved_states(out)[:-keep_last]:
        shutil.rmtree(path)
    return final


def load_state(
    out: Path, model: MemoryModel, optimizer: Optimizer, identity: Mapping[str, Any], *, steps: int
) -> RunState:
    """Load the newest state into the model and the optimizer. Without one, a new `RunState` comes back.

    Raises:
        ConfigError: the state was made with other settings, or is beyond `steps`.
        CheckpointError: one of its files is broken.
        CheckpointMismatch: it does not fit the model or the optimizer.
    """
    for leftover in (out / "state").glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # several processes do this at once
    found = saved_states(out)
    if not found:
        return RunState()
    folder = found[-1]
    values = read_json(folder / STATE)
    differing = differences(_with_defaults(values.get("identity", {})), json.loads(json.dumps(dict(identity))))
    if differing:
        raise ConfigError(
            f"{out} holds a run with other settings: {'; '.join(differing)}. Put them back to go on with it, or name "
            "another `out`."
        )
    run = RunState(**values["run"])
    if run.step > steps:
        raise ConfigError(f"{out} is already at step {run.step}, beyond steps = {steps}")
    try:
        model.load_state_dict(load_file(folder / MODEL, device=str(model.device)))
        optimizer.load(load_file(folder / OPTIMIZER))
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(f"{folder} is broken: {error}. Remove it to go on from the one before.") from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from None
    except RuntimeError as error:
        raise CheckpointMismatch(f"{folder} does not fit the model: {error}") from None
    return run


def saved_states(out: Path) -> list[Path]:
    """The complete states of a run, oldest first."""
    return sorted((out / "state").glob(f"{_PREFIX}*"))


def save_model(folder: Path, model: MemoryModel, tokenizer: TextTokenizer, dtype: torch.dtype) -> None:
    """Write a checkpoint in the given dtype; the model itself is not changed."""
    with torch.device("meta"):
        copy = MemoryModel(model.config)
    copy.load_state_dict({n: p.detach().to("cpu", dtype) for n, p in model.state_dict().items()}, assign=True)
    checkpoint.save(folder, copy, tokenizer)


def _with_defaults(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A saved identity, completed with the defaults of settings that memstore has gained since, without those gone."""
    found = dict(identity)
    for part, kind in {"model": ModelConfig, "loss": LossConfig, "optimizer": OptimizerConfig}.items():
        known = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
        found[part] = json.loads(json.dumps(known)) | found.get(part, {})
    found["model"] = without_gone(found["model"])
    found["data"] = found.get("data") or None  # earlier versions wrote {} where the caller provides batches
    if found["data"] is not None:
        data = read_table(DataSettings, found["data"], where="the saved state", name="data")
        found["data"] = json.loads(json.dumps(data.to_dict()))
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings that differ, each as a dotted name with both values."""
    found = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} was {a!r} and is now {b!r}")
    return found
