"""What budgets cost and keep: the same questions with a fixed number of passages read, by mass, and by operations.

Every question is answered alone with each setting, all settings in turns. `keep 10` is the default, which the others
are compared with, question by question: `better` is the difference of exact match, with its 95% interval. The limits of
`max_gflop` are shares of what the default costs at most for a question of the store's usual passages.

    python -m benchmarks budgets --store DIR --data squad.dev.jsonl --limit 1000

Without `--store` the bundled sample's is built, and without `--data` its questions are asked. The file's name is the
task, where the model knows it, as for `memstore evaluate`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import TOTAL, Options, Report, ratio, summary
from benchmarks.serving import built_store
from memstore.answer import RETRIEVE_K, Answerer, Question
from memstore.answer.limits import most_gflop
from memstore.errors import RequestError
from memstore.evaluate.bootstrap import estimates
from memstore.evaluate.task_files import named_files
from memstore.questions.files import GoldQuestion, read_gold
from memstore.questions.metrics import exact_match
from memstore_builders.corpus import sample_corpus

DEFAULT = "keep 10"
KEPT = (1, 3, 10)
MASSES = (0.5, 0.7, 0.9, 0.95)
SHARES = (0.75, 0.5, 0.25)
QUESTIONS = 1_000


@dataclass(slots=True)
class _Asked:
    """What answers with one setting were like; an answer that was refused is wrong and costs nothing."""

    right: list[float] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    gflop: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    refused: int = 0
    lowered: int = 0


def run(options: Options) -> Report:
    """Ask each question with each setting."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memstore-bench-")))
        store = options.store or built_store(sample_corpus(), folder / "store", limit=64 if options.quick else 10**6)
        answerer = Answerer.open(store)
        data = options.data or sample_corpus().with_name("questions.jsonl")
        (task,) = named_files([str(data)])
        known = task in answerer.model.config.tasks
        questions = _spaced(read_gold(data).questions, 4 if options.quick else options.limit or QUESTIONS)
        settings = _settings(answerer)
        asked = _ask_all(answerer, questions, settings, task=task if known else None)
    times = {name: one.milliseconds for name, one in asked.items()}
    return Report(
        name="budgets",
        claim="time of 10 passages read over that of other settings, and what becomes of the answers",
        settings={
            "questions": len(questions),
            "data": data.name,
            "asked_as": task if known else "no task",
            "passages": answerer.store.live,
            "model": answerer.model.config.name,
            "retrieve_k": RETRIEVE_K,
            "threads": torch.get_num_threads(),
        },
        ratios=[ratio(name, times[DEFAULT], each) for name, each in times.items() if name != DEFAULT],
        times={name: {TOTAL: summary(each)} for name, each in times.items()},
        rows=rows(asked),
    )


def _settings(answerer: Answerer) -> dict[str, dict[str, Any]]:
    """Options of a question, by the name of the setting."""
    fixed: dict[str, dict[str, Any]] = {f"keep {k}": {"keep_k": k} for k in KEPT}
    by_mass: dict[str, dict[str, Any]] = {f"auto {mass:g}": {"keep_mass": mass} for mass in MASSES}
    if not answerer.model.config.has_scorer:
        by_mass = {}
    most = most_gflop(Question("?"), answerer.store, answerer.tokenizer)
    limits = [float(f"{share * most:.2g}") for share in SHARES]
    return fixed | by_mass | {f"{limit:g} GFLOP": {"max_gflop": limit} for limit in limits}


def _spaced(questions: Sequence[GoldQuestion], most: int) -> list[GoldQuestion]:
    """At most so many questions, evenly spread."""
    wanted = min(most, len(questions))
    return [questions[i * len(questions) // wanted] for i in range(wanted)]


def _ask_all(
    answerer: Answerer,
    questions: Sequence[GoldQuestion],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    task: str | None,
) -> dict[str, _Asked]:
    answerer.ask(Question(questions[0].input, task=task))  # warm
    asked, names = {name: _Asked() for name in settings}, list(settings)
    for at, question in enumerate(questions):
        first = at % len(names)
        for name in names[first:] + names[:first]:
            plain = Question(question.input, task=task)
            _ask(answerer, replace(plain, **settings[name]), question.answers, asked[name])
    return asked


def _ask(answerer: Answerer, question: Question, answers: Sequence[str], into: _Asked) -> None:
    begin = time.perf_counter()
    try:
        answer = answerer.ask(question)
    except RequestError:  # no setting is so cheap
        into.refused += 1
        into.right.append(0.0)
    else:
        into.right.append(float(exact_match(answer.text or "", answers)))
        into.read.append(sum(one.kept for one in answer.passages))
        into.gflop.append(sum(answer.usage.flops.values()) / 1e9)
        into.lowered += answer.lowered is not None
    into.milliseconds.append((time.perf_counter() - begin) * 1e3)


def rows(asked: Mapping[str, _Asked]) -> list[dict[str, float | int | str]]:
    """A line for each setting: shares in per cent, means over the questions that were answered."""
    right = np.array([one.right for one in asked.values()]).T  # (questions, settings)
    quality = estimates(100 * right)
    gain = estimates(100 * (right - right[:, [list(asked).index(DEFAULT)]]))
    return [
        {
            "setting": name,
            "exact match": own.value,
            "from": own.low,
            "to": own.high,
            "better": more.value,
            "better from": more.low,
            "better to": more.high,
            "passages read": statistics.fmean(one.read) if one.read else 0.0,
            "GFLOP": statistics.fmean(one.gflop) if one.gflop else 0.0,
            "most GFLOP": max(one.gflop, default=0.0),
            "ms": statistics.median(one.milliseconds),
            "lowered": one.lowered,
            "refused": one.refused,
        }
        for (name, one), own, more in zip(asked.items(), quality, gain, strict=True)
    ]
