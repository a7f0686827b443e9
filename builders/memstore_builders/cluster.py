"""Segments encoded by the workers of a Ray cluster. Corpus, index and generation stay with the driver.

A worker encodes one segment at a time, in a folder of its own. Where it sees the driver's folder (one machine, or a
shared file system), that is inside it, and the driver only renames the sealed segment; elsewhere it is a temporary
folder, and the driver fetches the files. A segment of a worker that is lost is given to another one.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from memstore import checkpoint
from memstore.errors import ConfigError, MemstoreError
from memstore.files import sync
from memstore.passage import Passage
from memstore.retrieve.sentence import SentenceEncoder
from memstore.store import Codec, Fingerprint, SegmentRef, TablesRef, sealed_segment, sync_tree
from memstore.store.duplicates import Duplicate
from memstore.store.format import TEMPORARY, segment_path
from memstore_builders.encode import PassageEncoder
from memstore_builders.job import BuildOptions, Job
from memstore_builders.progress import Progress
from memstore_builders.segments import PlannedSegment, encode_segment
from memstore_builders.spool import Spool

MAX_LOSSES = 3  # of one segment's workers: a segment that kills every worker must not go round for ever
_PIECE = 16 << 20  # bytes of a file fetched at a time
_MARK = "seen"  # file by which a worker finds out whether it sees the driver's folder


@contextmanager
def connected(options: BuildOptions) -> Iterator[None]:
    """Connected to the cluster that `options.ray` names, if it names one; a connection that is there is used.

    Raises:
        ConfigError: Ray is not installed; no cluster answers there; or it has too little for the workers asked for.
    """
    if options.ray is None:
        yield
        return
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs Ray, which is not installed: pip install 'memstore[ray]'") from error
    there = ray.is_initialized()
    if not there:
        try:
            _knock(options.ray)
            ray.init(address=options.ray, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {options.ray!r}: start one with `ray start --head`, or name the address "
                f"that it printed ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from error
    try:
        _number_of_workers(options)
        yield
    finally:
        if not there:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def encode_on_cluster(
    job: Job, spool: Spool, plans: Sequence[PlannedSegment], progress: Progress
) -> Iterator[SegmentRef]:
    """The segments planned, encoded by workers; each as soon as it is in the store's folder.

    Raises:
        FingerprintMismatch: a worker's model is not the driver's.
        ConfigError: a segment lost its worker `MAX_LOSSES` times.
    """
    for left in job.work.glob("ray-*"):  # of workers whose driver was killed; they may still be writing, so it may stay
        shutil.rmtree(left, ignore_errors=True)
    if not plans:
        return
    place = job.work / f"ray-{uuid.uuid4().hex}"
    crew = _Crew(job, place, min(_number_of_workers(job.options), len(plans)))
    try:
        yield from crew.encode(spool, plans, progress)
    finally:
        crew.dismiss()
        shutil.rmtree(place, ignore_errors=True)


def _number_of_workers(options: BuildOptions) -> int:
    import ray

    has = ray.cluster_resources()
    fit = int(has.get("CPU", 0) // options.ray_threads)
    if options.device != "cpu":
        fit = min(fit, int(has.get("GPU", 0)))
    if fit < max(1, options.ray_workers or 1):
        raise ConfigError(
            f"the Ray cluster has room for {fit} workers of {options.ray_threads} threads on {options.device}, not for "
            f"{options.ray_workers or 1}: it has {has.get('CPU', 0):.0f} CPUs and {has.get('GPU', 0):.0f} GPUs"
        )
    return options.ray_workers or fit


def _mark(place: Path) -> str:
    """Make the workers' folder, with a mark in it; what the mark says."""
    mark = uuid.uuid4().hex
    place.mkdir(parents=True)
    (place / _MARK).write_text(mark, encoding="ascii")
    return mark


# --- the driver's side ------------------------------------------------------------------------------------------------


