"""Makes every system's training configs from one base and the changes of each system.

Refuses to know how a model is trained, and how well it answers.
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
# Settings that change where and how fast a run runs, and what it prints, but not what it computes.
_RUNNING = ("out", "device", "compile", "checkpoint_activations", "checkpoints", "log_every", "stop_after_minutes",
            "prefetch", "loader_threads", "loader_processes")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The training of one model.

    Attributes:
        config: for the training loop.
        settings: what the comparison's file says about the model, as plain values. Settings that the file leaves out
            are not in it, so that one which memstore gains later does not change an old run.
    """

    config: TrainConfig
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRuns:
    """The trainings that a system needs, or the checkpoint that it is loaded from.

    Attributes:
        name, table: the system.
        runs: the training of each of its models, by task; empty for a system that is loaded.
        checkpoint: the one to load; empty for a system that is trained.
    """

    name: str
    table: SystemTable
    runs: Mapping[str, Run]
    checkpoint: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the system, as plain JSON values: equal settings train the same models."""
        runs = {task: run.settings for task, run in self.runs.items()}
        return {"checkpoint": self.checkpoint, "reranker": self.table.reranker, "runs": runs}


def system_runs(config: CompareConfig) -> dict[str, SystemRuns]:
    """All systems' trainings, by name. Made first, so that a wrong key is found before hours of training.

    Raises:
        ConfigError: a training config has an unknown key or an impossible value, or a task has no training set.
        CandidatesNotFound, CandidatesCorrupt: the cache is missing or damaged.
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
    """`base` with `changes`: tables are merged key by key, other values replaced. Both arguments stay as they are."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def for_one_task(
    values: Mapping[str, Any], whole: TrainConfig, *, train: Sequence[str], dev: Sequence[str], tasks: int
) -> dict[str, Any]:
    """The training config for one of several tasks, with its share of the budget.

    Steps are divided by the number of tasks, and so is all that counts steps or batches: warm-up, the steps between
    dev scores, and the curriculum.

    Args:
        values: the training config for all tasks, as plain values.
        whole: the same, as read.
        train: the task's question sets to train on.
        dev: its question sets to measure on.
        tasks: the number of tasks that share the budget.
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
    """The "train" and "dev" question sets of each task that is measured."""
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
    """The names of the question sets to measure on: `measured`, else the settings' own, else all `*.dev` of the cache.

    Raises:
        ConfigError: there are none.
        CandidatesNotFound, CandidatesCorrupt: the cache is missing or damaged.
    """
    found = list(measured or settings.dev)
    found = found or [n for n in read_manifest(settings.cache).sets if n.endswith(".dev")]
    if not found:
        raise ConfigError(f"{settings.cache} has no *.dev question set to measure on; name some in grid.sets")
    return found


def data_of(config: TrainConfig, *, where: str) -> DataSettings:
    """The `[data]` table of a training config, which a comparison needs.

    Raises:
        ConfigError: the table is missing.
    """
    if config.data is None:
        raise ConfigError(f"{where}: data is missing: name the cache to train from, as data.cache")
    return config.data


def _training(values: Mapping[str, Any], out: Path, name: str) -> Run:
    where = f"[base] with the changes of systems.{name}"
    config = read_table(TrainConfig, {**values, "out": str(out)}, where=where)
    cache = data_of(config, where=where).cache
    settings = {key: value for key, value in values.items() if key not in _RUNNING}
    settings["data"] = {**values["data"], "cache": content_of(cache)}  # its content, not its path
    return Run(config=config, settings=json.loads(json.dumps(settings, default=str)))
