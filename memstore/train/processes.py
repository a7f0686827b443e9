"""One process, or several that average their gradients (started by `torchrun`, joined through accelerate).

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
_GRACE = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among `world` equal ones.

    Attributes:
        rank: its number, from 0; that of rank 0 writes files.
        device: its own.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Self:
        """Join the processes that `torchrun` started; alone if it did not.

        Raises:
            ConfigError: there are several, and accelerate is not installed or cannot join them; or no such device.
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
            if state.num_processes != wanted:  # each would train alone, into the same folder
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
        """Everybody's items, in order of rank."""
        if self.world == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(items)
        return gathered

    def part(self) -> None:
        """Wait for every process, and leave the group when this one ends; only after all went well.

        A barrier, because it carries no tensors, and then a moment without Python's lock: torch's gloo threads drop
        the tensors of a finished transfer a little later, under that lock, and abort the process if Python is ending
        by then.
        """
        if self.world == 1:
            return
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        time.sleep(_GRACE)
        atexit.register(_leave)


def first() -> bool:
    """Whether this process is the one of rank 0, which tells people; known before it has joined the others."""
    return int(os.environ.get("RANK", "0")) == 0


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
