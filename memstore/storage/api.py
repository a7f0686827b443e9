"""The package `obstore`, which is an extra: what it makes of a URL, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from memstore.errors import ConfigError
from memstore.storage.place import endpoint, parts_of, variables

_PASSING = ("408", "429")  # of the statuses 4xx: those that another try may mend


def open_api(url: str, attempt_seconds: float) -> tuple[Any, Any]:
    """The package, and what it makes of a URL and the environment.

    Raises:
        ConfigError: it is not installed, or the variables cannot be understood.
    """
    try:
        import obstore
        from obstore.store import GCSStore, S3Store
    except ImportError as error:
        raise ConfigError(
            f"{url}: stores in object storage need the package obstore: pip install 'memstore[s3]'"
        ) from error
    scheme, bucket, prefix = parts_of(url)
    timeout = timedelta(seconds=attempt_seconds)
    try:
        store = (S3Store if scheme == "s3" else GCSStore)(
            bucket,
            prefix=prefix or None,
            client_options={
                "timeout": timeout,
                "connect_timeout": timeout / 2,
                # The user names the endpoint; a plain one is meant to be.
                "allow_http": endpoint(url).startswith("http://"),
            },
            retry_config={"max_retries": 0},  # `_tried` does it, and knows which bytes are right
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ConfigError(f"{url}: {said(error)}; see the {variables(url)} variables") from error
    return obstore, store


def tag_of(url: str, meta: Mapping[str, Any]) -> str:
    """What names the version of an object: in S3 its ETag, in GCS the number of its generation."""
    return str(meta["e_tag"] if url.startswith("s3:") else meta["version"])


def mode_of(url: str, tag: str | None) -> Any:
    """How an object is put if it is still the version of that tag; None for one that is not there."""
    if tag is None:
        return "create"
    return {"e_tag": tag} if url.startswith("s3:") else {"version": tag}


def is_final(error: BaseException, kinds: Any) -> bool:
    """Whether another try would end the same."""
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError | PermissionError):
        return True
    status = re.search(r"status code: (4\d\d)", str(error))
    return status is not None and status[1] not in _PASSING


def said(error: BaseException) -> str:
    """The first line of what an error says: the rest of obstore's repeat it."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
