"""A change that dies at any step leaves the former generation in force, and the next change goes on from there.

Steps are the flushes to the disk, of which each file and rename has one: a death before the n-th of them, for every n.
tests/e2e/test_kill_changes.py kills processes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from memstore.errors import DiskSpaceError
from memstore.store import Store, read_generation
from memstore.store.check import check_generation
from memstore.store.check_kept import find_present
from memstore.store.history import forget, numbers
from memstore_builders.change import Change, delete
from memstore_builders.compact import compact
from tests.builders.changing import Bench, Documents, require_holds, require_same_as_built, texts


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def dies_at(step: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the work got to its `step`-th flush, where it died."""
    calls = 0
    fsync = os.fsync

    def deadly(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= step:  # a killed process flushes nothing any more
            raise Killed
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", deadly)
        patch.setattr(Change, "discard", lambda self: None)  # nor does it clean up
        try:
            work()
        except Killed:
            return True
    return False


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, texts(12), retriever="hybrid")
    made.add(texts(2, seed=4, prefix="n"))
    delete(made.path, ["d1"])
    del made.documents["d1"]
    return made


@pytest.mark.parametrize("kind", ["add", "delete", "compact", "forget"])
def test_dying_at_each_flush(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    before, original = dict(bench.documents), bench.path
    changed: Documents = {"d2": ("Paris", "a river."), "z": ("z", "a lake. of a city.")}

    def change() -> object:
        match kind:
            case "add":
                return bench.add(changed)
            case "delete":
                return delete(bench.path, ["d3", "n0"])
            case "compact":
                return compact(bench.path)
            case _:
                return forget(bench.path)

    after = {"add": {**{i: s for i, s in before.items() if i != "d2"}, **changed},
             "delete": {i: s for i, s in before.items() if i not in ("d3", "n0")}}.get(kind, before)  # fmt: skip
    step, died = 0, True
    while died:
        step += 1 + step // 8
        bench.path = tmp_path / f"{kind}-{step}"
        shutil.copytree(original, bench.path)
        number = read_generation(bench.path).number
        died = dies_at(step, change, monkeypatch)
        in_force = read_generation(bench.path).number
        bench.documents = dict(before if in_force == number and kind != "forget" else after)
        assert in_force in (number, number + 1)
        assert numbers(bench.path)[-1] == in_force  # what was not published is not listed
        assert list(check_generation(bench.path)) == []
        if died and in_force == number:
            change()
            bench.documents = dict(after)
        require_holds(bench)
        if kind == "compact":
            assert [p.name for p in (bench.path / "generations").glob("*.json")] == ["000004.json"] or died
        Store.open(bench.path).close()
        shutil.rmtree(bench.path)
    assert step > 5
    bench.path = original


def test_after_a_death_nothing_of_it_is_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (3, 9, 20):
        assert dies_at(step, lambda: bench.add({"d2": ("Paris", "a river."), "z": ("z", "a lake.")}), monkeypatch)
        bench.documents = {i: said for i, said in bench.documents.items() if i != "z"}
    bench.documents = texts(12) | texts(2, seed=4, prefix="n")
    del bench.documents["d1"]
    require_holds(bench)
    bench.add({"d2": ("Paris", "a river.")})
    compact(bench.path)
    require_same_as_built(bench, "at-once")
    names = {p.name for p in bench.path.iterdir()}
    assert names <= {"CURRENT", ".lock", "generations", "segments", "index", "lookups", "deletions", "codecs"}
    generation = read_generation(bench.path)
    assert {p.name for p in (bench.path / "segments").iterdir()} == {s.id for s in generation.segments}
    assert {p.stem for p in (bench.path / "lookups").iterdir()} == {s.id for s in generation.segments}


@pytest.mark.parametrize("kind", ["delete", "compact", "forget"])
def test_what_a_killed_addition_had_read_goes_with_any_later_change(bench: Bench, kind: str) -> None:
    read = bench.path / ".change"
    read.mkdir()
    (read / "spool.jsonl").write_text(json.dumps(["z:0", "z", "Nile", "a secret.", "", 0, 9, ""]) + "\n")
    assert list(find_present(bench.path, ["z"])) != []
    {"delete": lambda: delete(bench.path, ["d2"]), "compact": lambda: compact(bench.path),
     "forget": lambda: forget(bench.path)}[kind]()  # fmt: skip
    assert not read.exists()
    assert list(find_present(bench.path, ["z"])) == []


@pytest.mark.parametrize("step", [2, 5, 14, 25])
def test_a_full_disk_is_told_and_nothing_is_left(bench: Bench, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def files() -> set[str]:
        return {str(p.relative_to(bench.path)) for p in bench.path.rglob("*") if p.is_file()}

    before, calls, fsync = files(), 0, os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    documents = bench.documents
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskSpaceError, match="no room is left"):
            bench.add({"d2": ("Paris", "a river."), "z": ("z", "a lake.")})
    bench.documents = documents
    assert files() == before
    require_holds(bench)
