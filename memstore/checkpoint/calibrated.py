"""The calibration that is kept with a model's weights, and whether it was fitted for them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from memstore.checkpoint.files import CALIBRATION, read_calibration
from memstore.checkpoint.loading import name_of, resolve
from memstore.confidence.calibration import Calibration
from memstore.errors import CheckpointMismatch
from memstore.model.model import MemoryModel

if TYPE_CHECKING:  # a machine that trains from a cache has no stores
    from memstore.store import AnyStore

_MARKED = 256  # numbers of a parameter


def calibration_of(store: AnyStore, model: MemoryModel, *, name: str | None = None) -> Calibration | None:
    """The calibration kept with the model that built a store, or with the one named; None if there is none.

    Args:
        store: an open one.
        model: what `model_of` gives for the same arguments.
        name: a folder, a hub id, or "default".

    Raises:
        CheckpointError: it is broken, or cannot be read.
        CheckpointMismatch: it was fitted for other weights.
    """
    folder = resolve(name_of(store, name))
    found = read_calibration(folder)
    if found is not None and found.weights != weights_mark(model):
        raise CheckpointMismatch(
            f"{folder / CALIBRATION} was fitted for other weights: run `memstore calibrate` again, or remove the file"
        )
    return found


def weights_mark(model: MemoryModel) -> str:
    """What tells a model's weights from those of another training: a hash of the first numbers of each parameter, in
    bfloat16, so that it is the same in each dtype and costs nothing.
    """
    digest = hashlib.sha256()
    for name, p in sorted(model.state_dict().items()):
        first = p.detach().flatten()[:_MARKED].to("cpu", torch.float32).to(torch.bfloat16)
        digest.update(f"{name} {tuple(p.shape)}\n".encode())
        digest.update(first.float().numpy().data)
    return digest.hexdigest()
