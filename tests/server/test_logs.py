"""Log lines carry the request's id, as text and as JSON."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from memstore_server import logs
from memstore_server.logs import JsonFormatter, RequestIdFilter, request_id


def record(message: str = "said %s", *args: object, failed: bool = False) -> logging.LogRecord:
    error = (ValueError, ValueError("why"), None) if failed else None
    made = logging.LogRecord("memstore.x", logging.INFO, "f", 1, message, args, error)
    RequestIdFilter().filter(made)
    return made


def test_json_lines() -> None:
    token = request_id.set("me-5")
    line = json.loads(JsonFormatter().format(record("said %s", "two\nlines")))
    request_id.reset(token)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info", "logger": "memstore.x", "request_id": "me-5", "message": "said two\nlines",
    }  # fmt: skip


def test_json_lines_are_one_line_and_tell_exceptions() -> None:
    text = JsonFormatter().format(record("a\nb", failed=True))
    assert "\n" not in text
    assert json.loads(text)["exception"] == "ValueError: why"


def test_outside_a_request_there_is_no_id() -> None:
    assert record().request_id == "-"


@pytest.mark.parametrize("style", ["text", "json"])
def test_configure_writes_the_id_to_standard_error(style: str) -> None:
    code = (
        "import logging; from memstore_server import logs; "
        f"logs.configure(style={style!r}, level='info'); logs.request_id.set('me-6'); "
        "logging.getLogger('memstore.x').info('hello'); logging.getLogger('memstore.x').debug('hidden')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "me-6" in done.stderr
    assert "hello" in done.stderr
    assert "hidden" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_importing_sets_nothing_up() -> None:
    code = (
        "import logging, sys, memstore_server.settings, memstore_server.logs; "
        "assert not logging.getLogger().handlers; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.anyio
async def test_every_request_has_a_line_with_its_id(serving, caplog) -> None:
    caplog.set_level("INFO", logger="memstore_server.access")
    caplog.handler.addFilter(RequestIdFilter())
    async with serving() as http:
        await http.get("/passages/a%0Ab", headers={"X-Request-ID": "me-7"})
    (line,) = [r for r in caplog.records if r.name == "memstore_server.access"]
    assert line.request_id == "me-7"
    assert line.getMessage().startswith("GET /passages/a%0Ab 404 ")
    assert logs.request_id.get() == "-"
