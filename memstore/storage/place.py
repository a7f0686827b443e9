"""Where stores in object storage are, where this machine caches them, and the limits of both (`MEMSTORE_*`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from memstore.errors import ConfigError

SCHEMES = {"s3": "AWS", "gs": "GOOGLE"}
"""Kinds of storage, and what the names of their variables begin with."""
_REFUSED = ("az", "azure", "abfs", "abfss", "adl", "wasb", "wasbs", "gcs", "r2", "file", "http", "https")
CACHE_FOLDER, CACHE_BYTES, SECONDS = "MEMSTORE_CACHE_DIR", "MEMSTORE_CACHE_BYTES", "MEMSTORE_STORAGE_SECONDS"
"""Variables: where the cache is, how large it may become, and how long one read or write may be tried."""


def as_url(place: Path | str) -> str | None:
    """The URL that a store's place is; None for a folder.

    Commands take a place as a `Path`, which makes `s3:/bucket/wiki` of `s3://bucket/wiki`: both are the same place.

    Raises:
        ConfigError: it names no bucket, or is the URL of something that stores cannot be in.

    >>> as_url(Path("s3://bucket/wiki/")), as_url("gs://bucket/wiki"), as_url("stores/wiki")
    ('s3://bucket/wiki', 'gs://bucket/wiki', None)
    """
    scheme, colon, rest = str(place).partition(":")
    if not colon or scheme not in (*SCHEMES, *_REFUSED) or rest[:1] not in ("", "/"):
        return None
    if scheme in _REFUSED:
        raise ConfigError(
            f"{place}: a store is a folder, or in object storage at s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; "
            f"{scheme}:// is not known"
        )
    rest = rest.strip("/")
    if not rest:
        raise ConfigError(f"{place} names no bucket: a store in object storage is {scheme}://BUCKET/PREFIX")
    return f"{scheme}://{rest}"


def parts_of(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix of what `as_url` gave.

    >>> parts_of("s3://bucket/a/wiki")
    ('s3', 'bucket', 'a/wiki')
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    return scheme, bucket, prefix


def variables(url: str) -> str:
    """What messages call the variables that say how to reach a URL."""
    return f"{SCHEMES[parts_of(url)[0]]}_*"


def cache_folder() -> Path:
    """Where this machine keeps what it has read of stores elsewhere, and what it builds for them."""
    if named := os.environ.get(CACHE_FOLDER):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "memstore")


def endpoint(url: str) -> str:
    """The address of the storage that a URL is in, if a variable names one."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT") if url.startswith("s3:") else ("GOOGLE_BASE_URL",)
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes that the cache may have, and seconds for which one read or write is tried before it is an error."""

    cache_bytes: int = 20_000_000_000
    seconds: float = 30.0

    @classmethod
    def of_environment(cls) -> Self:
        """What the variables say.

        Raises:
            ConfigError: one of them is no positive number.
        """
        return cls(cache_bytes=int(_number(CACHE_BYTES, cls().cache_bytes)), seconds=_number(SECONDS, cls().seconds))


def _number(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be a positive number, not {text!r}")
    return value
