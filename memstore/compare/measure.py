"""Measures the quality of a system's answers over its grid, and counts their cost. Takes no times.

Grid points share the questions, the memories and live_a of all candidates: no row depends on another, so these are
computed once. `memstore.compare.clock` answers without this sharing, and a test checks that both give the same answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memstore import decode
from memstore.compare.config import CompareConfig, GridTable, Point
from memstore.compare.systems import ALL_TASKS, dev_sets
from memstore.errors import ConfigError
from memstore.model import flops, selection
from memstore.model.config import ModelConfig
from memstore.model.model import MemoryModel
from memstore.model.ranking import Ranked, rank
from memstore.model.tokens import TextTokenizer
from memstore.questions.metrics import accuracy, exact_match, f1
from memstore.tables import read_table
from memstore.train.data.batch import DevBatch
from memstore.train.data.cache import content_of, read_manifest
from memstore.train.data.mixture import MixedBatches
from memstore.train.data.settings import DataSettings

SCORES = ("em", "f1", "accuracy")
# KILT's headline score for labels. Slots, which KILT compares exactly too, are scored by exact match here: a model of
# lower case restores capitals from the passages' texts, and a cache has only token ids.
_BY_ACCURACY = ("fever",)
_READ_ALIKE = ("cache", "gold", "passage_tokens", "question_tokens", "max_target_tokens")


def headline(task: str) -> str:
    """The main score of a task."""
    return "accuracy" if task in _BY_ACCURACY else "em"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system ready to answer.

    Attributes:
        name: its name.
        models: by task, in evaluation mode; the key "" is for every task.
        tokenizer: of all models.
        reranker: the system whose scorer orders the passages, if it is another one.
    """

    name: str
    models: Mapping[str, MemoryModel]
    tokenizer: TextTokenizer
    reranker: System | None = None

    def model(self, task: str) -> MemoryModel:
        """The model that answers questions of a task."""
        return self.models[task] if ALL_TASKS not in self.models else self.models[ALL_TASKS]

    @property
    def reranks(self) -> bool:
        """Whether passages are ordered by anything but the retriever."""
        return self.reranker is not None or next(iter(self.models.values())).scorer is not None

    @property
    def device(self) -> torch.device:
        """The device of its models."""
        return next(iter(self.models.values())).device


def data_settings(config: CompareConfig) -> DataSettings:
    """The `[data]` that all systems are measured on: the base's cache, gold rule and lengths.

    Raises:
        ConfigError: the cache has fewer candidates for a question than the grid needs, or no set to measure on.
        CandidatesNotFound, CandidatesCorrupt: the cache is missing or damaged.
    """
    whole = read_table(DataSettings, config.base.get("data", {}), where="[base]", name="data")
    held = read_manifest(whole.cache).fingerprint.k
    if config.grid.most > held:
        raise ConfigError(
            f"grid.retrieve_k asks for {config.grid.most} passages, but {whole.cache} holds {held} for each question: "
            f"prepare it with k = {config.grid.most}, or ask for fewer"
        )
    dev = tuple(dev_sets(whole, config.grid.sets))
    alike = {name: getattr(whole, name) for name in _READ_ALIKE}
    return DataSettings(**alike, train=dev, dev=dev, dev_passages=config.grid.most)


def recorded_data(config: CompareConfig, data: DataSettings) -> dict[str, Any]:
    """The data settings to keep with a result: those in the file, and the cache's content, not its path."""
    said = {key: value for key, value in config.base["data"].items() if key in _READ_ALIKE}
    return said | {"dev": list(data.dev), "dev_passages": data.dev_passages, "cache": content_of(data.cache)}


def dev_batches(data: DataSettings, tokenizer: TextTokenizer, *, questions: int, batch: int) -> Iterator[DevBatch]:
    """Batches of the questions to measure on, `questions` of each set (0 for all). Each batch is of one task.

    Raises:
        ConfigError, CandidatesNotFound, CandidatesCorrupt, CandidatesMismatch: see `Candidates.open`.
    """
    asked = dataclasses.replace(data, dev_questions=questions, dev_batch=batch)
    return MixedBatches(asked, tokenizer=tokenizer, seed=0).dev()


# --- quality ------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class PointResults:
    """The results at one point of the grid: in each list a value for every question.

    Attributes:
        answers: the texts.
        em, f1, accuracy: scores of the answers.
        kept_gold: 1 if a gold passage, by the rule `data.gold`, was read.
        flops, bytes: counted by `memstore.model.flops`, with the real lengths.
        store_bytes: bytes of memories in an int8 store, uncompressed: one for each value.
    """

    retrieve_k: int
    keep_k: int
    answers: list[str] = field(default_factory=list)
    em: list[float] = field(default_factory=list)
    f1: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    kept_gold: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    store_bytes: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Results:
    """A system's answers to all questions, at all points of its grid.

    Attributes:
        ids, tasks: of the questions.
        answerable: 1 if any candidate is gold, by the same rule; equal for all systems and points.
        points: the results at each point.
    """

    ids: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    answerable: list[int] = field(default_factory=list)
    points: list[PointResults] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def measure(system: System, batches: Iterable[DevBatch], grid: GridTable) -> Iterator[Results]:
    """Answer every question at every point. Yields the results so far after each batch, always the same object."""
    found = Results(points=[PointResults(**dataclasses.asdict(p)) for p in grid.points(reranks=system.reranks)])
    for batch in batches:
        _measure(system, batch, found, grid)
        yield found


