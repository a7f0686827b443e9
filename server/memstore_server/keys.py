"""The key of requests that change a store: where it comes from, and routes that ask for it.

A key is compared by its hash and in constant time, before anything of the request's body is read.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from memstore.errors import ConfigError
from memstore_server.keyring import KeyRing, Unauthorized, digest
from memstore_server.settings import Settings

BODY_LIMIT = "memstore_server.body_limit"
"""Key of a request's scope: a limit of bytes that its route has instead of the usual one."""
SHORTEST = 16  # characters of a key; 16 random letters and digits are 95 bits
_SCHEME = "bearer"


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
        self._digest = digest(key)

    def is_key(self, given: str) -> bool:
        """Whether this is the key."""
        return hmac.compare_digest(digest(given), self._digest)


class Gate:
    """Who may ask, and who may change stores: the write key may do both, the keys of a ring what each of them may."""

    def __init__(self, write_key: WriteKey | None, ring: KeyRing | None) -> None:
        """Without a ring everybody may ask; without either nobody may change anything."""
        self._write_key, self._ring = write_key, ring

    def require_reader(self, authorization: str | None) -> None:
        """Raises Unauthorized unless the header's value is `Bearer` and a key, and TooManyRequests where that key has
        asked too often.
        """
        if self._ring is None:
            return
        given = _given(authorization, "a key of the server's")
        if self._write_key is None or not self._write_key.is_key(given):
            self._ring.spend(given)

    def require_writer(self, authorization: str | None) -> None:
        """Raises Unauthorized unless the header's value is `Bearer` and a key that may change stores."""
        given = _given(authorization, "the server's write key")
        if self._write_key is not None and self._write_key.is_key(given):
            return
        if self._ring is None:
            raise Unauthorized("this is not the server's write key")
        self._ring.require(given, writes=True)


def _given(authorization: str | None, whose: str) -> str:
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != _SCHEME:
        raise Unauthorized(f"send the header `Authorization: Bearer KEY` with {whose}")
    return given.strip()


def read_gate(settings: Settings) -> Gate:
    """Who may do what, as the settings say. Errors as of `read_key` and `KeyRing`."""
    ring = None if settings.keys_file is None else KeyRing(settings.keys_file, among=settings.workers)
    return Gate(read_key(settings), ring)


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
            if request.app.state.service.settings.has_write_key:
                request.app.state.gate.require_writer(request.headers.get("Authorization"))
                request.scope[BODY_LIMIT] = request.app.state.service.settings.max_write_bytes
            return await handle(request)

        return keyed
