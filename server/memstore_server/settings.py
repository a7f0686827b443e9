"""Settings of `memstore serve`: each a flag, or a `MEMSTORE_*` variable; a flag wins.

Knows names, types and limits. Refuses to know what is done with them, and reads nothing at import.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from memstore.errors import ConfigError
from memstore_client.wire import UNNAMED
from memstore_server.keyring import read_keys

PREFIX = "MEMSTORE_"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a collection: what addresses and labels of metrics hold as it is
_NAMED = re.compile(rf"({_NAME})=(.+)", re.DOTALL)
_NEXT = re.compile(rf",(?={_NAME}=)")


def _listed(given: object) -> object:
    """What is repeated as a flag is a list in a variable: `wiki=/stores/wiki,news=/stores/news`."""
    if isinstance(given, str) and _NAMED.fullmatch(given):
        return _NEXT.split(given)
    return [given] if isinstance(given, str | Path) else given


def _split(given: str) -> tuple[str | None, str]:
    """`NAME=VALUE` in its parts, or None and the value. A path with a `=` of its own is written `./a=b`."""
    named = _NAMED.fullmatch(given)
    return (named[1], named[2]) if named else (None, given)


Repeated = Annotated[tuple[Annotated[str, BeforeValidator(str)], ...], NoDecode, BeforeValidator(_listed)]


class Settings(BaseSettings):
    """How to serve stores. Build it with `Settings.load`, which names what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, protected_namespaces=()
    )

    store: Repeated = Field(min_length=1, description="Folder of the store; of several, NAME=DIR for each.")
    model: Repeated = Field(
        default=(),
        description="Checkpoint folder or hub id; by default the model the first store was built with. NAME=PATH is "
        "another one for that store.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 chooses a free one.")
    root_path: str | None = Field(
        default=None,
        pattern=r"^(/[\w.~-]+)*$",
        description="Path below which a proxy shows the server, such as /memstore, and which it strips.",
    )
    watch: float | None = Field(
        default=None,
        ge=0.1,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds between two looks for a new generation of the store; by default it is not looked for.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that answer, each with a model of its own in memory and its share of the threads.",
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Connections of a worker; of more, the one that is idle for the longest time is closed.",
    )
    receive_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3_600,
        allow_inf_nan=False,
        description="Time that a request may take to arrive; then its connection is closed.",
    )
    device: str = Field(default="cpu", description="Where the model runs: cpu, cuda, cuda:1, ...")
    threads: int | None = Field(
        default=None, ge=1, description="Threads of the model on a CPU, of all workers together; by default all."
    )

    max_batch: int = Field(default=32, ge=1, description="Questions answered together at most.")
    max_batch_tokens: int = Field(
        default=50_000,
        ge=1,
        description="Tokens of passages that questions answered together may have at most; one alone may have more.",
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        allow_inf_nan=False,
        description="Milliseconds a question is held back for others to join it; at most half its deadline.",
    )
    queue_size: int = Field(default=64, ge=1, description="Questions that may wait; beyond that the reply is 503.")
    queue_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3_600,
        allow_inf_nan=False,
        description="Time that questions may wait, as far as it can be predicted; beyond that the reply is 503.",
    )
    drain_seconds: float = Field(
        default=5.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description="Time that connections, and then the model, get to finish when asked to stop.",
    )

    retrieve_k: int = Field(default=40, ge=1, description="Passages retrieved where a request does not say.")
    keep_k: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=10, description="Passages read where a request does not say: a number, or auto."
    )
    keep_mass: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Where keep_k is auto, passages are read until the softmax of their rerank scores holds so much.",
    )
    auto_keep_k: int = Field(
        default=10, ge=1, description="Most passages read where keep_k is auto; never more than `max_keep_k`."
    )
    degrade: bool = Field(
        default=False,
        description="Find and read fewer passages when there is much to do, where a request does not say.",
    )
    max_new_tokens: int = Field(default=32, ge=1, description="Tokens of an answer where a request does not say.")
    num_beams: int | None = Field(
        default=None,
        ge=1,
        description="Beams where a request does not say; by default the model's own, at most `max_num_beams`.",
    )

    min_confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Confidence below which there is no answer, where a request does not say; 0 answers always.",
    )

    max_retrieve_k: int = Field(default=200, ge=1, description="Most passages a request may retrieve or bring.")
    max_keep_k: int = Field(default=100, ge=1, description="Most passages a request may have read.")
    max_new_tokens_limit: int = Field(default=256, ge=1, description="Most tokens a request may ask for.")
    max_num_beams: int = Field(default=8, ge=1, description="Most beams a request may have.")
    max_body_bytes: int = Field(default=4_000_000, ge=1_000, description="Size limit of a request's body.")

    write_key_file: Path | None = Field(
        default=None,
        description="File whose only line is the key that requests must show which change the store. Without a key "
        "there are none.",
    )
    write_key: SecretStr | None = Field(
        default=None, description="The key itself: as a variable only, since everybody sees the flags of a process."
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of `memstore keys`: requests must show one of its keys, and one that writes where they "
        "change the store. Without it everybody may ask.",
    )
    cors_origin: Repeated = Field(
        default=(), description="Origin of pages elsewhere that may ask from a browser, such as https://example.org."
    )
    max_write_bytes: int = Field(
        default=16_000_000, ge=1_000, description="Size limit of a body that changes the store."
    )
    write_nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="How far processes that change the store stand back: 0 has the server's priority, 19 the least.",
    )
    write_device: str | None = Field(
        default=None,
        description="Where changes of the store encode: cpu, cuda, ...; by default where the model of the server runs.",
    )
    max_changes: int = Field(default=8, ge=1, description="Changes that may wait; beyond that the reply is 429.")

    log_format: Literal["text", "json"] = Field(default="text", description="Form of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least log level.")

    @property
    def stores(self) -> dict[str, Path]:
        """The folder of each collection, the default one first."""
        return {name or UNNAMED: Path(folder) for name, folder in map(_split, self.store)}

    def model_of(self, collection: str) -> str | None:
        """The model to read a collection with; None for the one that the first store was built with."""
        models = dict(map(_split, self.model))
        return models.get(collection, models.get(None))

    @property
    def has_write_key(self) -> bool:
        """Whether the store may be changed over HTTP."""
        if self.write_key is not None or self.write_key_file is not None:
            return True
        return self.keys_file is not None and any(key.writes for key in read_keys(self.keys_file))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        at_most = [
            ("keep_k", "retrieve_k"), ("retrieve_k", "max_retrieve_k"), ("keep_k", "max_keep_k"),
            ("max_new_tokens", "max_new_tokens_limit"), ("num_beams", "max_num_beams"),
        ]  # fmt: skip
        for small, large in at_most:
            value, most = getattr(self, small), getattr(self, large)
            if value not in (None, "auto") and value > most:
                raise ValueError(f"{small} ({value}) must be at most {large} ({most})")
        self._require_names()
        if self.write_key is not None and self.write_key_file is not None:
            raise ValueError("write_key and write_key_file are two places for one key: give one")
        return self

    def _require_names(self) -> None:
        names = [name for name, _ in map(_split, self.store)]
        if len(names) > 1 and None in names:
            raise ValueError(f"of several stores each needs a name (--store NAME=DIR); {self.store[names.index(None)]} "
                             "has none")  # fmt: skip
        for of, given in (("store", self.store), ("model", self.model)):
            twice = [name for name, _ in map(_split, given)]
            if len(set(twice)) < len(twice):
                name = next(name for name in twice if twice.count(name) > 1)
                raise ValueError(f"two {of}s are given {f'for {name}' if name else 'without a name'}: give one")
        for name, _ in map(_split, self.model):
            if name is not None and name not in self.stores:
                raise ValueError(f"model {name}=... is for no store: there are {', '.join(self.stores)}")

    @classmethod
    def load(cls, **flags: Any) -> Settings:
        """Settings from flags, then `MEMSTORE_*` variables, then defaults. A flag that is None was not given.

        Raises:
            ConfigError: a value is wrong, contradicts another, or is missing; names the key and the value.
        """
        given = {name: value for name, value in flags.items() if value is not None and value != []}
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(dict(one)) for one in error.errors())) from error


def unknown_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`MEMSTORE_*` variables that are no setting but resemble one, each with the one it resembles."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    suspects = [name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known]
    resembling = ((name, difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85)) for name in suspects)
    return {name: matches[0] for name, matches in resembling if matches}


def _explain(error: dict[str, Any]) -> str:
    """One line: which setting, how it is given, its value, what is wrong."""
    if not error["loc"]:  # a contradiction between two settings; the message names both
        return str(error["msg"]).removeprefix("Value error, ")
    name = str(error["loc"][0])
    spelled = f"{name} (--{name.replace('_', '-')} or {PREFIX}{name.upper()})"
    if error["type"] == "missing":
        return f"{spelled} is not given"
    if error["type"] == "extra_forbidden":
        return f"{name} is not a setting of the server"
    return f"{spelled} is {error['input']!r}: {error['msg']}"
