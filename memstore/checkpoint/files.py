"""The files of a checkpoint, one by one: JSON, tokenizers, and parameters in one file or several. Never pickle.

Knows files and what is wrong with them; refuses to know models and their settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from memstore import files
from memstore.checkpoint.int8 import dequantised
from memstore.checkpoint.t5 import require_none
from memstore.confidence.calibration import Calibration
from memstore.errors import CheckpointError, CheckpointNotFound, ConfigError, OutputUnwritable
from memstore.files import replacing, system_errors

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
WEIGHTS_INDEX = "model.safetensors.index.json"  # stock checkpoints in several files: parameter name -> file
CALIBRATION = "calibration.json"  # may be missing
TOKENIZER_CONFIG = "tokenizer_config.json"
PIECES = "spiece.model"  # sentencepiece's, in stock checkpoints without a tokenizer.json
_EXTRA_IDS = 100  # that transformers adds to a sentencepiece model
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the files begin that git keeps in place of large ones


# --- reading -----------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointNotFound: the file is missing.
        CheckpointError: it cannot be read, or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointNotFound(f"{path.parent} is no checkpoint: it has no {path.name}") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"not JSON ({error})") from None
    if not isinstance(values, dict):
        raise _broken(path, f"it holds a {type(values).__name__}, not an object")
    return values


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration in `calibration.json`; None without one.

    Raises:
        CheckpointError: it is broken, or cannot be read.
    """
    path = folder / CALIBRATION
    try:
        return Calibration.from_dict(read_json(path))
    except CheckpointNotFound:
        return None
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}. Remove it, or run `memstore calibrate` again.") from None


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` beside the weights.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full. What was there before still is.
    """
    files.write_text(folder / CALIBRATION, json.dumps(calibration.to_dict(), indent=2, ensure_ascii=False) + "\n")


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `tokenizer.json`.

    Raises:
        CheckpointNotFound: the file is missing.
        CheckpointError: it is broken, or cannot be read.
    """
    path = folder / TOKENIZER
    try:
        return Tokenizer.from_buffer(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise CheckpointNotFound(f"{folder} has no {TOKENIZER}") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # noqa: BLE001 - the library raises a bare Exception
        raise _broken(path, error) from None


def stock_tokenizer(folder: Path, *, vocab_size: int) -> Tokenizer:
    """The folder's tokenizer, converted from sentencepiece if there is no `tokenizer.json`.

    Where no `tokenizer_config.json` says how many `<extra_id_N>` follow the pieces, they are T5's 100, or mT5's none if
    a model of `vocab_size` has no room for them.

    Raises:
        CheckpointNotFound: there is neither.
        CheckpointError: it is broken, or cannot be read.
    """
    if (folder / TOKENIZER).is_file():
        return read_tokenizer(folder)
    path = folder / PIECES
    if not path.is_file():
        raise CheckpointNotFound(f"{folder} has neither {TOKENIZER} nor {PIECES}")
    from sentencepiece import SentencePieceProcessor  # slow to import, as transformers is; only old checkpoints need it
    from transformers import T5Tokenizer

    try:  # first by sentencepiece itself: transformers takes what it cannot read for a file of yet another kind
        pieces = SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()
        extra = {} if (folder / TOKENIZER_CONFIG).is_file() or pieces + _EXTRA_IDS <= vocab_size else {"extra_ids": 0}
        tokenizer = T5Tokenizer.from_pretrained(folder, local_files_only=True, **extra).backend_tokenizer
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # noqa: BLE001 - sentencepiece, protobuf and tokenizers each raise their own
        raise _broken(path, error) from None
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer


def has_weights(folder: Path) -> bool:
    """Whether a folder holds safetensors weights, in one file or several."""
    return (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file()


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All parameters in `model.safetensors`, or in the files that its index names, those kept in int8 as bfloat16.

    Raises:
        CheckpointNotFound: there are none, or a file that the index names is missing.
        CheckpointError: a file is broken, quantised in another way than ours, or cannot be read, or only a pickle is
            there.
        CheckpointMismatch: the files lack parameters that the index names.
    """
    if not has_weights(folder):
        if (folder / "pytorch_model.bin").exists() or (folder / "pytorch_model.bin.index.json").exists():
            raise CheckpointError(
                f"{folder} has its weights only as a pickle (pytorch_model.bin), and reading one runs code. "
                "If you trust it, convert it once: `T5ForConditionalGeneration.from_pretrained(folder)"
                ".save_pretrained(new_folder)` with transformers writes model.safetensors; the tokenizer's files are "
                "to be copied beside it."
            )
        raise CheckpointNotFound(f"{folder} has no {WEIGHTS}")
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    files = read_json(folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) and "/" not in f for f in files.values()):
        raise _broken(folder / WEIGHTS_INDEX, "it has no weight_map of names to files")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        tensors |= _read_file(folder / name)
    require_none({"missing": sorted(set(files) - set(tensors))}, source=folder)
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb"):  # safetensors calls a file that it may not open missing
            tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointNotFound(f"{path.parent} has no {path.name}, which its index names") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise _broken(path, error) from None
    tensors = dequantised(tensors)
    if quantised := {name: t.dtype for name, t in tensors.items() if t.dtype not in _FLOATS}:
        first = min(quantised)
        raise CheckpointError(
            f"{path} holds {len(quantised)} parameter(s) that are quantised, {first} to {quantised[first]} first: "
            "take the checkpoint in float32, bfloat16 or float16, or in int8 by `memstore convert --weights int8`"
        )
    return tensors


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}")


def _broken(path: Path, reason: object) -> CheckpointError:
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return CheckpointError(
                f"{path} is only Git LFS's pointer to the file: run `git lfs pull` where it was cloned, or fetch the "
                "file itself."
            )
    return CheckpointError(f"{path} is broken: {reason}. Fetch or write it again.")


# --- writing -----------------------------------------------------------------------------------


def check_folder(out: Path, *, inputs: Iterable[str | Path] = ()) -> None:
    """`memstore.files.check_folder`, and that no checkpoint that is read, nor a stock one, would be written over.

    Raises:
        ConfigError: it is one of the inputs, or holds a stock checkpoint.
        OutputUnwritable: it is a file, below one, or the system lets nobody write there.
    """
    files.check_folder(out)
    with files.naming_refusals(out):
        if out.is_dir() and any(Path(i).is_dir() and out.samefile(i) for i in inputs):
            raise ConfigError(f"{out} is read from, and would be written over: name another folder to write")
    with suppress(CheckpointError, CheckpointNotFound):
        if "model_type" in read_json(out / CONFIG):
            raise ConfigError(f"{out} holds a stock checkpoint, which would be written over: name another folder")


def write(folder: Path, tensors: dict[str, Tensor], *, tokenizer: str, config: Mapping[str, Any]) -> None:
    """Write all files of a checkpoint under other names; then each gets its own, `config.json` last.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full. What was there before still is.
    """
    new = not folder.exists()
    try:
        with files.naming_refusals(folder), system_errors():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / CONFIG) as last, replacing(folder / TOKENIZER) as second:
                last.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                second.write_text(tokenizer, encoding="utf-8")
                with replacing(folder / WEIGHTS) as first:
                    save_file(tensors, first, metadata={"format": "pt"})
                    (folder / CALIBRATION).unlink(missing_ok=True)  # of other weights: it would mean nothing
    except OutputUnwritable:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise
