"""Addresses to listen on: bound before anything is loaded, since a taken port should not cost a start.

Knows sockets only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from memstore.errors import ConfigError


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket bound to the address, not yet listening; closed at the end.

    Raises:
        ConfigError: the host has no such address, or the port is taken or not permitted.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the latter for names that no host can have, such as a..b
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"host {host!r} is no address to listen on: {reason}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host} port {port}: {error.strerror}. Choose another --port; 0 finds a free one."
            ) from error
        yield listener


def url_of(listener: socket.socket) -> str:
    """The address of a bound socket, with the port the system chose."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
