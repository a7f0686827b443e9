"""Answers and scores files of questions, as a server would answer them: `memstore evaluate`.

    1. check      question files are read, outputs are tried: mistakes are reported before the work
    2. answer     `Answerer.answer`, a batch at a time; each passage is checked for an answer
    3. summarise  metrics with intervals, floors, both orders of the passages
    4. write      a task's predictions as soon as they are complete; the error list at the end

Knows files and whatever answers questions; refuses to know what is printed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from memstore.answer import KEEP_K, MAX_NEW_TOKENS, RETRIEVE_K, Answer, Answerer, Question
from memstore.checkpoint.files import CALIBRATION, CONFIG, TOKENIZER, WEIGHTS
from memstore.errors import ConfigError, DataError, OutputUnwritable
from memstore.evaluate.bootstrap import CONFIDENCE, RESAMPLES, SEED
from memstore.evaluate.confidence import confidence_figures, draw
from memstore.evaluate.mistakes import Kind, as_json_lines, as_markdown, mistakes
from memstore.evaluate.outcome import Outcome, majority_answer, outcome
from memstore.evaluate.summary import summarise
from memstore.evaluate.task_files import file_of_task
from memstore.files import check_folder, check_outputs, write_text
from memstore.questions.files import Gold, GoldQuestion, read_gold
from memstore.retrieve.filters import Filter
from memstore.store.format import PARTS


class Answers(Protocol):
    """What can answer questions: an `Answerer`, or a test's stand-in."""

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer each, in order."""
        ...

    def info(self) -> dict[str, Any]:
        """Which `model` and `store` answer."""
        ...


class QuestionProgress(Protocol):
    """Receives progress, one stage at a time."""

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        """A stage of `total` questions starts."""

    def advance(self, items: int) -> None:
        """`items` more questions are done."""

    def end(self) -> None:
        """The stage is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate on, and how.

    Attributes:
        store: folder of the store.
        data: question files in KILT's form, by task. A question is asked with its task if the model knows a task
            of this name, else without one.
        train_data: by task, the file whose most frequent answer is the floor; by default the task's own file.
        model: the checkpoint; by default the one that built the store.
        retrieve_k, keep_k, keep_mass, max_gflop, max_new_tokens, num_beams: see `memstore.answer.Question`.
        batch: how many questions are answered together.
        limit: at most this many questions of each file, evenly spread.
        min_confidence: answers of less confidence count as none.
        plots: folder for the reliability diagram and the curve of precision against coverage.
        filter: what the metadata of all passages must be, as `Filter.of` takes it; None for anything.
        predictions: file to write. With several tasks, each has its own: `out.nq.jsonl` and so on for `out.jsonl`.
        errors: file to write the list of wrong answers to, `.md` or `.jsonl`.
        device: where the model runs.
    """

    store: Path
    data: Mapping[str, Path]
    train_data: Mapping[str, Path] = field(default_factory=dict)
    model: str | None = None
    retrieve_k: int = RETRIEVE_K
    keep_k: int = KEEP_K
    max_new_tokens: int = MAX_NEW_TOKENS
    num_beams: int | None = None
    batch: int = 8
    limit: int | None = None
    min_confidence: float = 0.0
    predictions: Path | None = None
    errors: Path | None = None
    plots: Path | None = None
    device: str = "cpu"
    filter: Mapping[str, Any] | None = None
    keep_mass: float | None = None
    max_gflop: float | None = None

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("nothing to evaluate on: name at least one file of questions")
        if self.batch < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError("batch and limit must be at least 1")
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence must be from 0 to 1, not {self.min_confidence}")
        if unknown := sorted(set(self.train_data) - set(self.data)):
            raise ConfigError(
                f"training data of {unknown[0]!r}, but no data of that name; there is: {_list(self.data)}"
            )
        if self.errors is not None and self.errors.suffix not in (".md", ".jsonl"):
            raise ConfigError(f"the error list must end in .md or .jsonl, not {self.errors.name!r}")
        self.question("?", task=None)

    def question(self, text: str, *, task: str | None) -> Question:
        """A question with these settings.

        Raises:
            RequestError: the settings contradict each other.
        """
        return Question(
            text=text,
            task=task,
            retrieve_k=self.retrieve_k,
            keep_k=self.keep_k,
            max_new_tokens=self.max_new_tokens,
            filter=None if self.filter is None else Filter.of(self.filter),
            num_beams=self.num_beams,
            keep_mass=self.keep_mass,
            max_gflop=self.max_gflop,
        )

    def predictions_of(self, task: str) -> Path | None:
        """Where a task's predictions go."""
        return None if self.predictions is None else file_of_task(self.predictions, task, tasks=len(self.data))


