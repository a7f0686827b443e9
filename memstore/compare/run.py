"""Runs a comparison, from one file to one report. `compare` is the story: get every system, ask all, write.

    out/runs/NAME/              training, as `memstore train` leaves it, and trained.json when it is finished
    out/measured/NAME.json      the answers at every point of the grid, with their settings and models
    out/times.json              milliseconds of all systems, taken in turns
    out/report.json, report.md, *.png

Each file is written when it is complete. The next run finds it, and does not do the work again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore import checkpoint
from memstore.checkpoint.files import check_folder
from memstore.compare import record
from memstore.compare.clock import take_times
from memstore.compare.config import CompareConfig
from memstore.compare.measure import System, data_settings, dev_batches, measure, recorded_data
from memstore.compare.report import write_report
from memstore.compare.summary import summarise
from memstore.compare.systems import ALL_TASKS, Run, SystemRuns, system_runs
from memstore.errors import ConfigError
from memstore.machine import compute_dtype
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.train.data.cache import content_of, read_manifest
from memstore.train.data.settings import DataSettings
from memstore.train.loop import Say, TrainReport, train
from memstore.train.state import differences

TRAINED, MEASURED, TIMES, REPORT = "trained.json", "measured", "times.json", "report.json"
_SAY_EVERY = 15.0  # seconds
Json = dict[str, Any]
Listen = Callable[[], AbstractContextManager[Callable[[], bool]]]


@dataclass(frozen=True, slots=True)
class _Work:
    """The parts that the steps of a comparison share."""

    config: CompareConfig
    runs_of: Mapping[str, SystemRuns]
    data: DataSettings
    say: Say
    listen: Listen

    def file(self, name: str) -> Path:
        """The file of a system's answers."""
        return self.config.out / MEASURED / f"{name}.json"


def _never() -> AbstractContextManager[Callable[[], bool]]:
    """A `Listen` that never asks a training to stop."""
    return nullcontext(lambda: False)


def compare(
    config: CompareConfig, say: Say | None = None, *, only: tuple[str, ...] = (), listen: Listen = _never
) -> Json:
    """Train or load every system, measure each over the grid, time them in turns, and write the report.

    Work that an earlier run finished is not done again.

    Args:
        config: the comparison.
        say: gets a line of text for people, now and then.
        only: train and measure only these systems and the rerankers they need, and take no times.
        listen: a context entered around each training. It gives a function that says whether to stop; the training
            then saves its state first.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: settings contradict each other, or an earlier result.
        OutputUnwritable: `out` is a file, lies below one, or may not be written to. Raised before any work.
        MemstoreError: an error of training, a checkpoint or the cache.
        KeyboardInterrupt: a training stopped because it was asked to.
    """
    check_folder(config.out)
    work = _Work(config, system_runs(config), data_settings(config), say or (lambda _: None), listen)
    names = config.names(only)
    _refuse_other_settings(work)
    finished = [name for name in names if _train(work, name)]
    ready = [n for n in finished if (config.systems[n].reranker or n) in finished]
    systems = _load(work, ready)
    for name in ready:
        if config.systems[name].measured:
            _measure(work, systems[name])
    measured = {name: found for name in config.systems if (found := _found(work, name)) is not None}
    if not measured:
        raise ConfigError("no system is trained yet: run it again to go on")
    wanted = [name for name, table in config.systems.items() if table.measured]
    in_turns = not only and all(name in systems and name in measured for name in wanted)
    times = _times(work, [systems[n] for n in wanted] if in_turns else [], measured)
    summary = summarise(config, measured, times)
    record.write(config.out / REPORT, summary)
    work.say(f"wrote {write_report(config.out, summary)}")
    return summary


def _refuse_other_settings(work: _Work) -> None:
    """Read all earlier results, which raises for one of other settings, before hours of work."""
    for name, system in work.runs_of.items():
        for run in system.runs.values():
            _trained(run)
        _found(work, name)


# --- models -------------------------------------------------------------------------------------------------


def _trained(run: Run) -> Json | None:
    out = run.config.out
    found = record.read(out / TRAINED, run.settings)
    return found if found is not None and (out / found["checkpoint"]).is_dir() else None


def _train(work: _Work, name: str) -> bool:
    """Train a system's models. False if one stopped before its end, as `stop_after_minutes` may ask."""
    for task, run in work.runs_of[name].runs.items():
        label = f"{name}/{task}" if task else name
        if _trained(run) is not None:
            work.say(f"{label}: is trained already")
            continue
        with work.listen() as asked:
            report = train(run.config, lambda line, label=label: work.say(f"{label}: {line}"), stopping=asked)  # type: ignore[misc]
            stopped = asked()
        if report.finished:
            record.write(run.config.out / TRAINED, record.kept(run.settings, _training_record(report, run)))
        else:
            work.say(f"{label}: stopped at step {report.step:,} of {run.config.steps:,}; run it again to go on")
        if stopped:
            raise KeyboardInterrupt
        if not report.finished:
            return False
    return True


def _training_record(report: TrainReport, run: Run) -> Json:
    return {
        "step": report.step, "tokens": report.tokens, "seconds": report.seconds, "best_step": report.best_step,
        "best_score": report.best_score, "checkpoint": report.checkpoint.name,
        "config": json.loads(json.dumps(run.config.to_dict(), default=str)),
    }  # fmt: skip


