"""A worker among several that serve one address: its number, and the sockets by which they reach each other.

Each has a socket of its own beside the shared one, in a folder that only they can enter. Imports nothing that takes
long. Refuses to know how workers are started, and what they ask of each other.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WRITER = 0
"""The worker that changes stores, for all."""


@dataclass(frozen=True, slots=True)
class Crew:
    """One of `size` workers, its number from 0 on; `folder` has their sockets. `tell` says that a store has changed."""

    number: int
    size: int
    folder: Path
    tell: Callable[[], None] = lambda: None

    def place(self, number: int) -> Path:
        """Where a worker listens for the others."""
        return self.folder / f"{number}.sock"

    def listen(self) -> socket.socket:
        """The socket of this worker, bound. One that a former worker of this number left is replaced."""
        self.place(self.number).unlink(missing_ok=True)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.bind(str(self.place(self.number)))
        return own
