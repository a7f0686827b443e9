"""A calibration is kept beside the weights that it was fitted for, and means nothing for others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memstore import checkpoint
from memstore.checkpoint.files import CALIBRATION, read_calibration, write_calibration
from memstore.confidence import Calibration
from memstore.errors import CheckpointError, CheckpointMismatch
from tests import tiny


def made(folder: Path) -> Calibration:
    model, _ = checkpoint.load(folder)
    return Calibration(method="logistic", features={}, bias=0.5, weights=checkpoint.weights_mark(model))


def of(folder: Path, **options: Any) -> Calibration | None:
    store: Any = SimpleNamespace(generation=SimpleNamespace(settings={"model": str(folder)}))
    return checkpoint.calibration_of(store, checkpoint.load(folder, **options)[0])


def test_it_is_found_beside_the_weights(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    assert of(folder) is None
    write_calibration(folder, made(folder))
    assert of(folder) == made(folder)
    assert of(folder, dtype=torch.bfloat16) == made(folder)  # the dtype it is computed in makes no other weights


def test_for_other_weights_it_is_refused(tmp_path: Path) -> None:
    folder, other = tiny.save_checkpoint(tmp_path / "model"), tiny.save_checkpoint(tmp_path / "other", seed=1)
    write_calibration(other, made(folder))
    with pytest.raises(CheckpointMismatch, match="memstore calibrate"):
        of(other)


def test_new_weights_take_it_away(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "model")
    write_calibration(folder, made(folder))
    tiny.save_checkpoint(folder, seed=1)
    assert of(folder) is None


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 9})])
def test_a_broken_one_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / CALIBRATION).write_text(text)
    with pytest.raises(CheckpointError, match=CALIBRATION):
        read_calibration(tmp_path)
