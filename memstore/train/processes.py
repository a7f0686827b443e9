"""One process, or several that average their gradients: `torchrun` starts them, accelerate joins them.

Refuses to know what is trained.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

from memstore.errors import ConfigError
from memstore.machine import why_unusable

T = TypeVar("T")
_GRACE = 0.2  # seconds; see `Processes.part`


@dataclass(frozen=True, slots=True)
class Processes:
    """This process, one of `world`.

    Attributes:
        rank: its number, from 0. Rank 0 writes files.
        device: the process's own.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Self:
        """Join the processes that `torchrun` started; without it, be the only one.

        Raises:
            ConfigError: there is no such device; or there are several processes, and accelerate is not installed or
                cannot join them.
        """
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device is {device}, but torch sees no GPU here; use device = 'cpu'")
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        if wanted > 1:
            try:
                from accelerate import PartialState
            except ModuleNotFoundError:
                raise ConfigError(
                    "several processes need accelerate: pip install '.[train]' in memstore's folder"
                ) from None
            state = PartialState(cpu=device == "cpu")
            if state.num_processes != wanted:  # else each would train on its own, in the same folder
                raise ConfigError(
                    f"{wanted} processes were started, and cannot be joined on device {device}; start one"
                )
            return cls(rank=state.process_index, world=state.num_processes, device=state.device)
        if reason := why_unusable(device):
            raise ConfigError(f"device {device!r} cannot be used here ({reason}); use cpu, or cuda with a GPU")
        return cls(rank=0, world=1, device=torch.device(device))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one transfer."""
        if self.world == 1 or not tensors:
            return
        from accelerate.utils import reduce

        flat = reduce(torch.cat([t.flatten() for t in tensors]), reduction="mean")
        for tensor, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in order of rank."""
        if self.world == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(items)
        return gathered

    def part(self) -> None:
        """Wait for every process, and leave the group when this one ends. Call it only after success.

        torch's gloo threads free the tensors of a finished transfer a little later, under Python's lock. If Python is
        ending by then, they abort the process. So wait at a barrier, which carries no tensors, and then sleep a moment,
        which releases the lock.
        """
        if self.world == 1:
            return
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        time.sleep(_GRACE)
        atexit.register(_leave)


def first() -> bool:
    """Whether this process has rank 0, which prints for people. Known before `Processes.join`."""
    return int(os.environ.get("RANK", "0")) == 0


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
