"""Manifests as bytes: JSON in exactly one rendering that carries a sha256 of itself. Knows no store.

So any flipped byte in one is noticed when it is read; unknown, missing and mistyped keys are errors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from memstore.errors import ChecksumMismatch, StoreFormatError

FORMAT_VERSION = 1
_REPAIR = "Restore it from a copy, or build the store again."
_SCALARS: dict[str, type] = {"int": int, "str": str}  # annotations whose values are checked as they are read
_T = TypeVar("_T")


def render(values: Mapping[str, Any]) -> bytes:
    """A manifest's bytes: sorted JSON whose `checksum` is the sha256 of the same rendering without it."""
    body = {k: v for k, v in values.items() if k != "checksum"}
    body["checksum"] = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical(body)


def parse(data: bytes, *, path: Path) -> dict[str, Any]:
    """Inverse of `render`; `path` is for the messages only.

    Raises:
        ChecksumMismatch: the bytes are not what `render` wrote.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:  # the latter of what is nested deeper than any parser goes
        raise ChecksumMismatch(f"{path} is damaged: not JSON ({error}). {_REPAIR}") from None
    if not isinstance(values, dict) or render(values) != data:
        raise ChecksumMismatch(f"{path} is damaged: its bytes do not match the checksum it carries. {_REPAIR}")
    del values["checksum"]
    return values


def _canonical(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def versioned(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values of a manifest of the format version that we read.

    Raises:
        StoreFormatError: it is of another one.
    """
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} is of store format {version!r}; this memstore reads format {FORMAT_VERSION}. "
            "Use the memstore version that wrote it, or build the store again."
        )
    return values


def build_value(cls: type[_T], values: Any, path: Path) -> _T:
    """A dataclass from a mapping: unknown, missing and mistyped keys are errors."""
    if not isinstance(values, Mapping):
        raise StoreFormatError(f"{path}: {cls.__name__} must be an object, not {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise StoreFormatError(f"{path}: unknown key(s) {', '.join(unknown)} in {cls.__name__}")
    required = {name for name, f in fields.items()
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}  # fmt: skip
    if missing := sorted(required - set(values)):
        raise StoreFormatError(f"{path}: missing key(s) {', '.join(missing)} in {cls.__name__}")
    for name, value in values.items():
        expected = _SCALARS.get(str(fields[name].type))
        if expected is not None and type(value) is not expected:
            raise StoreFormatError(f"{path}: {cls.__name__}.{name} must be {expected.__name__}, not {value!r}")
    return cls(**values)