class _Crew:
    """The workers of one build: who is free, and which segment each of the others has."""

    def __init__(self, job: Job, place: Path, count: int) -> None:
        import ray

        self._ray, self._job = ray, job
        options = job.options
        self._settings = WorkerSettings(
            place=place,
            mark=_mark(place),
            model=options.model,
            dtype=job.encoder.model.dtype,
            device=options.device,
            threads=options.ray_threads,
            fingerprint=job.fingerprint,
            embed=job.encoder.embed,
            sentence=options.encoder if job.sentence is not None else None,
            codec=job.codec,
            tables=job.tables,
            embedding_dim=job.embedding_dim,
        )
        gpus = 0 if options.device == "cpu" else 1
        self._kind = ray.remote(num_cpus=options.ray_threads, num_gpus=gpus)(Worker)
        self._workers: list[Any] = []
        self._waiting: dict[Any, tuple[Any, PlannedSegment | None]] = {}  # result to come: whose, and of which segment
        self._losses: Counter[str] = Counter()
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        """One more worker; it is given work once it says that it is there."""
        worker = self._kind.remote(self._settings)
        self._workers.append(worker)
        self._waiting[worker.ready.remote()] = (worker, None)

    def dismiss(self) -> None:
        """End all workers."""
        for worker in self._workers:
            self._ray.kill(worker)

    def encode(self, spool: Spool, plans: Sequence[PlannedSegment], progress: Progress) -> Iterator[SegmentRef]:
        """Give out segments in order until all are made."""
        left = deque(plans)
        made = 0
        while made < len(plans):
            [result], _ = self._ray.wait(list(self._waiting), num_returns=1)
            worker, plan = self._waiting.pop(result)
            try:
                reference = self._result(worker, plan, result)
            except self._ray.exceptions.RayActorError as error:
                self._lost(plan, error)
                if plan is not None:
                    left.appendleft(plan)
                self._workers.remove(worker)
                self._hire()
                continue
            if left:
                self._give(worker, left.popleft(), spool)
            if reference is not None:
                made += 1
                progress.advance(reference.passages)
                yield reference

    def _give(self, worker: Any, plan: PlannedSegment, spool: Spool) -> None:
        passages = list(spool.read(plan.rows.start, plan.rows.stop))
        self._waiting[worker.encode.remote(plan, passages, spool.duplicates(plan.rows))] = (worker, plan)

    def _result(self, worker: Any, plan: PlannedSegment | None, result: Any) -> SegmentRef | None:
        """What a worker made, in its place in the store; None of a worker that has just come."""
        try:
            made = self._ray.get(result)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, MemstoreError) else error from None
        return None if plan is None else self._take(worker, plan, made)

    def _lost(self, plan: PlannedSegment | None, error: Exception) -> None:
        name = "" if plan is None else plan.name
        self._losses[name] += 1
        if self._losses[name] >= MAX_LOSSES:
            raise ConfigError(
                f"{MAX_LOSSES} workers of the cluster were lost {f'at segment {name}' if name else 'as they started'}; "
                "is memstore installed on every machine, and is there memory enough for a model and a few shards in "
                f"each worker? What is sealed stays; run the build again ({error})"
            ) from error

    def _take(self, worker: Any, plan: PlannedSegment, made: MadeSegment) -> SegmentRef:
        """Give a sealed segment its place in the store."""
        out = self._job.options.out
        final = segment_path(out, plan.name)
        part = made.folder if made.shared else final.with_name(TEMPORARY + plan.name)
        if not made.shared:
            self._fetch(worker, made, part)
        final.parent.mkdir(parents=True, exist_ok=True)
        part.rename(final)
        sync(final.parent)
        reference = sealed_segment(out, plan.name)
        assert reference is not None, "it was sealed just now"
        return reference

    def _fetch(self, worker: Any, made: MadeSegment, part: Path) -> None:
        shutil.rmtree(part, ignore_errors=True)
        for name, size in made.sizes.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            with (part / name).open("wb") as file:
                for offset in range(0, size, _PIECE):
                    file.write(self._ray.get(worker.read.remote(made.folder, name, offset)))
        sync_tree(part)
        worker.forget.remote(made.folder)


# --- a worker's side --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker encodes with. `place` is the driver's folder for its workers, `mark` what its mark says."""

    place: Path
    mark: str
    model: str
    dtype: torch.dtype
    device: str
    threads: int
    fingerprint: Fingerprint
    embed: bool
    sentence: str | None
    codec: Codec
    tables: TablesRef | None
    embedding_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSegment:
    """A sealed segment on the worker's machine; `shared`: the driver sees the folder too. Else `sizes` of its files."""

    folder: Path
    shared: bool
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoding:
    """See `segments.Encoding`."""

    encoder: PassageEncoder
    codec: Codec
    tables: TablesRef | None
    sentence: SentenceEncoder | None
    embedding_dim: int


class Worker:
    """Encodes segments: the class of the cluster's actors. The model is loaded with the first segment."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._how: _Encoding | None = None
        mark = settings.place / _MARK
        self._shared = mark.exists() and mark.read_text(encoding="ascii") == settings.mark
        name = uuid.uuid4().hex
        self._root = settings.place / name if self._shared else Path(tempfile.mkdtemp(prefix="memstore-ray-"))
        torch.set_num_threads(settings.threads)

    def ready(self) -> int:
        """Return, once the worker is there: the id of its process."""
        return os.getpid()

    def encode(self, plan: PlannedSegment, passages: list[Passage], duplicates: list[Duplicate]) -> MadeSegment:
        """One segment, encoded and sealed in the worker's folder.

        Raises:
            CheckpointNotFound, CheckpointError: the model cannot be loaded on this machine.
            FingerprintMismatch: it is not the driver's.
        """
        self._how = self._how or _open(self._settings)
        start = plan.rows.start
        encode_segment(
            self._root,
            self._how,
            lambda first, last: passages[first - start : last - start],
            name=plan.name,
            rows=plan.rows,
            shard=plan.shard,
            advance=lambda _: None,
            duplicates=duplicates,
        )
        folder = segment_path(self._root, plan.name)
        files = [] if self._shared else [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        return MadeSegment(folder=folder, shared=self._shared, sizes=sizes)

    def read(self, folder: Path, name: str, offset: int) -> bytes:
        """A piece of one of the files of a segment."""
        with (folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(_PIECE)

    def forget(self, folder: Path) -> None:
        """Remove a segment that the driver has."""
        shutil.rmtree(folder)


def _open(settings: WorkerSettings) -> _Encoding:
    model, tokenizer = checkpoint.load(settings.model, dtype=settings.dtype, device=settings.device)
    settings.fingerprint.require(checkpoint.fingerprint(model, tokenizer))
    return _Encoding(
        encoder=PassageEncoder(model, tokenizer, embed=settings.embed),
        codec=settings.codec,
        tables=settings.tables,
        sentence=None if settings.sentence is None else SentenceEncoder(settings.sentence),
        embedding_dim=settings.embedding_dim,
    )