def evaluate(
    options: EvaluateOptions, *, progress: QuestionProgress | None = None, answerer: Answers | None = None
) -> dict[str, Any]:
    """The scores of every file, as plain values for JSON.

    Args:
        options: what to evaluate on.
        progress: gets the number of questions answered.
        answerer: answers instead of the options' store and model.

    Returns:
        `model`, `store`, `settings`, `bootstrap`; `tasks` by name, with the keys of `summarise` and of `_Run.task`;
        `confidence` over the questions of all tasks, as `confidence_figures` has it, and `plots`, the folder of its
        curves; `errors`, the path of that list; and `unwritten`, the reasons why files could not be written after all.

    Raises:
        DataNotFound, DataUnreadable, DataError: a file of questions cannot be used.
        ConfigError, OutputUnwritable: an output is an input, or cannot be written. Raised before the first question.
        StoreNotFound, CheckpointNotFound, FingerprintMismatch: see `Answerer.open`.
    """
    files = {task: _read(path) for task, path in options.data.items()}
    majorities = {task: _majority(task, gold, options) for task, gold in files.items()}
    if options.plots is not None:
        check_folder(options.plots)
    wanted = [options.errors, *map(options.predictions_of, files)]
    read = [*options.data.values(), *options.train_data.values(), *_files_of(options.store, options.model)]
    check_outputs([path for path in wanted if path is not None], inputs=read)
    answerer = answerer or Answerer.open(options.store, model=options.model, device=options.device)
    run = _Run(options, answerer, progress)
    tasks = {task: run.task(task, gold, majorities[task]) for task, gold in files.items()}
    confidence = confidence_figures(
        [one for task in run.outcomes.values() for one in task], min_confidence=options.min_confidence
    )
    run.write_errors()
    run.draw({task: found["confidence"] for task, found in tasks.items()}, confidence)
    return dict(answerer.info()) | {
        "settings": run.settings(),
        "bootstrap": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED},
        "tasks": tasks,
        "confidence": confidence,
        "plots": None if options.plots is None else str(options.plots),
        "errors": None if options.errors is None else str(options.errors),
        "unwritten": run.unwritten,
    }


def answered(
    options: EvaluateOptions, answerer: Answers, *, progress: QuestionProgress | None = None
) -> dict[str, list[Outcome]]:
    """The outcomes of every file's questions, by task; nothing is written.

    Raises:
        DataNotFound, DataUnreadable, DataError: a file of questions cannot be used.
    """
    files, run = {task: _read(path) for task, path in options.data.items()}, _Run(options, answerer, progress)
    return {
        task: run.answer(task, _sample(gold.questions, options.limit), run.asked_as(task))[0]
        for task, gold in files.items()
    }


