"""Progress for programs: JSON lines; and changes that are ended from outside are undone."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest

from memstore.cli.stopping import undone_when_ended
from memstore.errors import ConfigError
from memstore_builders import progress
from memstore_builders.progress import JsonLines, Lines, named


def test_it_says_what_begins_and_ends_and_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.begin("read", None)
    for seconds in (0.1, 0.25, 0.3):
        now[0] = seconds
        lines.advance(2)
    lines.end()
    lines.begin("encode", 9, done=1)
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert said == [
        {"stage": "read", "done": 0, "of": None},
        {"stage": "read", "done": 4, "of": None},
        {"stage": "read", "done": 6, "of": None},
        {"stage": "encode", "done": 1, "of": 9},
    ]


def test_forms_have_names() -> None:
    assert isinstance(named("json"), JsonLines)
    assert isinstance(named("auto"), Lines)
    with pytest.raises(ConfigError, match="--progress must be auto or json, not 'xml'"):
        named("xml")


def test_nobody_who_reads_ends_the_work() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        with pytest.raises(BrokenPipeError):
            JsonLines(stream).begin("read", None)
        with pytest.raises(BrokenPipeError):
            stream.close()


def test_a_program_asked_to_end_leaves_by_an_exception_and_others_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, undone_when_ended():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
