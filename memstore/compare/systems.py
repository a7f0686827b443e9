"""From one base to every system's training: what a system changes, and the models that this takes.

Tables in, training configs out. Refuses to know how a model is trained, and what it is worth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore.compare.config import CompareConfig, SystemTable
from memstore.errors import ConfigError
from memstore.tables import read_table
from memstore.train.config import TrainConfig
from memstore.train.data.cache import content_of, read_manifest, task_of
from memstore.train.data.settings import DataSettings

RUNS = "runs"
ALL_TASKS = ""  # the key of a model that answers every task
_SCHEDULES = ("passages", "passage_tokens", "hardness", "pretrain_share")
# What changes where, how fast and how loudly a run runs, but not what it computes.
_RUNNING = ("out", "device", "compile", "checkpoint_activations", "checkpoints", "log_every", "stop_after_minutes",
            "prefetch", "loader_threads", "loader_processes")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The training of one model.

    Attributes:
        config: as the training loop takes it.
        settings: what the comparison's file says that decides about the model, as plain values. Not what it leaves
            out: a setting that memstore gains later, off by default, does not make an old run another one.
    """

    config: TrainConfig
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRuns:
    """What it takes to have a system.

    Attributes:
        name, table: the system.
        runs: the training of each of its models, by task; nothing for one that is loaded.
        checkpoint: what is loaded instead.
    """

    name: str
    table: SystemTable
    runs: Mapping[str, Run]
    checkpoint: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the system what it is, as plain JSON values: two of equal settings train the same models."""
        runs = {task: run.settings for task, run in self.runs.items()}
        return {"checkpoint": self.checkpoint, "reranker": self.table.reranker, "runs": runs}


def system_runs(config: CompareConfig) -> dict[str, SystemRuns]:
    """Every system's plan, by name: so that a wrong key is told before hours of training.

    Raises:
        ConfigError: a training config has an unknown key or an impossible value, or a task has no training set.
        CandidatesNotFound, CandidatesCorrupt: of the cache, which is asked for the tasks of single-task systems.
    """
    found = {name: _runs_of(config, name, table) for name, table in config.systems.items()}
    for name, table in config.systems.items():
        for run in found[table.reranker].runs.values() if table.reranker else ():
            if run.config.model.config.get("system", "glimmer") != "glimmer":
                raise ConfigError(f"systems.{name}.reranker names {table.reranker!r}, which has no scorer")
    return found


def _runs_of(config: CompareConfig, name: str, table: SystemTable) -> SystemRuns:
    if table.models_of:
        trained = _runs_of(config, table.models_of, config.systems[table.models_of])
        return SystemRuns(name=name, table=table, checkpoint=trained.checkpoint, runs=trained.runs)
    if table.checkpoint:
        return SystemRuns(name=name, table=table, checkpoint=table.checkpoint, runs={})
    values, out = merged(config.base, table.changes), config.out / RUNS / name
    whole = _training(values, out, name)
    if not table.single_task:
        return SystemRuns(name=name, table=table, runs={ALL_TASKS: whole})
    tasks = _tasks(whole.config, config.grid.sets, name)
    runs = {}
    for task, sets in tasks.items():
        share = for_one_task(values, whole.config, train=sets["train"], dev=sets["dev"], tasks=len(tasks))
        runs[task] = _training(share, out / task, name)
    return SystemRuns(name=name, table=table, runs=runs)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: tables are merged key by key, all else is replaced. Neither is touched."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def for_one_task(
    values: Mapping[str, Any], whole: TrainConfig, *, train: Sequence[str], dev: Sequence[str], tasks: int
) -> dict[str, Any]:
    """The training of one task out of several, with its share of the budget.

    Steps are divided by the number of tasks, and with them what is counted in steps or batches: warm-up, the
    distance between measurements, and the curriculum.

    Args:
        values: a training config for all tasks.
        whole: the same, read.
        train: the task's question sets.
        dev: those to measure on.
        tasks: how many share the budget.
    """
    data = {key: value for key, value in values["data"].items() if key not in ("weights", "mixture")}
    for key in _SCHEDULES:
        if key in data:
            data[key] = [[number / tasks, value] for number, value in data[key]]
    changes: dict[str, Any] = {
        "steps": _share(whole.steps, tasks),
        "optimizer": {"warmup_steps": _share(whole.optimizer.warmup_steps, tasks)},
        "dev": {"every_steps": _share(whole.dev.every_steps, tasks)},
    }
    return merged(values, changes) | {"data": data | {"train": list(train), "dev": list(dev)}}


def _share(count: int, tasks: int) -> int:
    return max(1, round(count / tasks)) if count else 0


def _tasks(whole: TrainConfig, measured: Sequence[str], name: str) -> dict[str, dict[str, list[str]]]:
    """The question sets of each task that is measured, "train" and "dev"."""
    settings = data_of(whole, where=f"systems.{name}")
    dev = dev_sets(settings, measured)
    train = list(settings.train) or [n for n in read_manifest(settings.cache).sets if n.endswith(".train")]
    found: dict[str, dict[str, list[str]]] = {}
    for task in dict.fromkeys(task_of(n) for n in dev):
        sets = {"train": [n for n in train if task_of(n) == task], "dev": [n for n in dev if task_of(n) == task]}
        if not sets["train"]:
            raise ConfigError(f"systems.{name} trains one model per task, but there is no training set of {task!r}")
        found[task] = sets
    return found


def dev_sets(settings: DataSettings, measured: Sequence[str]) -> list[str]:
    """Names of the question sets to measure on: those asked for, the data's own, or all `*.dev` of the cache.

    Raises:
        ConfigError: there is none.
        CandidatesNotFound, CandidatesCorrupt: of the cache.
    """
    found = list(measured or settings.dev)
    found = found or [n for n in read_manifest(settings.cache).sets if n.endswith(".dev")]
    if not found:
        raise ConfigError(f"{settings.cache} has no *.dev question set to measure on; name some in grid.sets")
    return found


def data_of(config: TrainConfig, *, where: str) -> DataSettings:
    """The `[data]` of a training config, which a comparison cannot do without.

    Raises:
        ConfigError: there is none.
    """
    if config.data is None:
        raise ConfigError(f"{where}: data is missing: name the cache to train from, as data.cache")
    return config.data


def _training(values: Mapping[str, Any], out: Path, name: str) -> Run:
    where = f"[base] with the changes of systems.{name}"
    config = read_table(TrainConfig, {**values, "out": str(out)}, where=where)
    cache = data_of(config, where=where).cache
    settings = {key: value for key, value in values.items() if key not in _RUNNING}
    settings["data"] = {**values["data"], "cache": content_of(cache)}  # what is in it, not where it is
    return Run(config=config, settings=json.loads(json.dumps(settings, default=str)))
