"""Changes one after another, each by a process: what it reports, how it may end, and servers that come and go.

A little script stands for the command line. It does what its input says, line by line.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memstore.errors import DiskSpaceError
from memstore.store import read_generation
from memstore.store.history import numbers
from memstore.store.holding import only_writer
from memstore_builders.change import delete
from memstore_server import changes, journal
from memstore_server.changes import Changes, JobNotFound, NotOurJob, TooManyChanges
from memstore_server.journal import Job, Journal
from tests.builders.changing import Bench, texts

PATIENCE = 60.0  # seconds; processes of the lowest priority begin late on a busy machine
COMMAND = """
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
source = arguments[arguments.index("--corpus" if arguments[0] == "add" else "--ids") + 1]
store = arguments[arguments.index("--store") + 1]
for line in pathlib.Path(source).read_text().splitlines():
    if line == "wait":
        print(json.dumps({"stage": "encode", "done": 3, "of": 9}), file=sys.stderr, flush=True)
        signal.pause()
    if line == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if line == "fail":
        print("a warning", file=sys.stderr)
        sys.exit(f"memstore: the corpus {store}/.jobs/x/input is wrong, line 1 of {store}")
    if line == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if line == "crash":
        sys.exit(3)
    if line == "late":
        if not pathlib.Path(store, "told").exists():
            pathlib.Path(store, "told").touch()
            sys.exit(f"memstore: another process is changing {store}: wait for it, and try again")
    if line == "priority":
        assert str(os.getpriority(os.PRIO_PROCESS, 0)) == os.environ["EXPECTED_NICE"]
        assert "MEMSTORE_WRITE_KEY" not in os.environ
    if line == "arguments":
        print(json.dumps({"generation": 1, "missing": arguments}))
        sys.exit()
