"""What a kind of problem is, and the one kind that is needed before anything else of the server is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what `type`, `title` and `status` say, always the same three together."""

    name: str
    status: int
    title: str

    @property
    def type(self) -> str:
        """The URI by which programs know it."""
        return f"urn:memstore:problem:{self.name}"


NOT_READY = Kind("not-ready", 503, "The server does not take questions now")
