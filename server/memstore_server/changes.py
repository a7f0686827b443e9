"""Changes of a store, one after another, each by the command line's own `add` or `delete` in a process of its own.

So a change runs the same code wherever it is asked for. It has a Python, a model and threads of its own, at a lower
priority: answers wait for nothing but their share of the processor. What it cannot survive ends it alone. One
generation or nothing is the command's promise, also when it is killed. Refuses to know HTTP and the engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from memstore.errors import MemstoreError, StoreBusy
from memstore.storage import as_url
from memstore.store import Generation, read_generation
from memstore.store.holding import BUSY
from memstore.store.uploading import LOST
from memstore.store.working import alone
from memstore_server.journal import KEPT, Job, Journal, Kind

log = logging.getLogger(__name__)
MOST_TRIES = 3  # of a change that ends its server each time
GRACE = 5.0  # seconds between asking a process to end and ending it
BUSY_PAUSE = 1.0  # seconds between two looks whether another process still changes the store


class TooManyChanges(MemstoreError):  # noqa: N818 - reads as the fact it states
    """As many changes wait as may."""


class JobNotFound(MemstoreError, LookupError):  # noqa: N818
    """There is no job of that id, or it was forgotten: only the latest are remembered."""


class NotOurJob(MemstoreError):  # noqa: N818
    """Another server runs the job; it alone can cancel it."""


class Changes:
    """Takes changes, runs them in turn, and remembers what became of them.

    Args:
        store: folder or URL.
        model, device, threads: for encoding; None leaves the choice to the command.
        nice: how far the processes stand back (nice(1)). At 19 a server that is always busy leaves them 1% of its time,
            so that a change never ends; at 10 a tenth.
        most: changes that may wait.
        changed: called after each change that made a generation, before its job is done.
        turn: held while a process runs, where others take turns with these changes.
        command: the command line.
    """

    def __init__(
        self,
        store: Path,
        *,
        model: str | None,
        device: str,
        threads: int | None,
        nice: int,
        most: int,
        changed: Callable[[], object],
        turn: threading.Lock | None = None,
        command: Sequence[str] = (sys.executable, "-m", "memstore"),
    ) -> None:
        self._store, self._most, self._changed, self._program = store, most, changed, command
        self._encoding = ["--device", device, *(["--model", model] if model is not None else [])]
        self._environment, self._nice, self._turn = _environment(threads), nice, turn or threading.Lock()
        self._journal = Journal(store)
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[str] = deque()
        self._cancelled: set[str] = set()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._news = threading.Condition()  # something above has changed
        self._thread = threading.Thread(target=self._run, name="memstore-changes", daemon=True)

    # --- for callers, from any thread ---

    def start(self) -> None:
        """Starts the thread. Jobs that a server left which is gone come first. Once."""
        with self._news:
            for job in self._journal.take_over():
                log.info("job %s was left by a server that is gone: it is run again", job.id)
                self._jobs[job.id] = dataclasses.replace(job, state="waiting")
                self._waiting.append(job.id)
        self._thread.start()

    def stop(self) -> None:
        """Ends the change that runs, which waits again, as all others do, for the next server. Blocks for a moment."""
        with self._news:
            self._stopped = True
            self._end_process()
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join(2 * GRACE)
        self._journal.close()

    def begin(self, kind: Kind, lines: Iterable[str], *, documents: int, options: tuple[str, ...] = ()) -> Job:
        """Accepts a change: from now on it is not lost.

        Args:
            kind: the command.
            lines: the lines of its input.
            documents: how many these are.
            options: more arguments.

        Raises:
            TooManyChanges: no more may wait.
            DiskSpaceError, ConfigError: it cannot be written down.
        """
        with self._news:
            if len(self._waiting) >= self._most:
                raise TooManyChanges(f"{len(self._waiting)} changes wait, the most that may: try again later")
            job = self._journal.begin(kind, lines, documents=documents, options=options, now=time.time())
            self._jobs[job.id] = job
            self._waiting.append(job.id)
            self._news.notify_all()
        return job

    def job(self, job_id: str) -> Job:
        """How far a job is. Raises JobNotFound."""
        job = self._jobs.get(job_id) or self._journal.read(job_id)
        if job is None:
            raise JobNotFound(f"there is no job {job_id!r}: only the latest are remembered")
        return job

    def cancel(self, job_id: str) -> Job:
        """Ends a job, which leaves nothing of it, and waits for that. One that has ended stays as it is.

        Raises:
            JobNotFound: there is none.
            NotOurJob: another server runs it.
        """
        with self._news:
            job = self.job(job_id)
            if job.open and job_id not in self._jobs:
                raise NotOurJob(f"job {job_id} is another server's: cancel it there")
            if job.open:
                self._cancelled.add(job_id)
                if job_id in self._waiting:
                    self._waiting.remove(job_id)
                    self._end(job, state="cancelled")
                else:
                    self._end_process()
                self._news.notify_all()
            self._news.wait_for(lambda: not self.job(job_id).open, timeout=2 * GRACE)
            return self.job(job_id)

    # --- the thread itself ---

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._work(job)
            except MemstoreError as error:
                self._fail(job, str(error))
            except Exception as error:
                log.exception("job %s failed", job.id)
                self._fail(job, f"the server failed: {type(error).__name__}")

    def _next(self) -> Job | None:
        """The job that has waited longest, begun; None when stopped."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            job = self._jobs[self._waiting.popleft()]
            job = dataclasses.replace(job, tries=job.tries + 1)
            self._journal.note(job)
            job = self._jobs[job.id] = dataclasses.replace(job, state="running", started=time.time())
            self._news.notify_all()
            return job

    def _work(self, job: Job) -> None:
        if job.tries > MOST_TRIES:
            self._fail(job, f"it was begun {MOST_TRIES} times, and each time the server ended; nothing was changed")
            return
        while self._wanted(job):
            if not _is_free(self._store):
                self._pause()
                continue
            if not self._turn.acquire(timeout=BUSY_PAUSE):
                continue
            try:
                before = read_generation(self._store)  # what others have changed until now is none of this job's doing
                code, said = self._command(job)
            finally:
                self._turn.release()
            if code and said.startswith((BUSY, LOST)):  # in object storage, another writer may be first
                self._pause()
                continue
            self._conclude(job, code, said, before)
            return
        self._conclude(job, 1, "", before=None)

    def _conclude(self, job: Job, code: int, said: str, before: Generation | None) -> None:
        """What has become of a job whose process has ended."""
        result = _report(self._journal.output(job.id)) if code == 0 else _published(self._store, before, job.kind)
        if result is not None:
            if before is None or result["generation"] != before.number:
                self._changed()
            self._finish(job, state="done", result=result)
        elif job.id in self._cancelled:
            self._finish(job, state="cancelled")
        elif self._stopped:
            log.info("job %s was interrupted: it waits for the next server", job.id)
            with self._news:  # it was not its fault: this try does not count
                self._journal.note(dataclasses.replace(self._jobs[job.id], state="waiting", tries=job.tries - 1))
        else:
            self._fail(job, said or _ended_by(code))

    def _command(self, job: Job) -> tuple[int, str]:
        """Runs the command. Its exit code, and what it said of its error."""
        source = str(self._journal.input(job.id))
        given = ["--corpus", source, "--format", "jsonl", *self._encoding] if job.kind == "add" else ["--ids", source]
        command = [*self._program, job.kind, "--store", str(self._store), *given, *job.options,
                   "--json", "--progress", "json"]  # fmt: skip
        with self._journal.output(job.id).open("wb") as output:
            with self._news:
                if not self._wanted(job):
                    return 1, ""
                # Of another group: control-C is for the server, which ends this process.
                process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, text=True,
                    errors="replace", env=self._environment, process_group=0,
                )  # fmt: skip
                self._process = process
            with contextlib.suppress(OSError):  # it has ended
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, process.pid, own + self._nice)  # before it has made any thread
            assert process.stderr is not None
            with process, process.stderr as lines:
                said = self._follow(job, lines)
            with self._news:
                self._process = None
        return process.returncode, said

    def _follow(self, job: Job, lines: IO[str]) -> str:
        """Notes the progress that a command reports; returns the last thing that it says besides."""
        said = ""
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:
                said = line.strip() or said
                continue
            if isinstance(values, dict) and "stage" in values:
                stage, items, of = str(values["stage"]), int(values["done"]), values["of"]
                with self._news:
                    self._jobs[job.id] = dataclasses.replace(self._jobs[job.id], stage=stage, items=items, items_of=of)
                    self._news.notify_all()
        return said.removeprefix("memstore: ")

    def _wanted(self, job: Job) -> bool:
        return not self._stopped and job.id not in self._cancelled

    def _pause(self) -> None:
        with self._news:
            self._news.wait(BUSY_PAUSE)

    def _fail(self, job: Job, reason: str) -> None:
        place = as_url(self._store) or str(self._store)
        reason = reason.replace(f"{place}{os.sep}", "").replace(place, "the store")
        log.error("job %s failed: %s", job.id, reason)
        self._finish(job, state="failed", error=reason)

    def _finish(self, job: Job, **became: Any) -> None:
        with self._news:
            self._end(self._jobs[job.id], **became)
            self._news.notify_all()

    def _end(self, job: Job, **became: Any) -> None:
        """Notes the end of a job. Under the lock."""
        job = dataclasses.replace(job, ended=time.time(), stage="", **became)
        self._journal.note(job)
        self._jobs[job.id] = job
        self._cancelled.discard(job.id)
        for old in [one.id for one in self._jobs.values() if not one.open][:-KEPT]:
            del self._jobs[old]

    def _end_process(self) -> None:
        """Asks the process to end, which removes what it wrote; makes it end if it does not. Under the lock."""
        if (process := self._process) is not None:
            process.terminate()
            killer = threading.Timer(GRACE, process.kill)
            killer.daemon = True
            killer.start()


