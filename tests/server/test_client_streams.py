"""The client's streams against a server over a socket: what one sends the other reads, and hanging up ends the work."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest

from memstore.cli.show_stream import StreamShown
from memstore_client import AnswerReply, BadRequest, Client, RankedEvent, RetrievedEvent, ServerFailed, TokenEvent
from tests.server.fakes import PATIENCE, FakeEngine
from tests.server.page.conftest import served


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def url(engine: FakeEngine):
    with served(engine) as address:
        yield address


def test_the_events_of_an_answer(url: str) -> None:
    with Client(url) as client:
        plain = client.answer("what do they hold")
        *events, reply = client.stream("what do they hold")
    assert [type(event) for event in events] == [RetrievedEvent, RankedEvent, *[TokenEvent] * 4]
    assert isinstance(reply, AnswerReply)
    assert (reply.answer, reply.passages, reply.score) == (plain.answer, plain.passages, plain.score)


def test_problems_before_and_after_the_first_event(url: str) -> None:
    with Client(url, retries=0) as client:
        with pytest.raises(BadRequest, match="juggling"):
            list(client.stream("impossible"))
        with contextlib.closing(client.stream("damaged")) as events:
            assert isinstance(next(events), RetrievedEvent)
            with pytest.raises(ServerFailed, match="The store is damaged") as failed:
                next(events)
    assert failed.value.request_id == failed.value.problem.request_id


def test_hanging_up_ends_the_work(url: str, engine: FakeEngine) -> None:
    with Client(url) as client:
        engine.pause.clear()
        with contextlib.closing(client.stream("one two three")) as events:
            assert isinstance(next(events), RetrievedEvent)
            assert isinstance(next(events), RankedEvent)
        for _ in range(50):  # until the server has heard that the connection is closed
            client.health()
        engine.pause.set()
        assert engine.cut_short.acquire(timeout=PATIENCE)
        assert client.answer("next").answer == "next!"


# --- memstore ask --stream ---


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memstore", "ask", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ask_prints_the_text_as_it_comes(url: str) -> None:
    done = ask("what do they hold", "--url", url, "--stream")
    assert done.returncode == 0, done.stderr
    plain = ask("what do they hold", "--url", url).stdout.splitlines()
    found, *rest = done.stdout.splitlines()
    assert found == "2 passages found"
    assert rest[0] == plain[0] == "answer: what do they hold!   [confidence 0.50, log-probability -1.25]"
    assert rest[1:5] == plain[1:5]


def test_ask_prints_an_object_for_each_event(url: str) -> None:
    done = ask("hold hands", "--url", url, "--stream", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["retrieved", "ranked", "token", "token", "done"]
    assert [event["text"] for event in events[2:4]] == ["hold", " hands!"]
    assert events[-1]["answer"] == "hold hands!"


def test_ask_says_what_went_wrong(url: str) -> None:
    done = ask("damaged", "--url", url, "--stream")
    assert done.returncode == 2
    assert "The store is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_text_that_turns_out_otherwise_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    usage = {"milliseconds": {}, "flops": {}, "fid_flops": 0.0, "bytes_read": 0}
    reply = {
        "answer": "two", "score": -1.0, "confidence": 0.5, "calibrated": True, "reason": None, "citations": [],
        "model": {"trained": False}, "passages": [], "usage": usage,
    }  # fmt: skip
    shown = StreamShown(as_json=False)
    assert shown.wrote("one\x1b")
    shown.event("done", reply)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "answer: one\N{REPLACEMENT CHARACTER}"
    assert lines[1].startswith("This model is UNTRAINED")
    assert lines[2] == "answer: two   [confidence 0.50, log-probability -1.00]"
