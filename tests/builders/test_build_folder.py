"""Where a store may lie: outside its corpus, and where it can be written."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memstore import cli
from memstore.errors import ConfigError, CorpusNotFound, DiskSpaceError, MemstoreError
from memstore_builders import estimate
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_builders.plan import plan
from memstore_builders.progress import Silent
from memstore_builders.state import describe
from memstore_builders.verify import verify
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def options(model: Path, tmp_path: Path) -> BuildOptions:
    """A corpus that is a folder, and a store beside it."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("a.jsonl", "more/b.jsonl"):
        rows = [{"id": f"{name}{i}", "title": p.title, "text": f"{p.text} {name} {i}."}
                for i, p in enumerate(tiny.passages(3))]  # fmt: skip
        (tmp_path / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return BuildOptions(corpus=(tmp_path / "data",), out=tmp_path / "store", model=str(model), dtype="float32")


@pytest.fixture
def dense_options(options: BuildOptions, tmp_path: Path) -> BuildOptions:
    """With a model that has vectors, wide enough that no array is small."""
    return replace(options, model=str(tiny.save_checkpoint(tmp_path / "dense", embedding_dim=256)))


@pytest.mark.parametrize("out", ["data", "data/store", "data/more/../new/store", "link/store"])
def test_a_store_inside_its_corpus_folder_is_refused(options: BuildOptions, tmp_path: Path, out: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="choose an --out outside that folder, or name the corpus's files"):
        build(replace(options, out=tmp_path / out))
    assert sorted(tmp_path.rglob("*")) == before


def test_beside_a_corpus_file_and_above_a_corpus_folder_is_room_for_a_store(options: BuildOptions) -> None:
    [data] = options.corpus
    inside = replace(options, corpus=(data / "a.jsonl",), out=data / "store")
    assert build(inside).passages == 3
    assert build(inside).already_built
    assert build(replace(options, corpus=(data / "more",), out=data)).passages == 3


def test_hidden_files_are_no_part_of_a_corpus_folder(options: BuildOptions) -> None:
    [data] = options.corpus
    build(options)
    (data / ".notes").write_text("not read")
    (data / ".cache").mkdir()
    (data / ".cache" / "c.jsonl").write_text("{}\n")
    assert build(options).already_built
    assert describe(data)["bytes"] == sum((data / name).stat().st_size for name in ("a.jsonl", "more/b.jsonl"))
    (data / "c.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="built otherwise"):
        build(options)


@pytest.mark.parametrize("name", ["../store", "caf\udce9.__lock"])
def test_a_store_may_have_any_name(
    dense_options: BuildOptions, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memories by TensorStore, words by Tantivy, vectors by faiss: none of them takes every name."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = replace(dense_options, out=Path(name), retriever="hybrid")
    assert build(options).passages == 6
    assert build(options).already_built
    assert verify(Path(name)).sound


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "file is a file, and a store is a folder: choose another --out"),
        ("file/store", r"file/store cannot be written \(Not a directory\): choose another folder"),
        ("nowhere", r"nowhere cannot be written \(File exists\): choose another folder"),
    ],
)
def test_a_store_needs_a_folder(
    options: BuildOptions, tmp_path: Path, out: str, message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("kept")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match=message):
        build(replace(options, out=tmp_path / out))
    command = ["build", "--corpus", str(options.corpus[0]), "--out", str(tmp_path / out), "--model", options.model]
    monkeypatch.setattr("sys.argv", ["memstore", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "choose another" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


class At(Silent):
    """Does something as a stage begins or ends."""

    def __init__(self, when: str, what: Callable[[], object]) -> None:
        self._when, self._what, self._stage = when, what, ""

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        self._stage = stage
        self._tell(f"begin {stage}")

    def end(self) -> None:
        self._tell(f"end {self._stage}")

    def _tell(self, now: str) -> None:
        if now == self._when:
            self._what()


@contextmanager
def file_sizes_as_before() -> Iterator[int]:
    """Gives the hard limit of the process, and takes back what was set below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("when", "room"),
    [
        ("begin encode", 0),
        ("begin encode", 3000),  # the metadata have room, what TensorStore writes has not
        ("begin index", 0),  # Tantivy
        ("begin index", 1500),
        ("end index", 0),  # the generation
    ],
)
@pytest.mark.parametrize("retriever", ["bm25", "dense"])
def test_no_room_at_any_stage_is_reported_and_the_build_goes_on_where_there_is(
    dense_options: BuildOptions, when: str, room: int, retriever: Any
) -> None:
    options = replace(dense_options, retriever=retriever)
    with (
        file_sizes_as_before() as hard,
        pytest.raises(DiskSpaceError, match=r"no room is left in .*store \(File too large\)"),
    ):
        build(options, At(when, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))))
    assert build(options).passages == 6
    assert verify(options.out).sound


@pytest.mark.parametrize("when", ["end read", "begin encode", "begin index"])
def test_a_folder_that_is_removed_while_it_is_built_is_reported(options: BuildOptions, when: str) -> None:
    with pytest.raises(MemstoreError, match=r"store cannot be written \(No such file|segment .* is missing"):
        build(options, At(when, lambda: shutil.rmtree(options.out)))
    assert build(options).passages == 6


def test_a_finished_store_whose_build_folder_was_removed_is_finished(options: BuildOptions) -> None:
    assert build(options, At("end index", lambda: shutil.rmtree(options.out / ".build"))).passages == 6


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_every_file_of_a_store_may_be_read_by_whom_the_umask_lets(
    dense_options: BuildOptions, umask: int, mode: int
) -> None:
    """A server is often another user than who built; Tantivy makes a file for its owner alone."""
    before = os.umask(umask)
    try:
        build(replace(dense_options, retriever="hybrid"))
    finally:
        os.umask(before)
    found = {p.relative_to(dense_options.out).as_posix(): p.stat().st_mode & 0o777
             for p in dense_options.out.rglob("*") if p.is_file()}  # fmt: skip
    assert "index/000001/lexical/meta.json" in found
    assert {name: oct(m) for name, m in found.items() if m != mode} == {}


def test_what_is_no_build_s_is_not_removed(options: BuildOptions) -> None:
    """Other programs name their folders so too."""
    for name in (".build/lock", ".build/debug/program"):
        (options.out / name).parent.mkdir(parents=True, exist_ok=True)
        (options.out / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"\.build/debug is no file of a build, and would be removed: choose another"):
        build(options)
    assert [p.read_text() for p in sorted((options.out / ".build").rglob("*")) if p.is_file()] == ["mine", "mine"]


def test_a_store_that_has_lost_its_current_file_is_not_written_over(options: BuildOptions) -> None:
    build(options)
    (options.out / "CURRENT").rename(options.out.parent / "kept")
    before = (options.out / "generations/000001.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"without its CURRENT file, whose 000001\.json would be written over: restore"
    ):
        build(replace(options, limit=2))
    assert (options.out / "generations/000001.json").read_bytes() == before
    (options.out.parent / "kept").rename(options.out / "CURRENT")
    assert build(options).already_built


@pytest.mark.parametrize("data", [b"", b'{"half', b"[]", b'{"settings": {}}', b"\xff"])
def test_a_power_cut_may_spoil_the_note_of_what_is_built(options: BuildOptions, data: bytes) -> None:
    def cut() -> None:
        (options.out / ".build/job.json").write_bytes(data)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(options, At("end encode", cut))  # a segment is sealed
    with pytest.raises(
        ConfigError, match=r"job\.json, which says of what, is damaged\. Choose another --out, or --rebuild"
    ):
        build(options)
    shutil.rmtree(options.out)
    with pytest.raises(KeyboardInterrupt):
        build(options, At("end read", cut))
    assert build(options).passages == 6


def test_what_a_resumed_build_believes_is_on_the_disk(options: BuildOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    build(options)
    names = [name for name in flushed if name.endswith(".part") or name.startswith("spool")]
    assert names[:6] == [
        ".job.json.part",
        "spool.jsonl",
        "spool.offsets.npy",
        "spool.duplicates.npy",
        ".spool.json.part",
        ".estimate.json.part",
    ]


@pytest.mark.parametrize("run", [plan, build])
def test_a_temporary_folder_that_is_full_or_missing_is_reported_with_what_names_another(
    options: BuildOptions, run: Callable[[BuildOptions], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def missing(*_: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    with monkeypatch.context() as patch:
        patch.setattr(estimate, "SegmentWriter", full)
        with pytest.raises(DiskSpaceError, match=r"memstore-plan-.* \(--limit\); TMPDIR names another place$"):
            run(options)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", missing)
        with pytest.raises(ConfigError, match=r"\(No usable temporary directory found\): name a place by the variable"):
            run(options)
    with pytest.raises(CorpusNotFound):  # whatever else is not found is reported as it is
        run(replace(options, corpus=(options.out / "none.jsonl",)))