print(json.dumps({"generation": 5 if "change" in line else 1, "added": 2}))
"""

Make = Callable[..., Changes]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("changes"), texts(6))


@pytest.fixture
def store(built: Bench, tmp_path: Path) -> Path:
    shutil.copytree(built.path, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def make(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """`make(most=2)`: as a server has them; stopped at the end."""
    monkeypatch.setattr(changes, "BUSY_PAUSE", 0.01)
    monkeypatch.setenv("MEMSTORE_WRITE_KEY", "a secret of the server")
    monkeypatch.setenv("EXPECTED_NICE", str(min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7)))
    made: list[Changes] = []

    def start(**options: object) -> Changes:
        given = {"model": None, "device": "cpu", "threads": None, "nice": 7, "most": 9, "changed": lambda: None}
        made.append(Changes(store, command=(sys.executable, "-c", COMMAND), **{**given, **options}))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.stop()


def begin(of: Changes, *lines: str, **options: object) -> Job:
    return of.begin("add", [f"{line}\n" for line in lines], documents=len(lines), **options)


def until(of: Changes, job: Job, condition: Callable[[Job], object]) -> Job:
    with of._news:
        assert of._news.wait_for(lambda: condition(of.job(job.id)), PATIENCE) or condition(of.job(job.id))
    return of.job(job.id)


def ended(of: Changes, job: Job) -> Job:
    return until(of, job, lambda seen: not seen.open)


def encoding(of: Changes, job: Job) -> Job:
    """The job when its process waits to be told to end."""
    return until(of, job, lambda seen: seen.stage == "encode")


def test_a_change_is_run_and_its_report_kept(make: Make, store: Path) -> None:
    taken_up = []
    of = make(changed=lambda: taken_up.append("now"), model="/m", device="cuda", threads=3)
    job = begin(of, "priority", "change", "b")
    assert (job.state, job.documents, job.started) == ("waiting", 3, None)
    done = ended(of, job)
    assert (done.state, done.result, done.error) == ("done", {"generation": 1, "added": 2}, None)
    assert done.created <= done.started <= done.ended
    assert taken_up == []  # generation 1 is in force already
    assert ended(of, begin(of, "change")).result["generation"] == 5
    assert taken_up == ["now"]
    assert sorted(path.name for path in (store / ".jobs" / job.id).iterdir()) == ["job.json"]


def test_what_the_command_is_given(make: Make, store: Path) -> None:
    of = make(model="/m", device="cuda")
    added = ended(of, begin(of, "arguments", options=("--on-existing", "skip")))
    deleted = ended(of, of.begin("delete", ["arguments\n"], documents=1))
    said = [job.result["missing"] for job in (added, deleted)]
    inputs = [str(store / ".jobs" / job.id / "input") for job in (added, deleted)]
    assert said == [
        ["add", "--store", str(store), "--corpus", inputs[0], "--format", "jsonl", "--device", "cuda", "--model", "/m",
         "--on-existing", "skip", "--json", "--progress", "json"],
        ["delete", "--store", str(store), "--ids", inputs[1], "--json", "--progress", "json"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fail", "the corpus .jobs/x/input is wrong, line 1 of the store"),
        ("die", "ended by signal 9 (was there too little memory?); nothing was changed"),
        ("crash", "ended with exit code 3; nothing was changed"),
    ],
)
def test_a_failure_says_why_and_the_next_change_runs(make: Make, line: str, reason: str, caplog) -> None:
    of = make()
    first, second = begin(of, line), begin(of, "b")
    failed = ended(of, first)
    assert (failed.state, failed.result) == ("failed", None)
    assert failed.error.endswith(reason)
    assert reason in caplog.text
    assert ended(of, second).state == "done"


def test_progress_and_cancelling(make: Make, store: Path) -> None:
    of = make()
    running, waiting = begin(of, "wait"), begin(of, "b")
    seen = encoding(of, running)
    assert (seen.state, seen.items, seen.items_of) == ("running", 3, 9)
    assert of.cancel(waiting.id).state == "cancelled"
    assert of.cancel(running.id).state == "cancelled"
    assert of.cancel(running.id).state == "cancelled"  # again
    assert ended(of, begin(of, "c")).state == "done"
    assert not list(store.glob(".jobs/*/input"))


def test_a_process_that_does_not_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "GRACE", 0.2)
    of = make()
    running = begin(of, "stubborn", "wait")
    encoding(of, running)
    of.cancel(running.id)
    assert ended(of, running).state == "cancelled"


def test_one_that_came_into_force_before_it_was_killed_is_done(make: Make, store: Path) -> None:
    taken_up = []
    of = make(changed=lambda: taken_up.append("now"))
    job = of.begin("delete", ["wait\n"], documents=1)
    encoding(of, job)
    delete(store, ["d0"])  # as the process would
    assert of._process is not None
    of._process.kill()
    done = ended(of, job)
    assert (done.state, done.result) == ("done", {"generation": 2, "deleted": 1})
    assert taken_up == ["now"]
    assert read_generation(store).number == 2


def test_a_store_that_others_change_is_waited_for(make: Make, store: Path) -> None:
    of = make()
    with only_writer(store):
        job = begin(of, "b")
        until(of, job, lambda seen: seen.state == "running")
        cancelled = begin(of, "c")
        assert of.job(job.id).open
        assert of.cancel(cancelled.id).state == "cancelled"
    assert ended(of, job).state == "done"
    assert ended(of, begin(of, "late")).state == "done"  # taken between our look and the command's


def test_no_more_wait_than_may(make: Make) -> None:
    of = make(most=2)
    running = begin(of, "wait")
    encoding(of, running)
    waiting = [begin(of, "b"), begin(of, "c")]
    with pytest.raises(TooManyChanges, match="2 changes wait"):
        begin(of, "d")
    of.cancel(running.id)
    assert [ended(of, job).state for job in waiting] == ["done", "done"]


def test_a_server_that_stops_leaves_its_changes_to_the_next(make: Make, store: Path) -> None:
    of = make()
    running, waiting = begin(of, "wait"), begin(of, "b")
    encoding(of, running)
    of.stop()
    assert [of.job(job.id).state for job in (running, waiting)] == ["running", "waiting"]
    (store / ".jobs" / running.id / "input").write_text("change\n")  # so that it does not wait again
    next_one = make()
    assert [ended(next_one, job).state for job in (running, waiting)] == ["done", "done"]
    assert next_one.job(running.id).tries == 1


def test_a_living_servers_jobs_are_its_own(make: Make) -> None:
    first = make()
    running = begin(first, "wait")
    encoding(first, running)
    second = make()
    assert second.job(running.id).state == "waiting"  # as far as it was written down
    with pytest.raises(NotOurJob, match="is another server's"):
        second.cancel(running.id)
    assert first.cancel(running.id).state == "cancelled"
    assert second.job(running.id).state == "cancelled"


def test_a_change_that_ends_its_server_each_time_is_given_up(make: Make, store: Path) -> None:
    left = Journal(store)
    job = left.begin("add", ["b\n"], documents=1, options=(), now=1.0)
    left.note(journal.dataclasses.replace(job, tries=3))
    left.close()
    of = make()
    assert "begun 3 times" in ended(of, job).error


@pytest.mark.parametrize("name", ["none", "..", "a/b", ""])
def test_a_job_that_is_none(make: Make, name: str) -> None:
    with pytest.raises(JobNotFound, match="there is no job"):
        make().job(name)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_refuses_and_leaves_nothing(make: Make, store: Path, monkeypatch, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    of = make()
    with monkeypatch.context() as patched:
        patched.setattr(journal, "sync", full)
        with pytest.raises(DiskSpaceError):
            begin(of, "b")
    assert list((store / ".jobs").iterdir()) == []
    assert ended(of, begin(of, "b")).state == "done"


def test_a_full_disk_at_the_end_loses_nothing_but_the_note(make: Make, store: Path, monkeypatch, caplog) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    of = make()
    job = begin(of, "wait")
    encoding(of, job)
    monkeypatch.setattr(journal, "_write", full)
    assert of.cancel(job.id).state == "cancelled"
    assert "cannot be written down" in caplog.text
    of.stop()
    assert make().job(job.id).state == "failed"  # nobody knows any more


def test_old_jobs_are_forgotten(make: Make, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEPT", 2)
    monkeypatch.setattr(changes, "KEPT", 2)
    of = make()
    jobs = [begin(of, "b") for _ in range(4)]
    assert ended(of, jobs[3]).state == "done"
    assert sorted(path.name for path in (store / ".jobs").iterdir()) == sorted(job.id for job in jobs[2:])
    with pytest.raises(JobNotFound):
        of.job(jobs[0].id)
    assert json.loads((store / ".jobs" / jobs[3].id / "job.json").read_text())["state"] == "done"
    assert numbers(store) == [1]
