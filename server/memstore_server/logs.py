"""Log lines that carry the id of the request they belong to, as text or as JSON.

Knows the standard library's logging only. Nothing is set up at import: `configure` does it, for a server.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from typing import Literal

NO_REQUEST = "-"
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")  # anything else could forge log lines, or fill them
request_id: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)
"""Id of the request in whose service the code runs; several, joined by commas, while a joined batch runs."""


def sane_id(given: str) -> str:
    """The id that a client gave its request; a new one where that is none."""
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to every record, from the context the line was logged in."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through."""
        record.request_id = request_id.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, request_id, message; trace_id and exception, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": getattr(record, "request_id", NO_REQUEST),
            "message": record.getMessage(),
        }
        if trace_id := getattr(record, "trace_id", ""):
            line["trace_id"] = trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(*, style: Literal["text", "json"], level: str) -> None:
    """Sends all log lines of the process to standard error, in `style`, from `level` up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestIdFilter())
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True  # the middleware logs each request, with its id
