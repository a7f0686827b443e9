"""Batches made ahead of the step that reads them, by threads or processes. Refuses to know what is in a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader, Dataset

from memstore.train.config import TrainConfig
from memstore.train.data.batch import Batch
from memstore.train.processes import Processes


def batch_numbers(config: TrainConfig, processes: Processes, *, first: int) -> Iterator[int]:
    """The numbers of the batches that this process reads, in order. All processes together read each once."""
    for number in range(first * config.accumulate, config.steps * config.accumulate):
        yield number * processes.world + processes.rank


def ahead(make: Callable[[int], Batch], numbers: Iterable[int], config: TrainConfig) -> Generator[tuple[int, Batch]]:
    """Batches in order, made by other threads or processes before they are asked for."""
    if config.loader_processes:
        yield from DataLoader(
            _Numbered(make), batch_size=None, sampler=numbers, collate_fn=_as_it_is,
            num_workers=config.loader_processes, prefetch_factor=config.prefetch, multiprocessing_context="fork",
        )  # fmt: skip
        return
    waiting: deque[tuple[int, Future[Batch]]] = deque()
    with ThreadPoolExecutor(config.loader_threads, thread_name_prefix="batches") as threads:
        for number in numbers:
            waiting.append((number, threads.submit(make, number)))
            if len(waiting) > config.prefetch:
                ready, future = waiting.popleft()
                yield ready, future.result()
        while waiting:
            ready, future = waiting.popleft()
            yield ready, future.result()


class _Numbered(Dataset[tuple[int, Batch]]):
    """Batches by number, as a `DataLoader`'s processes ask for them."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> tuple[int, Batch]:
        return number, self._make(number)


def _as_it_is(made: Any) -> Any:
    return made
