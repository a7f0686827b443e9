"""`memstore serve --workers N`: several processes that serve one address as one server would."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from memstore.answer import Answerer
from memstore.errors import ConfigError
from memstore_client import Client
from memstore_server import workers
from memstore_server.addresses import bound_socket
from memstore_server.settings import Settings
from memstore_server.together import merged
from tests.e2e.small_store import built

KEY = "a-key-of-this-very-test"
PATIENCE = 240.0  # seconds; each worker starts a Python that imports torch, behind everybody else
QUESTIONS = ["the river", "a tower and a city", "a king"]


class Crew:
    """A server of two workers, as a process."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def metrics(self) -> dict[tuple[str, str], float]:
        """Samples by name and worker; of those with other labels too, their sum."""
        found: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text):
            for sample in family.samples:
                of = sample.name, sample.labels["worker"]
                found[of] = found.get(of, 0.0) + sample.value
        return found

    def up(self) -> list[str]:
        return [worker for (name, worker), value in self.metrics().items() if name == "memstore_worker_up" and value]

    def generations(self) -> dict[str, float]:
        return {worker: value for (name, worker), value in self.metrics().items() if name == "memstore_generation"}


def until(true: Callable[[], bool]) -> None:
    """Real processes: there is nothing to wait on."""
    late = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < late, "it did not come true"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def crew(store: Path) -> Iterator[Crew]:
    (store.parent / "key").write_text(KEY)
    log = store.parent / "log"
    command = [
        sys.executable, "-m", "memstore", "serve", "--store", str(store), "--port", "0", "--workers", "2",
        "--threads", "2", "--write-key-file", str(store.parent / "key"), "--write-nice", "0",
    ]  # fmt: skip
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line.startswith("memstore: serving on "), log.read_text()
            crew = Crew(process, line.split()[-1], log)
            until(lambda: crew.up() == ["0", "1"])
            yield crew
        finally:
            process.terminate()
            assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()


def test_both_answer_as_one_would(crew: Crew, store: Path) -> None:
    expected = [Answerer.open(store).ask(question).text for question in QUESTIONS]

    def answered() -> bool:
        given = [httpx.post(f"{crew.url}/answer", json={"question": one}, timeout=PATIENCE) for one in QUESTIONS]
        assert [reply.json()["answer"] for reply in given] == expected
        told = crew.metrics()
        return all(told[("memstore_batch_questions_count", worker)] > 1 for worker in "01")  # beside the warm-up

    until(answered)


def test_a_change_by_any_of_them_is_answered_from_by_all(crew: Crew) -> None:
    before = set(crew.generations().values())
    assert len(before) == 1
    text = "Otters hold hands when they sleep."
    with Client(crew.url, write_key=KEY, timeout=PATIENCE) as client:
        jobs = [client.put_documents([{"id": f"otters-{i}", "text": f"{text} {i}"}]) for i in range(2)]
        for job in jobs:
            until(lambda: client.job(job.id).state not in ("waiting", "running"))  # noqa: B023 - called at once
            assert client.job(job.id).state == "done"
        until(lambda: set(crew.generations().values()) == {before.copy().pop() + 2})
        # each connection is of one worker, by chance
        for _ in range(8):
            assert text in httpx.get(
                f"{crew.url}/documents/otters-1", headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE
            ).json()["passages"][0]["text"]  # fmt: skip
    refused = [httpx.put(f"{crew.url}/documents", json={"documents": []}, timeout=PATIENCE) for _ in range(4)]
    assert {reply.status_code for reply in refused} == {401}


def test_one_that_is_killed_is_replaced_and_the_others_answer(crew: Crew) -> None:
    children = Path(f"/proc/{crew.process.pid}/task/{crew.process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    until(lambda: "was ended by signal 9" in crew.log.read_text())
    for _ in range(8):
        reply = httpx.post(f"{crew.url}/answer", json={"question": QUESTIONS[0]}, timeout=PATIENCE)
        assert reply.status_code == 200  # the new one takes no connection before it can answer
    until(lambda: crew.up() == ["0", "1"])
    again = Path(f"/proc/{crew.process.pid}/task/{crew.process.pid}/children").read_text().split()
    assert children[0] in again
    assert children[1] not in again


def test_a_store_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "memstore",
        "serve",
        "--store",
        str(tmp_path / "gone"),
        "--port",
        "0",
        "--workers",
        "3",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("gone") == 1
    assert "Traceback" not in ended.stderr


def test_a_worker_that_nobody_orders_says_what_to_start() -> None:
    with pytest.raises(ConfigError, match=r"memstore serve --workers N"):
        workers.read_orders(io.StringIO(""))


def test_orders_are_the_settings_with_a_share_of_the_threads() -> None:
    settings = Settings.load(store="store", workers=3, threads=7, write_key="k" * 20, keep_k="auto", watch=2.5)
    with bound_socket("127.0.0.1", 0) as listener:
        orders = {
            "settings": workers.given(settings), "listener": os.dup(listener.fileno()), "number": 1, "size": 3,
            "folder": "folder", "first": False,
        }  # fmt: skip
        read = workers.read_orders(io.StringIO(json.dumps(orders) + "\n"))
        read.listener.close()
    assert read.settings == settings.model_copy(update={"threads": 2})


def test_metrics_of_several_keep_each_worker_apart() -> None:
    def text(value: float) -> bytes:
        return (
            "# HELP answers_total Given.\n# TYPE answers_total counter\n"
            f'answers_total{{collection="a"}} {value}\n'
            "# HELP wait_seconds Waited.\n# TYPE wait_seconds histogram\n"
            f'wait_seconds_bucket{{le="+Inf"}} {value}\nwait_seconds_count {value}\nwait_seconds_sum 0.5\n'
        ).encode()

    told = merged({0: text(3), 1: text(4), 2: None}).decode()
    samples: dict[tuple[str, str], Any] = {
        (s.name, s.labels["worker"]): s.value for f in text_string_to_metric_families(told) for s in f.samples
    }
    assert (samples["answers_total", "0"], samples["answers_total", "1"]) == (3, 4)
    assert samples["wait_seconds_bucket", "1"] == 4
    assert [samples["memstore_worker_up", worker] for worker in "012"] == [1, 1, 0]
    assert len(re.findall(r"^# TYPE answers", told, re.MULTILINE)) == 1
