"""Keeps results, each with its settings, the fingerprints of its models, the machine and the day.

Each result is a JSON file, written under a temporary name and renamed. A result of other settings is refused, not
overwritten: it may have taken a day.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from memstore import __version__
from memstore.errors import CheckpointError, ConfigError
from memstore.files import make_folder, writing_whole
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.train.state import differences

Json = dict[str, Any]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """sha256 over plain values; the order of their keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def model_fingerprint(model: MemoryModel, tokenizer: TextTokenizer) -> str:
    """sha256 over a model: its tokenizer, all parameters as float32, and the settings that differ from the defaults.

    Defaults are left out, so that a setting which memstore gains later does not change the fingerprint.
    """
    default = {f.name: f.default for f in dataclasses.fields(model.config)}
    config = {name: value for name, value in model.config.to_dict().items() if value != default[name]}
    head = {"config": config, "tokenizer": tokenizer.fingerprint}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name, p in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(p.shape)}\n".encode())
        digest.update(p.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def made_by() -> Json:
    """The program, the machine and the day. They are recorded, but never compared."""
    return {
        "memstore": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def cpu_name() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file. If that fails, no part of it is left.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full.
    """
    make_folder(path.parent)
    with writing_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, ensure_ascii=False)
        file.write("\n")


def read(path: Path, settings: Mapping[str, Any]) -> Json | None:
    """The result in a file; None if there is no file.

    Raises:
        ConfigError: it was made by other settings; the message says which.
        CheckpointError: the file holds no result.
    """
    if not path.is_file():
        return None
    try:
        found: Json = json.loads(path.read_text(encoding="utf-8"))
        old, same = found["settings"], found["settings_hash"] == settings_hash(settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}); remove it to make it again") from None
    if not same:
        changed = "; ".join(differences(old, json.loads(json.dumps(settings)))[:5])
        raise ConfigError(
            f"{path} was made by other settings: {changed}. Put them back, name another `out`, or remove the file."
        )
    return found


def kept(settings: Mapping[str, Any], values: Mapping[str, Any]) -> Json:
    """A result with the settings that `read` compares."""
    return {"settings_hash": settings_hash(settings), "settings": dict(settings), "made_by": made_by(), **values}
