"""Server-sent events read by hand, as the standard has them: for tests that trust no library of ours."""

from __future__ import annotations

import json
from typing import Any


def events(body: str) -> list[tuple[str, Any]]:
    """The name and the JSON of each event; comments are left out."""
    assert body.endswith("\n\n"), "an event was cut off"
    read = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            event, data = lines
            read.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return read


def text(read: list[tuple[str, Any]]) -> str:
    """What the `token` events say together."""
    return "".join(data["text"] for name, data in read if name == "token")