class _Run:
    """One run of `evaluate`."""

    def __init__(self, options: EvaluateOptions, answerer: Answers, progress: QuestionProgress | None) -> None:
        self.options, self.answerer, self.progress = options, answerer, progress
        self.known = set(answerer.info()["model"]["tasks"])
        self.outcomes: dict[str, list[Outcome]] = {}
        self.wrong: dict[str, dict[Kind, list[Outcome]]] = {}
        self.unwritten: list[str] = []

    def task(self, task: str, gold: Gold, majority: tuple[str, Path]) -> dict[str, Any]:
        """Answer, write and summarise one file."""
        questions = _sample(gold.questions, self.options.limit)
        asked_as = self.asked_as(task)
        outcomes, cost = self.answer(task, questions, asked_as)
        self.outcomes[task], self.wrong[task] = outcomes, mistakes(outcomes)
        predictions = self.options.predictions_of(task)
        if predictions is not None:
            self._write(predictions, "".join(one.kilt_line() for one in outcomes))
        return {
            "file": str(gold.path),
            "questions_in_file": len(gold.questions),
            "sampled": len(questions) < len(gold.questions),
            "asked_as": asked_as,
            "page_key": gold.page_key,
            "majority_answer": {"answer": majority[0], "file": str(majority[1])},
            **summarise(outcomes, page_key=gold.page_key, majority=majority[0], retrieve_k=self.options.retrieve_k),
            "confidence": confidence_figures(outcomes, min_confidence=self.options.min_confidence),
            "wrong": {kind: len(found) for kind, found in self.wrong[task].items()},
            "predictions": None if predictions is None else str(predictions),
            "cost": cost,
        }

    def asked_as(self, task: str) -> str | None:
        """The task that a file's questions are asked with: its own, if the model knows it."""
        return task if task in self.known else None

    def answer(
        self, task: str, questions: Sequence[GoldQuestion], asked_as: str | None
    ) -> tuple[list[Outcome], dict[str, Any]]:
        """The outcomes in order, and the average cost of a question."""
        outcomes: list[Outcome] = []
        seconds = 0.0
        stages: defaultdict[str, float] = defaultdict(float)
        spent: defaultdict[str, float] = defaultdict(float)
        if self.progress:
            self.progress.begin(task, len(questions))
        try:
            for start in range(0, len(questions), self.options.batch):
                chosen = questions[start : start + self.options.batch]
                begin = time.perf_counter()
                answers = self.answerer.answer([self.options.question(q.input, task=asked_as) for q in chosen])
                seconds += time.perf_counter() - begin
                for stage, milliseconds in answers[0].usage.milliseconds.items():  # the same for the whole batch
                    stages[stage] += milliseconds
                for usage in (answer.usage for answer in answers):
                    spent["flops"] += sum(usage.flops.values())
                    spent["fid_flops"] += usage.fid_flops
                    spent["bytes_read"] += usage.bytes_read
                spent["passages_read"] += sum(one.kept for answer in answers for one in answer.passages)
                least = self.options.min_confidence
                outcomes += (outcome(q, a, min_confidence=least) for q, a in zip(chosen, answers, strict=True))
                if self.progress:
                    self.progress.advance(len(chosen))
        finally:
            if self.progress:
                self.progress.end()
        n = len(questions)
        cost = {
            "seconds": seconds,
            "seconds_per_question": seconds / n,
            "milliseconds_per_question": {stage: total / n for stage, total in stages.items()},
        }
        return outcomes, cost | {f"{name}_per_question": total / n for name, total in spent.items()}

    def write_errors(self) -> None:
        """Write the list of wrong answers, if the options name a file for it."""
        path = self.options.errors
        if path is not None:
            self._write(path, as_markdown(self.wrong) if path.suffix == ".md" else as_json_lines(self.wrong))

    def draw(self, figures: Mapping[str, Mapping[str, Any]], everything: Mapping[str, Any]) -> None:
        """Draw the confidence curves, if the options name a folder for them: of each task, and of several together."""
        if self.options.plots is None:
            return
        try:
            draw(figures if len(figures) == 1 else {**figures, "all": everything}, self.options.plots)
        except OutputUnwritable as error:
            self.unwritten.append(str(error))

    def _write(self, path: Path, text: str) -> None:
        """Write a file; keep the reason if that fails, for the end. A full disk must not cost the scores."""
        try:
            write_text(path, text)
        except OutputUnwritable as error:
            self.unwritten.append(str(error))

    def settings(self) -> dict[str, Any]:
        """The settings in force."""
        names = ("retrieve_k", "keep_k", "max_new_tokens", "num_beams", "min_confidence", "batch", "limit", "device")
        settings = {name: getattr(self.options, name) for name in names}
        for name in ("keep_mass", "max_gflop"):
            if getattr(self.options, name) is not None:
                settings[name] = getattr(self.options, name)
        return settings if self.options.filter is None else settings | {"filter": dict(self.options.filter)}


def _read(path: Path) -> Gold:
    gold = read_gold(path)
    for question in gold.questions:
        if not question.input:
            raise DataError("the row has no `input` to ask", path=path, line=question.line)
    return gold


def _files_of(store: Path, model: str | None) -> list[Path]:
    """Files that no result may overwrite: the parts of the store, and the files of a checkpoint that is a folder."""
    parts = [store / name for name in PARTS]
    return parts + (
        [Path(model) / name for name in (CONFIG, WEIGHTS, TOKENIZER, CALIBRATION)] if model is not None else []
    )


def _majority(task: str, gold: Gold, options: EvaluateOptions) -> tuple[str, Path]:
    path = options.train_data.get(task)
    source = gold if path is None else read_gold(path)
    return majority_answer(source.questions), source.path


def _sample(questions: Sequence[GoldQuestion], limit: int | None) -> Sequence[GoldQuestion]:
    """All questions, or `limit` of them, evenly spread, in the file's order."""
    if limit is None or limit >= len(questions):
        return questions
    return [questions[i * len(questions) // limit] for i in range(limit)]


def _list(names: Mapping[str, Path]) -> str:
    return ", ".join(sorted(names))