def _is_free(store: Path) -> bool:
    """Whether nobody changes the store now: else a command would start for nothing."""
    try:
        with alone(store):
            return True
    except StoreBusy:
        return False
    except MemstoreError:
        return True  # the command says what is wrong


def _environment(threads: int | None) -> dict[str, str]:
    """The server's own, without its key."""
    kept = {name: value for name, value in os.environ.items() if name.upper() != "MEMSTORE_WRITE_KEY"}
    return kept if threads is None else {**kept, "OMP_NUM_THREADS": str(threads)}


def _report(path: Path) -> dict[str, Any]:
    """The command's report."""
    values = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def _published(store: Path, before: Generation | None, kind: Kind) -> Mapping[str, Any] | None:
    """What a change did that was ended after it had come into force, and before it could say so; None if it had not."""
    if before is None:
        return None
    after = read_generation(store)
    if after.number <= before.number or (after.change.get("kind"), after.change.get("of")) != (kind, before.number):
        return None
    return {"generation": after.number, **{name: n for name, n in after.change.items() if name not in ("kind", "of")}}


def _ended_by(code: int) -> str:
    """What to say of a process that said nothing."""
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    why = " (was there too little memory?)" if code == -9 else ""
    return f"the process that made the change ended {how}{why}; nothing was changed"
