"""A server that faults are done to, as a process of its own, and what must hold after each of them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from memstore.store.check import check_generation
from memstore_client import Client

KEY = "a-key-of-this-very-test"
PATIENCE = 300.0  # seconds; a change starts a Python that imports torch, behind everybody else
HEALTH = 20.0  # seconds, of a machine that is busy with other things, too
QUESTIONS = ("the river", "a tower and a city", "who holds hands?")
LIMIT = 100_000  # bytes of a body

# Its clock is what a file says: `time.time`, which must decide nothing, jumps with it.
SERVE = """
import sys, time
true, offset = time.time, sys.argv.pop(1)
def jumping():
    with open(offset) as file:
        return true() + float(file.read() or 0)
time.time = jumping
from memstore.cli import main
main()
"""


class World:
    """The server, its store, and what is known of both.

    Attributes:
        store: its folder.
        url, http: where it listens; a client without patience for errors.
        accepted: texts of the documents that changes have put there, by id.
    """

    def __init__(self, store: Path, scratch: Path) -> None:
        self.store, self._scratch = store, scratch
        (scratch / "key").write_text(KEY)
        self.clock = scratch / "clock"
        self.clock.write_text("0")
        self.log = scratch / "log"
        self.accepted: dict[str, str] = {}
        self._read = 0  # of the log
        self._answers: dict[tuple[int, str], Any] = {}
        lines = (store.parent / "passages.jsonl").read_text(encoding="utf-8").splitlines()
        self.passages = {row["id"]: row["text"] for row in map(json.loads, lines)}
        self.start()

    # --- its life ---

    def start(self) -> None:
        """Starts the server, and waits until it can answer."""
        command = [sys.executable, "-c", SERVE, str(self.clock), "serve", "--store", str(self.store), "--port", "0",
                   "--write-key-file", str(self._scratch / "key"), "--write-nice", "0", "--drain-seconds", "1",
                   "--retrieve-k", "6", "--keep-k", "2", "--max-new-tokens", "4",
                   "--max-body-bytes", str(LIMIT), "--max-write-bytes", str(LIMIT)]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("memstore: serving on "), self.log.read_text()
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)
        self.client = Client(self.url, write_key=KEY, timeout=PATIENCE)

    def kill(self) -> None:
        """Ends the server without a word."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Ends the server, if it runs, and what is open to it."""
        self.process.terminate()
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.http.close()
        self.client.close()

    # --- what must hold ---

    def check(self, chance: random.Random) -> None:
        """It lives, answers as before, and has lost nothing. Raises AssertionError."""
        assert self.process.poll() is None, f"the server has ended: {self.new_log()}"
        began = time.monotonic()
        assert self.http.get("/health").status_code == 200
        assert time.monotonic() - began < HEALTH
        self._check_answer(chance.choice(QUESTIONS))
        one = chance.choice(sorted(self.passages))
        assert self.http.get(f"/passages/{one}").json()["text"] == self.passages[one]
        if self.accepted:
            name = chance.choice(sorted(self.accepted))
            assert self.client.document(name).passages[0].text == self.accepted[name]
        logged = self.new_log()
        assert "Traceback" not in logged, logged
        assert "exception was never retrieved" not in logged, logged

    def check_store(self) -> None:
        """The store on the disk is whole."""
        assert list(check_generation(self.store)) == []

    def _check_answer(self, question: str) -> None:
        """The same question of the same generation has the same answer."""
        reply = self.http.post("/answer", json={"question": question})
        assert reply.status_code == 200, reply.text
        body = reply.json()
        found = body["answer"], [one["id"] for one in body["passages"]]
        assert self._answers.setdefault((body["store"]["generation"], question), found) == found

    def new_log(self) -> str:
        """What the server has logged since it was last asked for."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            logged = file.read()
        self._read += len(logged)
        return logged.decode("utf-8", "replace")


Fault = Callable[[World, random.Random], None]
"""Does one fault, mends what it broke, and raises AssertionError where the server does not say what is wrong."""


def is_problem(reply: httpx.Response, *statuses: int) -> None:
    """The reply is one of our problems, with one of these statuses."""
    assert reply.status_code in statuses, (reply.status_code, reply.text[:500])
    assert reply.headers["content-type"] == "application/problem+json", reply.text[:500]
    problem = reply.json()
    assert problem["type"].startswith("urn:memstore:problem:")
    assert problem["status"] == reply.status_code
    assert problem["detail"]
    assert problem["request_id"] == reply.headers["x-request-id"]
