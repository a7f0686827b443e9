"""TOML tables as frozen dataclasses: unknown keys, missing keys and wrong kinds are errors that name key and file."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from memstore.errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path | str, *, what: str) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ConfigError: no such file, or not TOML; says `what` it should have been.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def require(
    values: object, *, positive: tuple[str, ...] = (), natural: tuple[str, ...] = (), shares: tuple[str, ...] = ()
) -> None:
    """Check ranges: above 0, at least 0, between 0 and 1.

    Raises:
        ConfigError: a value is outside; names it.
    """
    for name in positive:
        if not getattr(values, name) > 0:
            raise ConfigError(f"{name} must be above 0, not {getattr(values, name)}")
    for name in natural:
        if not getattr(values, name) >= 0:
            raise ConfigError(f"{name} must be at least 0, not {getattr(values, name)}")
    for name in shares:
        if not 0 <= getattr(values, name) <= 1:
            raise ConfigError(f"{name} must be between 0 and 1, not {getattr(values, name)}")


def read_table(cls: type[T], table: Mapping[str, Any], *, where: str, name: str = "") -> T:
    """A table of a TOML file as a frozen dataclass, tables inside it likewise.

    Args:
        cls: the dataclass.
        table: the values.
        where: the file, for messages.
        name: dotted name of the table, for messages; empty for the whole file.

    Raises:
        ConfigError: a key is unknown, missing or of a wrong kind, or its value impossible; names key and file.
    """
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)  # type: ignore[arg-type]
    hints, prefix = typing.get_type_hints(cls), f"{name}." if name else ""
    unknown = sorted(set(table) - {f.name for f in fields})
    if unknown:
        known = ", ".join(sorted(f.name for f in fields))
        raise ConfigError(f"{where}: unknown key {prefix}{unknown[0]}; known here: {known}")
    for f in fields:
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in table:
            raise ConfigError(f"{where}: {prefix}{f.name} is missing")
    values = {k: _value(hints[k], v, where=where, key=prefix + k) for k, v in table.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        if str(error).startswith(where):
            raise
        raise ConfigError(f"{where}: {f'[{name}] ' if name else ''}{error}") from None


def _value(hint: Any, value: Any, *, where: str, key: str) -> Any:
    """One value as its annotation wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None: TOML has no None, but a state kept as JSON has
        if value is None and type(None) in arguments:
            return None
        return _value(arguments[0], value, where=where, key=key)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {key} must be one of {', '.join(map(repr, arguments))}, not {value!r}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return read_table(typing.cast("type[Any]", hint), value, where=where, name=key)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], v, where=where, key=key) for v in value)
    if origin is dict and isinstance(value, dict):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        kind = "a table" if origin is dict or dataclasses.is_dataclass(hint) else getattr(hint, "__name__", hint)
        raise ConfigError(f"{where}: {key} must be {kind}, not {value!r}")
    return value
