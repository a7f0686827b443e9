"""The key of requests that change a store: where it comes from, and routes that ask for it.

A key is compared by its hash and in constant time, before anything of the request's body is read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from memstore.errors import ConfigError, MemstoreError
from memstore_server.settings import Settings

BODY_LIMIT = "memstore_server.body_limit"
"""Key of a request's scope: a limit of bytes that its route has instead of the usual one."""
SHORTEST = 16  # characters of a key; 16 random letters and digits are 95 bits
_SCHEME = "bearer"


class Unauthorized(MemstoreError, PermissionError):  # noqa: N818 - reads as the fact it states
    """A request without the key, or with another one."""


class WriteKey:
    """A key that is known by its hash."""

    def __init__(self, key: str) -> None:
        """Take a key.

        Raises:
            ConfigError: it is too short, or cannot be sent in a header.
        """
        if len(key) < SHORTEST or not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
            raise ConfigError(
                f"the write key must have at least {SHORTEST} printable ASCII characters and no space, such as "
                "`openssl rand -hex 32` prints"
            )
        self._digest = _digest(key)

    def require(self, authorization: str | None) -> None:
        """Raises Unauthorized unless the header's value is `Bearer` and the key."""
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != _SCHEME:
            raise Unauthorized("send the header `Authorization: Bearer KEY` with the server's write key")
        if not hmac.compare_digest(_digest(given.strip()), self._digest):
            raise Unauthorized("this is not the server's write key")


def read_key(settings: Settings) -> WriteKey | None:
    """The key that the settings name; None if they name none.

    Raises:
        ConfigError: its file cannot be read, or it is no key.
    """
    if settings.write_key is not None:
        return WriteKey(settings.write_key.get_secret_value())
    if settings.write_key_file is None:
        return None
    try:
        return WriteKey(settings.write_key_file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the write key cannot be read from {settings.write_key_file}: {error}") from error


class KeyedRoute(APIRoute):
    """A route that asks for the server's write key, if it has one, and takes bodies as large as changes may be."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, after the key was seen."""
        handle = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            key: WriteKey | None = request.app.state.write_key
            if key is not None:
                key.require(request.headers.get("Authorization"))
                request.scope[BODY_LIMIT] = request.app.state.service.settings.max_write_bytes
            return await handle(request)

        return keyed


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