def _load(work: _Work, names: list[str]) -> dict[str, System]:
    """Load systems, ready to answer. In `names` rerankers come first."""
    systems: dict[str, System] = {}
    for name in names:
        table = work.config.systems[name]
        paths = {
            task: run.config.out / _require_trained(run)["checkpoint"] for task, run in work.runs_of[name].runs.items()
        }
        loaded = {
            task: _open(work, path) for task, path in (paths or {ALL_TASKS: work.runs_of[name].checkpoint}).items()
        }
        reranker = systems[table.reranker] if table.reranker else None
        if reranker is not None and not reranker.reranks:
            raise ConfigError(f"systems.{name}.reranker names {table.reranker!r}, which has no scorer")
        models = {task: model for task, (model, _) in loaded.items()}
        tokenizer = next(tokenizer for _, tokenizer in loaded.values())
        systems[name] = System(name=name, models=models, tokenizer=tokenizer, reranker=reranker)
    return systems


def _require_trained(run: Run) -> Json:
    found = _trained(run)
    assert found is not None
    return found


def _open(work: _Work, path: Path | str) -> tuple[MemoryModel, TextTokenizer]:
    grid = work.config.grid
    return checkpoint.load(path, dtype=compute_dtype(grid.device, grid.dtype), device=grid.device)


# --- answers ------------------------------------------------------------------------------------------------


def _settings(work: _Work, name: str) -> Json:
    """The settings that determine a system's answers."""
    reranker, grid = work.config.systems[name].reranker, work.config.grid
    asked = {key: getattr(grid, key) for key in ("retrieve_k", "keep_k", "questions", "max_new_tokens", "dtype")}
    return {
        "system": work.runs_of[name].settings,
        "reranker": work.runs_of[reranker].settings if reranker else None,
        "data": recorded_data(work.config, work.data),
        "grid": {key: list(v) if isinstance(v, tuple) else v for key, v in asked.items()},
    }


def _found(work: _Work, name: str) -> Json | None:
    return record.read(work.file(name), _settings(work, name))


def _fingerprints(work: _Work, system: System) -> Json:
    models = {task: record.model_fingerprint(model, system.tokenizer) for task, model in system.models.items()}
    reranker = None if system.reranker is None else _fingerprints(work, system.reranker)["models"]
    return {"models": models, "reranker": reranker, "cache": content_of(work.data.cache)}


def _measure(work: _Work, system: System) -> None:
    """Measure a system's answers, unless an earlier run did."""
    fingerprints, path = _fingerprints(work, system), work.file(system.name)
    found = _found(work, system.name)
    if found is not None:
        if changed := differences(found["fingerprints"], fingerprints):
            raise ConfigError(f"{path} was made by another model or cache: {changed[0]}. Remove it to measure again.")
        work.say(f"{system.name}: is measured already")
        return
    grid, begin, said_at = work.config.grid, time.monotonic(), time.monotonic()
    batches = dev_batches(work.data, system.tokenizer, questions=grid.questions, batch=grid.batch)
    results = None
    for results in measure(system, batches, grid):
        if time.monotonic() - said_at > _SAY_EVERY:
            said_at = time.monotonic()
            work.say(f"{system.name}: {len(results.ids):,} questions at {len(results.points)} points")
    if results is None:
        raise ConfigError(f"{work.data.cache} has no question in {', '.join(work.data.dev)}")
    seconds = time.monotonic() - begin
    work.say(f"{system.name}: measured {len(results.ids):,} questions in {seconds:.0f} s")
    values = _described(work, system) | {"fingerprints": fingerprints, "seconds": seconds}
    record.write(path, record.kept(_settings(work, system.name), values | {"results": results.to_dict()}))


def _described(work: _Work, system: System) -> Json:
    """What the report says about a system's training and models."""
    manifest, table = read_manifest(work.data.cache), work.config.systems[system.name]
    training = {
        task: {key: value for key, value in _require_trained(run).items() if key not in ("settings", "settings_hash")}
        for task, run in work.runs_of[system.name].runs.items()
    }
    models = {
        task: {"parameters": sum(p.numel() for p in model.parameters()), "config": model.config.to_dict()}
        for task, model in system.models.items()
    }
    return {
        "name": system.name,
        "training": training,
        "models": models,
        "reranker": table.reranker,
        "device": work.config.grid.device,
        "dtype": str(next(iter(system.models.values())).dtype).removeprefix("torch."),
        "cache": {"passages": manifest.passages, "tokens": manifest.tokens},
    }


# --- times --------------------------------------------------------------------------------------------------


def _times(work: _Work, systems: list[System], measured: Mapping[str, Json]) -> Json | None:
    """The milliseconds of all systems; without `systems`, those of an earlier run if they are of the same answers.

    Only times of one process are comparable, so they are all taken again if any system changes.
    """
    grid, path = work.config.grid, work.config.out / TIMES
    settings = {
        "systems": {name: [found["settings_hash"], found["fingerprints"]] for name, found in measured.items()},
        "timed_questions": grid.timed_questions,
        "repeats": grid.repeats,
        "device": grid.device,
    }
    try:
        found = record.read(path, settings)
    except ConfigError:
        found = None
        work.say(f"{path} is of other systems or settings" + (": taking the times again" if systems else ""))
    if found is not None or not systems or not grid.timed_questions:
        return found
    batches = dev_batches(work.data, systems[0].tokenizer, questions=grid.timed_questions, batch=1)
    times, said_at = None, time.monotonic()
    for times in take_times(systems, batches, grid):
        if time.monotonic() - said_at > _SAY_EVERY:
            said_at = time.monotonic()
            work.say(f"times: {len(times['tasks']):,} questions")
    work.say(f"times: took {len(times['tasks']):,} questions' in turns" if times else "times: no questions")
    values = record.kept(settings, {"times": times})
    values["made_by"]["device"] = grid.device
    record.write(path, values)
    return values