@torch.inference_mode()
def _measure(system: System, batch: DevBatch, found: Results, grid: GridTable) -> None:
    """Add one batch's answers to `found`."""
    task = batch.tasks[0]
    model, ranker = system.model(task), None if system.reranker is None else system.reranker.model(task)
    ranked = _ranked(model, batch)
    ranking = (ranked if ranker is None else _ranked(ranker, batch)).order()
    found.ids += batch.ids
    found.tasks += batch.tasks
    found.answerable += [int(g) for g in _any(batch.gold, batch.question_of, batch.size)]
    place = selection.places(batch.question_of)[1]  # (R,): in the retriever's order
    for point in found.points:
        # `given` and `kept` are row numbers of the batch: what a system would retrieve, and of that what it reads.
        given = (place < point.retrieve_k).nonzero().squeeze(1)
        kept = given[selection.select(ranking[given], batch.question_of[given], point.keep_k)]
        encoded = model.live_b(ranked.take(kept))
        padding = [model.config.pad_token_id]
        decoded = decode.generate(model, encoded, max_new_tokens=grid.max_new_tokens, banned=padding)
        _score(point, [system.tokenizer.decode(line.ids) for line in decoded], batch, kept)
        _count(point, [line.steps for line in decoded], batch, given, kept, (model, ranker))


def _ranked(model: MemoryModel, batch: DevBatch) -> Ranked:
    """A model's rows for all candidates of each question."""
    questions = model.encode_question(batch.questions.to(model.device))
    memories = model.encode_passages(batch.passages.to(model.device))
    return rank(model, questions, memories, batch.question_of)


def _any(marked: Tensor, question_of: Tensor, questions: int) -> list[bool]:
    """For each question, whether any of its rows is marked."""
    found = torch.zeros(questions, dtype=torch.bool)
    found[question_of[marked]] = True
    return [bool(f) for f in found]


def _score(point: PointResults, texts: Sequence[str], batch: DevBatch, kept: Tensor) -> None:
    point.answers += texts
    for text, answers in zip(texts, batch.answers, strict=True):
        point.em.append(exact_match(text, answers))
        point.f1.append(round(f1(text, answers), 4))
        point.accuracy.append(accuracy(text, answers))
    point.kept_gold += [int(g) for g in _any(batch.gold[kept], batch.question_of[kept], batch.size)]


# --- costs by count -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one answer: operations, bytes moved, and bytes of memories from the store."""

    flops: int
    bytes: int
    store_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(flops=self.flops + other.flops, bytes=self.bytes + other.bytes,
                    store_bytes=self.store_bytes + other.store_bytes)  # fmt: skip


def answer_cost(
    reader: ModelConfig,
    ranker: ModelConfig | None,
    *,
    question_tokens: int,
    passage_tokens: Sequence[int],
    kept_tokens: Sequence[int],
    new_tokens: int,
    bytes_per_value: int,
) -> Cost:
    """The cost of one answer.

    A separate reranker encodes the question and runs its live_a over all passages. The reader then encodes the question
    again, and reads only the kept passages.
    """
    given: dict[str, Any] = {"question_tokens": question_tokens, "kept_tokens": kept_tokens}
    if ranker is None:
        return _cost(reader, {**given, "passage_tokens": passage_tokens, "new_tokens": new_tokens}, bytes_per_value)
    ranking = {**given, "passage_tokens": passage_tokens, "new_tokens": 0}
    reading = {**given, "passage_tokens": kept_tokens, "new_tokens": new_tokens}
    return _ranking_cost(ranker, ranking, bytes_per_value) + _cost(reader, reading, bytes_per_value)


def _cost(config: ModelConfig, given: dict[str, Any], bytes_per_value: int) -> Cost:
    moved = flops.answer_bytes(config, **given, bytes_per_value=bytes_per_value)
    operations = flops.answer_flops(config, **given)
    return Cost(flops=operations.total, bytes=moved.total, store_bytes=_stored(config, given))


def _ranking_cost(config: ModelConfig, given: dict[str, Any], bytes_per_value: int) -> Cost:
    """The cost of scoring passages, without an answer."""
    moved = flops.answer_bytes(config, **given, bytes_per_value=bytes_per_value)
    asked = {name: given[name] for name in ("question_tokens", "passage_tokens")}
    return Cost(flops=flops.ranking_flops(config, **asked), bytes=moved.question + moved.live_a,
                store_bytes=_stored(config, given))  # fmt: skip


def _stored(config: ModelConfig, given: dict[str, Any]) -> int:
    return sum(given["passage_tokens"]) * config.d_model if config.num_memory_layers else 0


def _count(
    point: PointResults,
    steps: Sequence[int],
    batch: DevBatch,
    given: Tensor,
    kept: Tensor,
    models: tuple[MemoryModel, MemoryModel | None],
) -> None:
    """Add each question's cost at a point."""
    model, ranker = models
    lengths, question_of = batch.passages.layout.lengths, batch.question_of
    for i, new_tokens in enumerate(steps):
        cost = answer_cost(
            model.config,
            None if ranker is None else ranker.config,
            question_tokens=int(batch.questions.layout.lengths[i]),
            passage_tokens=lengths[given[question_of[given] == i]].tolist(),
            kept_tokens=lengths[kept[question_of[kept] == i]].tolist(),
            new_tokens=new_tokens,
            bytes_per_value=model.dtype.itemsize,
        )
        point.flops.append(cost.flops)
        point.bytes.append(cost.bytes)
        point.store_bytes.append(cost.store_bytes)


def points_of(system: System, grid: GridTable) -> list[Point]:
    """The points at which a system is measured."""
    return grid.points(reranks=system.reranks)
