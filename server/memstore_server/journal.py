"""Accepted changes on disk, so that none is lost with its server: what was asked, and what became of it.

    STORE/.jobs/<id>/input      what was sent, as the command reads it; removed when the job has ended
    STORE/.jobs/<id>/job.json   the job

Of a store in object storage, `STORE` is a folder of this machine's cache: another machine does not take jobs over.

A server holds a lock on the input of each job that is its own, for as long as it lives. Jobs that have not ended and
that nobody holds are of a server that is gone: the next one to start takes them over.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from memstore import locks
from memstore.files import replacing, sync
from memstore.storage import as_url
from memstore.store.format import JOBS
from memstore.store.holding import writing
from memstore.store.mirror import kept_beside

log = logging.getLogger(__name__)
INPUT, JOB, OUTPUT = "input", "job.json", "output"
KEPT = 100
"""Jobs that have ended and are remembered, the latest."""

Kind = Literal["add", "delete"]
State = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A change that was accepted. Times are seconds since 1970; `tries` counts how often it was begun.

    `options` are arguments of the command beside the input. `stage`, `items` and `items_of` are of a running one.
    """

    id: str
    kind: Kind
    state: State
    documents: int
    options: tuple[str, ...]
    created: float
    tries: int = 0
    started: float | None = None
    ended: float | None = None
    stage: str = ""
    items: int = 0
    items_of: int | None = None
    result: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in ("waiting", "running")


class Journal:
    """The jobs of a store, on disk. Not safe to share between threads; its user takes turns."""

    def __init__(self, store: Path) -> None:
        self._store = store if as_url(store) is None else kept_beside(store)
        self._folder = self._store / JOBS
        self._held: dict[str, IO[bytes]] = {}

    def begin(self, kind: Kind, lines: Iterable[str], *, documents: int, options: tuple[str, ...], now: float) -> Job:
        """Write down a job that waits, and its input.

        Raises:
            DiskSpaceError: there is no room for it; nothing is left.
            ConfigError: the store cannot be written.
        """
        job = Job(id=uuid.uuid4().hex, kind=kind, state="waiting", documents=documents, options=options, created=now)
        unfinished = self._folder / f".tmp-{job.id}"
        with writing(self._store):
            try:
                unfinished.mkdir(parents=True)
                with (unfinished / INPUT).open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(lines)
                sync(unfinished / INPUT)
                _write(unfinished, job)
                self._hold(job.id, unfinished / INPUT)
                unfinished.rename(self._folder / job.id)
                sync(self._folder)
            except BaseException:
                self._let_go(job.id)
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        return job

    def note(self, job: Job) -> None:
        """Write down what a job has become; the input of one that has ended is removed.

        A full disk leaves what was written before: a job without an input is one that has failed.
        """
        try:
            _write(self._folder / job.id, job)
        except OSError as error:
            log.error("job %s is %s, which cannot be written down: %s", job.id, job.state, error)
        if not job.open:
            self._let_go(job.id)
            for name in (INPUT, OUTPUT):
                (self._folder / job.id / name).unlink(missing_ok=True)
            self._forget_old()

    def take_over(self) -> list[Job]:
        """Jobs that have not ended and that no living server holds, the oldest first; they are held from now on."""
        for unfinished in self._folder.glob(".tmp-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        left = [job for job in self._all() if job.open and job.id not in self._held]
        return [job for job in left if self._hold(job.id, self.input(job.id))]

    def read(self, job_id: str) -> Job | None:
        """A job by its id, of whichever server; None if there is none of that id."""
        if not (job_id.isascii() and job_id.isalnum()):
            return None
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            values = json.loads((self._folder / job_id / JOB).read_bytes())
            job = Job(**{**values, "options": tuple(values["options"])})
            if job.open and not self.input(job_id).exists():
                lost = "what became of it could not be written down: look at the store's generations"
                return dataclasses.replace(job, state="failed", error=lost)
            return job
        return None

    def input(self, job_id: str) -> Path:
        """What was sent."""
        return self._folder / job_id / INPUT

    def output(self, job_id: str) -> Path:
        """Where the command prints its report."""
        return self._folder / job_id / OUTPUT

    def close(self) -> None:
        """Let go of all jobs."""
        for job_id in list(self._held):
            self._let_go(job_id)

    def _all(self) -> list[Job]:
        found = [self.read(path.name) for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return sorted((job for job in found if job is not None), key=lambda job: job.created)

    def _hold(self, job_id: str, path: Path) -> bool:
        """Whether the job is ours from now on. Where files have no locks there is one server, and it is."""
        try:
            file = path.open("rb+")
        except OSError:
            return False
        with suppress(locks.NoLocks):
            if not locks.lock(file, inherited=True):
                file.close()
                return False
        self._held[job_id] = file
        return True

    def _let_go(self, job_id: str) -> None:
        if (file := self._held.pop(job_id, None)) is not None:
            file.close()

    def _forget_old(self) -> None:
        ended = [job for job in self._all() if not job.open]
        for job in ended[:-KEPT]:
            shutil.rmtree(self._folder / job.id, ignore_errors=True)


def _write(folder: Path, job: Job) -> None:
    values = dataclasses.asdict(job)
    with replacing(folder / JOB) as temporary:
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")
