"""Every choice of a comparison, frozen and typed, read from one TOML file. Knows no tensors and no files but that one.

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

[systems.fid]                 # what a system changes in the base, merged into it table by table
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
reranker = "ranker"           # ordered by the scorer of this one, in a pass of its own

[systems.ranker]              # only ranks: the model with the best recall is kept, and it is not measured
measured = false
changes.dev = { best_by = "recall" }

[grid]                        # what is measured
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
    """A place of the grid: passages retrieved, and passages that the decoder reads."""

    retrieve_k: int
    keep_k: int

    def __str__(self) -> str:
        return str(self.keep_k) if self.keep_k == self.retrieve_k else f"{self.retrieve_k}→{self.keep_k}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemTable:
    """`[systems.NAME]`: one of the systems compared.

    Attributes:
        title: its name in the report; NAME, if empty.
        ablation_of: the system that it is held against, question by question.
        checkpoint: a folder or hub id to load, instead of training.
        changes: of the base's training config, merged into it table by table; a list replaces a list.
        models_of: the system whose models this one reads with too, instead of training its own.
        reranker: the system whose scorer, in a pass of its own, orders the passages for this one.
        single_task: one model per task, each with its share of the steps, answers that task's questions.
        measured: false for a system that is only another one's reranker.
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
            raise ConfigError("give one of checkpoint, models_of, and what is to be trained: changes and single_task")
        if "out" in self.changes:
            raise ConfigError("a system's run has its place in the comparison's `out`: leave `out` out of changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTable:
    """`[grid]`: what is measured, the same for all systems. Answers are decoded greedily, whatever `num_beams` a model
    has.

    Attributes:
        retrieve_k, keep_k: the grid: all pairs of which the first is not the smaller one. A system without scorer
            and reranker reads the first `keep_k` of the retriever's order.
        sets: question sets of the cache; by default those the base measures on in training (`data.dev`).
        questions: of each set at most, evenly spread; 0 for all.
        batch: questions answered together where time does not matter.
        timed_questions: of each set, answered one at a time against the clock; 0 for no timing.
        repeats: how often each of them is timed.
        max_new_tokens: of an answer.
        device, dtype: what answers; by default the CPU, in what it is fast at.
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
        """Candidates that each question needs."""
        return max(self.retrieve_k)

    def points(self, *, reranks: bool) -> list[Point]:
        """Where a system is measured, ascending."""
        if reranks:
            return sorted({Point(r, k) for r in self.retrieve_k for k in self.keep_k if k <= r})
        return sorted({Point(k, k) for k in self.keep_k if k <= self.most})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """A comparison.

    Attributes:
        out: its folder; one that was cut off there goes on.
        base: the training config that systems change.
        grid: what is measured.
        systems: by name, in the order of the report.
        title, about: the report's heading, and what its reader should know of corpus and questions.
    """

    out: Path
    base: dict[str, Any]
    grid: GridTable
    systems: Mapping[str, SystemTable]
    title: str = "Comparison"
    about: str = ""

    def __post_init__(self) -> None:
        if "out" in self.base:
            raise ConfigError("[base] takes no `out`: runs are kept in the comparison's own")
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
                raise ConfigError(f"systems.{name}.models_of has models of another one; name that one")
            if system.reranker and self.systems[system.reranker].reranker:
                raise ConfigError(f"systems.{name}.reranker has a reranker itself; name one with a scorer of its own")
            if system.ablation_of and not self.systems[system.ablation_of].measured:
                raise ConfigError(f"systems.{name} is held against {system.ablation_of!r}, which is not measured")

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read a TOML file. Paths in it are as given: relative ones start at the working directory.

        Raises:
            ConfigError: no such file, not TOML, or a key that is unknown, missing or of a wrong kind; names
                the key and the file.
        """
        return cls.from_values(read_toml(path, what="comparison"), where=str(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """The same from plain values; `where` stands in messages."""
        read = read_table(_File, values, where=where)
        systems = {name: _system(table, where=where, name=f"systems.{name}") for name, table in read.systems.items()}
        try:
            return cls(**{f.name: getattr(read, f.name) for f in dataclasses.fields(_File)} | {"systems": systems})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def names(self, only: tuple[str, ...] = ()) -> list[str]:
        """Names of systems: all, or those asked for with the rerankers they need; rerankers first.

        Raises:
            ConfigError: one asked for is unknown.
        """
        if unknown := [name for name in only if name not in self.systems]:
            raise ConfigError(f"there is no system {unknown[0]!r}; there are: {', '.join(self.systems)}")
        wanted = [name for name in self.systems if not only or name in only]
        rerankers = [self.systems[name].reranker for name in wanted if self.systems[name].reranker]
        return list(dict.fromkeys(rerankers + wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The file as it stands, before its systems are read."""

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
