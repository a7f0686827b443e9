"""The training loop, from a config to a checkpoint. `_train` is the story: steps, and what is due after a step.

A step depends only on the parameters, the seed and its number: batches, dropout and random choices are all drawn from
these. So a run that was killed goes on as if nothing had happened. Refuses to know where batches come from, what a loss
is, and how parameters are updated.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memstore.errors import ConfigError, TrainingDiverged
from memstore.machine import compute_dtype
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.train.ahead import ahead, batch_numbers
from memstore.train.config import TrainConfig
from memstore.train.data.batch import Batch, BatchSource
from memstore.train.data.cache import content_of
from memstore.train.dev_scores import measure
from memstore.train.initial_model import check_dev, check_losses, checkpoint_activations, compile_blocks, open_model
from memstore.train.losses import encode_memories, evaluating, training_loss
from memstore.train.metrics import ALL, MetricsFile, summarise
from memstore.train.optim import Optimizer, learning_rate
from memstore.train.processes import Processes
from memstore.train.state import RunState, alone, load_state, save_model, save_state
from memstore.train.through_codec import Through, as_they_are
from memstore.train.through_codec import fit as fit_codec
from memstore.train.through_codec import read as read_codec

BEST, LAST, METRICS = "best", "last", "metrics.jsonl"
Say = Callable[[str], None]  # gets a line of text for people, now and then


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """How a run ended.

    Attributes:
        out: the run's folder.
        step, finished: optimizer steps done, and whether these are all.
        tokens, seconds: tokens read and written, and time spent on steps, since the run first began.
        scores: the last dev scores by task, and their means under "all".
        best_score, best_step: of the model in `best/`; None without dev scores.
        checkpoint: the model to use: the best one, or the last without dev scores.
    """

    out: Path
    step: int
    finished: bool
    tokens: int
    seconds: float
    scores: dict[str, dict[str, float]]
    best_score: float | None
    best_step: int | None
    checkpoint: Path


def train(
    config: TrainConfig,
    say: Say | None = None,
    *,
    source: BatchSource | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> TrainReport:
    """Train by the config; go on where the run in `config.out` stopped.

    Args:
        config: the run.
        say: see `Say`.
        source: gives batches, instead of what `config.data` describes.
        stopping: called at every step; true saves the state and stops after the step. Several processes agree: they
            all stop after the step at which one of them is to stop.

    Raises:
        ConfigError: settings contradict each other, the model or the saved run; or another process trains there.
        CheckpointNotFound, CheckpointError, CheckpointMismatch: the model to start from, or a saved state, is unusable.
        TrainingDiverged: the loss is no longer finite.
    """
    with ExitStack() as held:
        return _train(_open(config, say, source, held), stopping)


def _train(run: _Run, stopping: Callable[[], bool]) -> TrainReport:
    config = run.config
    begin, first = time.monotonic(), run.state.step + 1
    wanted = batch_numbers(config, run.processes, first=run.state.step)
    with closing(ahead(run.source.batch, wanted, config)) as batches:
        while run.state.step < config.steps:
            stop = _step(run, batches, lambda: _late(config, begin) or stopping())
            seconds = time.monotonic() - begin
            if run.state.step == first:
                run.say(f"step {first:,} took {seconds:.1f} s; a line like the next every {config.log_every:,} steps")
            _log_if_due(run)
            _measure_if_due(run)
            _save_if_due(run, now=stop)
            if stop:
                break
    return _end(run)


# --- the run ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """Everything a run works with."""

    config: TrainConfig
    processes: Processes
    model: MemoryModel
    tokenizer: TextTokenizer
    optimizer: Optimizer
    source: BatchSource
    metrics: MetricsFile
    identity: dict[str, Any]
    state: RunState
    dtype: torch.dtype
    say: Say
    through: Through = as_they_are
    window: dict[str, Tensor] = field(default_factory=dict)  # sums on the device: no waiting at every step
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)

    def precision(self) -> torch.autocast:
        """Matrix products in bfloat16 over float32 parameters, if so chosen."""
        device = self.processes.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def _open(config: TrainConfig, say: Say | None, source: BatchSource | None, held: ExitStack) -> _Run:
    processes = Processes.join(config.device)
    model, tokenizer = open_model(config.model, seed=config.seed)
    check_losses(model, config.loss)
    check_dev(model, config.dev)
    model.to(processes.device)
    if config.checkpoint_activations:
        checkpoint_activations(model)
    if config.compile:
        compile_blocks(model)
    optimizer = Optimizer(model, config.optimizer)
    identity = _identity(config, model, tokenizer, processes)
    if processes.main:
        held.enter_context(alone(config.out))
    state = load_state(config.out, model, optimizer, identity, steps=config.steps)
    metrics = MetricsFile(config.out / METRICS)
    if processes.main:
        metrics.cut(state.step)
    run = _Run(
        config=config,
        processes=processes,
        model=model,
        tokenizer=tokenizer,
        optimizer=optimizer,
        source=source or _source(config, model, tokenizer),
        metrics=metrics,
        identity=identity,
        state=state,
        dtype=compute_dtype(processes.device.type, config.dtype),
        say=say if say is not None and processes.main else (lambda _: None),
    )
    run.through = _through(run)
    run.scores = metrics.last_dev()
    run.window = {n: torch.tensor(v, device=processes.device) for n, v in state.window.items()}
    count = sum(p.numel() for p in model.parameters())
    begun = f"goes on at step {state.step:,}" if state.step else "begins"
    several = f", {processes.world} processes" if processes.world > 1 else ""
    run.say(f"{begun}: {count:,} parameters, {str(run.dtype).removeprefix('torch.')}, {processes.device}{several}")
    return run


def _through(run: _Run) -> Through:
    """What the codec of the config makes of memories: fitted before the first step, the same after it."""
    config, name = run.config, None if run.config.data is None else run.config.data.codec
    if name is None:
        return as_they_are
    if run.processes.main and not run.state.step:
        with evaluating(run.model), torch.no_grad(), run.precision():
            batches = (run.source.batch(number) for number in itertools.count())
            memories = (encode_memories(run.model, batch) for batch in batches)
            fit_codec(name, config.out, memories, run.model.first_live_weights)
    run.processes.gather([None])  # the others read it after it is written
    return read_codec(name, config.out)


def _identity(
    config: TrainConfig, model: MemoryModel, tokenizer: TextTokenizer, processes: Processes
) -> dict[str, Any]:
    """Settings that a resumed run must share with the saved one. No paths: a run may go on in another place."""
    values = {name: config.to_dict()[name] for name in ("data", "loss", "optimizer", "seed", "accumulate")}
    if config.data is not None:
        values["data"] |= {"cache": content_of(config.data.cache), "memories": _memories_of(config.data.memories)}
    made_of = {"model": model.config.to_dict(), "tokenizer": tokenizer.fingerprint}
    return made_of | values | {"processes": processes.world}


def _memories_of(store: Path | None) -> str | None:
    if store is None:
        return None
    from memstore.train.data.stored_memories import content_of as memories_of  # here: it needs what reads stores

    return memories_of(store)


def _source(config: TrainConfig, model: MemoryModel, tokenizer: TextTokenizer) -> BatchSource:
    from memstore.train.data.mixture import MixedBatches  # here: a caller with batches of their own needs none of it

    if config.data is None:
        raise ConfigError("the training config has no [data] table: name the cache to train from, as data.cache")
    batches = MixedBatches(config.data, tokenizer=tokenizer, seed=config.seed)
    if batches.memories is not None:
        batches.memories.require(model, tokenizer)
    return batches


# --- a step -------------------------------------------------------------------------------------------------


def _late(config: TrainConfig, begin: float) -> bool:
    """Whether the time that the config gives is over."""
    return bool(config.stop_after_minutes) and time.monotonic() - begin > 60 * config.stop_after_minutes


def _step(run: _Run, batches: Iterator[tuple[int, Batch]], stopping: Callable[[], bool]) -> bool:
    """Take one optimizer step over `accumulate` batches of each process. Returns whether to stop after it."""
    begin, config = time.perf_counter(), run.config
    tokens, values = 0, dict[str, Tensor]()
    for _ in range(config.accumulate):
        number, batch = next(batches)
        seed = _seed_of(config.seed, number)
        torch.manual_seed(seed)  # dropout, on every device
        with run.precision():
            losses = training_loss(run.model, batch, config.loss, seed=seed, through=run.through)
        (losses.total / config.accumulate).backward()  # type: ignore[no-untyped-call]
        _add(values, {"loss": losses.total.detach()} | losses.parts, share=1 / config.accumulate)
        tokens += batch.tokens
    stop = stopping()
    if run.processes.world > 1:
        tokens, stop = _together(run, values, tokens=tokens, stop=stop)
    norm = run.optimizer.step(learning_rate(run.state.step, config.optimizer, steps=config.steps))
    _add(run.window, values | {"grad_norm": norm}, share=1.0)
    seconds = time.perf_counter() - begin
    state = run.state
    state.step, state.window_steps = state.step + 1, state.window_steps + 1
    state.tokens, state.window_tokens = state.tokens + tokens, state.window_tokens + tokens
    state.seconds, state.window_seconds = state.seconds + seconds, state.window_seconds + seconds
    return stop


def _together(run: _Run, values: dict[str, Tensor], *, tokens: int, stop: bool) -> tuple[int, bool]:
    """Replace gradients and losses by their means over all processes, in one transfer, so that each has the same.

    Returns:
        The tokens that all processes read, and whether any of them is to stop.
    """
    sums = torch.tensor([float(tokens), float(stop)], device=run.processes.device)
    gradients, reached = run.optimizer.gradients()
    run.processes.average([*gradients, reached, sums, *values.values()])
    run.optimizer.forget(reached)
    read, asked = sums.tolist()  # means: tokens times 1 / world, and above 0 if any process is to stop
    return round(read * run.processes.world), asked > 0


def _seed_of(seed: int, number: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1  # 63 bits: what a generator takes


def _add(window: dict[str, Tensor], values: dict[str, Tensor], *, share: float) -> None:
    for name, value in values.items():
        window[name] = window.get(name, torch.zeros_like(value)) + value * share


# --- after a step -------------------------------------------------------------------------------------------


def _due(run: _Run, every: int) -> bool:
    return every > 0 and (run.state.step % every == 0 or run.state.step == run.config.steps)


def _log_if_due(run: _Run) -> None:
    """Write a line of metrics: averages over the steps since the last one."""
    if not _due(run, run.config.log_every):
        return
    state, config = run.state, run.config
    means = {name: total / state.window_steps for name, total in _sums(run).items()}
    lr = learning_rate(state.step - 1, config.optimizer, steps=config.steps)
    speed = state.window_tokens / max(state.window_seconds, 1e-9)
    record = {"step": state.step} | means | {"lr": lr, "tokens": state.tokens, "tokens_per_s": round(speed, 1)}
    left = (config.steps - state.step) * state.window_seconds / state.window_steps
    if run.processes.main:
        run.metrics.append(record | {"seconds": round(state.seconds, 3)})
    losses = ", ".join(f"{n} {v:.3f}" for n, v in means.items() if n not in ("loss", "grad_norm"))
    run.say(
        f"step {state.step:,}/{config.steps:,}  loss {means['loss']:.3f} ({losses})  lr {lr:.2e}  "
        f"{speed:,.0f} tokens/s  {left / 60:.1f} min left"
    )
    run.window.clear()
    state.window_steps = state.window_tokens = 0
    state.window_seconds = 0.0


def _measure_if_due(run: _Run) -> None:
    """Measure dev scores; write the model if it is the best so far."""
    if not _due(run, run.config.dev.every_steps):
        return
    _sums(run)  # raises if the model is no longer finite: it must not become the best
    config, state, processes = run.config, run.state, run.processes
    own = (batch for i, batch in enumerate(run.source.dev()) if i % processes.world == processes.rank)
    run.model.eval()
    with run.precision():
        found = measure(run.model, run.tokenizer, own, config.dev, keep_k=config.loss.keep_k, through=run.through)
        measured = list(found)
    run.model.train()
    measured = processes.gather(measured)
    if not measured:
        return
    run.scores = summarise(measured, recall_at=config.dev.recall_at)
    means = run.scores[ALL]
    name = config.dev.best_by
    score = means.get(f"reranked@{config.dev.recall_at[0]}", 0.0) if name == "recall" else means[name]
    best = state.best_score is None or score > state.best_score
    if best:
        state.best_score, state.best_step = score, state.step
    if processes.main:
        run.metrics.append({"step": state.step, "dev": run.scores})
        if best:
            save_model(config.out / BEST, run.model, run.tokenizer, getattr(torch, config.checkpoints.dtype))
    shown = ", ".join(f"{n} {v:.3f}" for n, v in means.items() if n != "questions")
    run.say(f"step {state.step:,}  dev{' (best so far)' if best else ''}: {shown}")


def _save_if_due(run: _Run, *, now: bool) -> None:
    """Write the state to resume from: after some steps or minutes, at the end, and before stopping (`now`)."""
    kept, state = run.config.checkpoints, run.state
    late = bool(kept.every_minutes) and time.monotonic() - run.saved > 60 * kept.every_minutes
    done = state.step == run.config.steps
    by_steps = bool(kept.every_steps) and state.step % kept.every_steps == 0
    if not run.processes.main or not (now or done or by_steps or late):
        return
    state.window = _sums(run)
    save_state(run.config.out, run.model, run.optimizer, state, run.identity, keep_last=kept.keep_last)
    run.saved = time.monotonic()


def _sums(run: _Run) -> dict[str, float]:
    """The sums that the next line of metrics averages. Called before each save, so that only finite models are saved.

    Raises:
        TrainingDiverged: a value is not finite; the message says which, and when.
    """
    values = {name: float(total) for name, total in run.window.items()}
    for name, value in values.items():
        if not abs(value) < float("inf"):
            raise TrainingDiverged(
                f"{name} is {value} in the steps up to {run.state.step}: training has diverged. Lower optimizer.lr, "
                f"warm up longer, or clip harder; good states, if any were saved, are in {run.config.out / 'state'}."
            )
    return values


def _end(run: _Run) -> TrainReport:
    state, config = run.state, run.config
    if run.processes.main:
        save_model(config.out / LAST, run.model, run.tokenizer, getattr(torch, config.checkpoints.dtype))
    run.processes.part()
    return TrainReport(
        out=config.out,
        step=state.step,
        finished=state.step == config.steps,
        tokens=state.tokens,
        seconds=state.seconds,
        scores=run.scores,
        best_score=state.best_score,
        best_step=state.best_step,
        checkpoint=config.out / (LAST if state.best_step is None else BEST),
    )
