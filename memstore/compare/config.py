"""All settings of a comparison, frozen and typed, read from one TOML file. Knows no tensors and no other files.

out = "comparison"
title = "FiD, LUMEN and GLIMMER on one budget"
about = "Simple English Wikipedia; BM25; tasks in KILT's form."

[base]                        # a training config, as `memstore train` takes it, without `out`
steps = 20000
data = { cache = "cache", questions = 64, passages = [[0, 8]] }
loss = { keep_k = 4 }
model.source = "scratch"
model.tokenizer = "tokenizer.json"
model.config.d_model = 256
model.config.d_kv = 64
model.config.d_ff = 1024
model.config.num_heads = 4
model.config.num_layers = 6
model.config.num_decoder_layers = 2

[systems.fid]                 # a system's changes to the base, merged into it table by table
title = "FiD"
changes.model.config = { system = "fid", alpha = 1.0 }

[systems.lumen]
title = "LUMEN"
changes.model.config = { system = "lumen" }

[systems.glimmer]             # the base as it is
title = "GLIMMER"

[systems.single]
title = "GLIMMER, no multi-task"
ablation_of = "glimmer"
single_task = true

[systems.no-distillation]
title = "GLIMMER, no distillation"
ablation_of = "glimmer"
changes.loss = { distill_weight = 0 }

[systems.separate]
title = "LUMEN, separate reranker"
ablation_of = "glimmer"
models_of = "lumen"           # reads with the models trained there
reranker = "ranker"           # whose scorer orders the passages, in a pass of its own

[systems.ranker]              # only ranks: the model with the best recall is kept, and it is not measured
measured = false
changes.dev = { best_by = "recall" }

[grid]                        # the points at which all systems are measured
retrieve_k = [5, 10, 20]
keep_k = [1, 2, 5, 10]
questions = 300
timed_questions = 10
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from memstore.errors import ConfigError
from memstore.tables import read_table, read_toml, require

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A point of the grid: the number of passages retrieved, and of those that the decoder reads."""

    retrieve_k: int
    keep_k: int

    def __str__(self) -> str:
        return str(self.keep_k) if self.keep_k == self.retrieve_k else f"{self.retrieve_k}→{self.keep_k}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemTable:
    """`[systems.NAME]`: one of the systems compared.

    Attributes:
        title: its name in the report; by default NAME.
        ablation_of: the system that it is compared with, question by question.
        checkpoint: a folder or hub id to load, instead of training.
        changes: to the base's training config, merged into it table by table. A list replaces a list.
        models_of: the system whose models this one uses to read, instead of training its own.
        reranker: the system whose scorer orders the passages for this one, in a pass of its own.
        single_task: train one model for each task, with its share of the steps, which answers that task's questions.
        measured: false for a system that only reranks for another one.
    """

    title: str = ""
    ablation_of: str = ""
    checkpoint: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    models_of: str = ""
    reranker: str = ""
    single_task: bool = False
    measured: bool = True

    def __post_init__(self) -> None:
        if bool(self.checkpoint) + bool(self.models_of) + bool(self.changes or self.single_task) > 1:
            raise ConfigError("give only one of checkpoint, models_of, and changes with single_task")
        if "out" in self.changes:
            raise ConfigError("leave `out` out of changes: a system's run is kept in the comparison's `out`")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTable:
    """`[grid]`: what is measured, the same for all systems. Answers are always decoded greedily (`num_beams` is 1).

    Attributes:
        retrieve_k, keep_k: the grid: all pairs with `keep_k` up to `retrieve_k`. A system without scorer and reranker
            reads the retriever's first `keep_k` passages.
        sets: question sets of the cache; by default the dev sets of the base (`data.dev`).
        questions: questions of each set at most, evenly spread; 0 for all.
        batch: questions answered together, where no time is taken.
        timed_questions: questions of each set that are timed, one at a time; 0 for no timing.
        repeats: how often each of these is timed.
        max_new_tokens: of an answer.
        device, dtype: where answers are computed; by default on the CPU, in the dtype that is fast there.
    """

    retrieve_k: tuple[int, ...]
    keep_k: tuple[int, ...]
    sets: tuple[str, ...] = ()
    questions: int = 0
    batch: int = 16
    timed_questions: int = 10
    repeats: int = 3
    max_new_tokens: int = 32
    device: str = "cpu"
    dtype: Literal["bfloat16", "float32"] | None = None

    def __post_init__(self) -> None:
        require(self, positive=("batch", "repeats", "max_new_tokens"), natural=("questions", "timed_questions"))
        for name in ("retrieve_k", "keep_k"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ConfigError(f"{name} must be a list of numbers of at least 1, not {list(values)}")
        if min(self.keep_k) > max(self.retrieve_k):
            raise ConfigError("every keep_k exceeds every retrieve_k: no pair is left to measure")

    @property
    def most(self) -> int:
        """The number of candidates that each question needs."""
        return max(self.retrieve_k)

    def points(self, *, reranks: bool) -> list[Point]:
        """The points of a system, ascending. `reranks`: whether it orders passages by more than the retriever."""
        if reranks:
            return sorted({Point(r, k) for r in self.retrieve_k for k in self.keep_k if k <= r})
        return sorted({Point(k, k) for k in self.keep_k if k <= self.most})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """A comparison.

    Attributes:
        out: its folder. A comparison that was interrupted there goes on.
        base: the training config that systems change.
        grid: the points to measure.
        systems: by name, in the order of the report.
        title, about: the report's heading, and what its reader should know about corpus and questions.
    """

    out: Path
    base: dict[str, Any]
    grid: GridTable
    systems: Mapping[str, SystemTable]
    title: str = "Comparison"
    about: str = ""

    def __post_init__(self) -> None:
        if "out" in self.base:
            raise ConfigError("[base] takes no `out`: runs are kept in the comparison's `out`")
        if not any(s.measured for s in self.systems.values()):
            raise ConfigError("there is no system to measure: give at least one [systems.NAME] table")
        for name, system in self.systems.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f"a system's name is also a folder's: letters, digits, _ and -, not {name!r}")
            for key in ("ablation_of", "models_of", "reranker"):
                other = getattr(system, key)
                if other and (other not in self.systems or other == name):
                    raise ConfigError(f"systems.{name}.{key} names {other!r}, which is no other system here")
            if system.models_of and self.systems[system.models_of].models_of:
                raise ConfigError(
                    f"systems.{name}.models_of names a system that has models_of too; name the other one itself"
                )
            if system.reranker and self.systems[system.reranker].reranker:
                raise ConfigError(f"systems.{name}.reranker has a reranker itself; name one with a scorer of its own")
            if system.ablation_of and not self.systems[system.ablation_of].measured:
                raise ConfigError(f"systems.{name} is an ablation of {system.ablation_of!r}, which is not measured")

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read a TOML file. Paths in it are as given: relative ones start at the working directory.

        Raises:
            ConfigError: there is no such file, it is not TOML, or a key is unknown, missing or of a wrong type; the
                message names the key and the file.
        """
        return cls.from_values(read_toml(path, what="comparison"), where=str(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """A comparison from plain values. Messages say that they come from `where`."""
        read = read_table(_File, values, where=where)
        systems = {name: _system(table, where=where, name=f"systems.{name}") for name, table in read.systems.items()}
        try:
            return cls(**{f.name: getattr(read, f.name) for f in dataclasses.fields(_File)} | {"systems": systems})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def names(self, only: tuple[str, ...] = ()) -> list[str]:
        """The names of all systems, or of those in `only` and the rerankers they need; rerankers come first.

        Raises:
            ConfigError: `only` names an unknown system.
        """
        if unknown := [name for name in only if name not in self.systems]:
            raise ConfigError(f"there is no system {unknown[0]!r}; there are: {', '.join(self.systems)}")
        wanted = [name for name in self.systems if not only or name in only]
        rerankers = [self.systems[name].reranker for name in wanted if self.systems[name].reranker]
        return list(dict.fromkeys(rerankers + wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The file before its systems are read."""

    out: Path
    base: dict[str, Any]
    grid: GridTable
    systems: dict[str, Any]
    title: str = "Comparison"
    about: str = ""


def _system(table: Any, *, where: str, name: str) -> SystemTable:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {name} must be a table, not {table!r}")
    return read_table(SystemTable, table, where=where, name=name)
