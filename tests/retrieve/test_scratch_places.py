"""A store is opened on machines without a usable temporary folder: its index is linked wherever a few links may lie."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tantivy

from memstore.errors import ConfigError, IndexCorrupt
from memstore.retrieve import folder
from memstore.retrieve.folder import scratch_folder, scratch_places
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from tests.retrieve.retrieve_cases import corpus, hits_of

PASSAGES = corpus(12)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_bm25(tmp_path / "ix", PASSAGES)
    return tmp_path / "ix"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three places, each a folder of its own."""
    made = {name: tmp_path / name for name in ("temporary", "runtime", "shared")}
    for place in made.values():
        place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made["temporary"]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made["runtime"]))
    monkeypatch.setattr(folder, "_SHARED_MEMORY", made["shared"])
    return made


@pytest.fixture
def no_temporary(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places where Tantivy opened an index."""
    opened, plain = [], tantivy.Index.open

    make = tantivy.Index

    class Noted:
        """Makes indexes without a folder as ever, and notes where one is opened."""

        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            return make(*arguments, **options)

        @staticmethod
        def open(path: str) -> Any:
            opened.append(Path(path).parent.name)
            return plain(path)

    monkeypatch.setattr(tantivy, "Index", Noted)
    return opened


def first_of(index: Path) -> str:
    [hits] = Bm25Retriever(index, hits_of(PASSAGES)).search(["number7"], 3)
    return hits[0].passage_id


def left(places: dict[str, Path]) -> list[Path]:
    return [path for place in places.values() for path in place.iterdir()]


def test_the_systems_temporary_folder_comes_first(index: Path, places: dict[str, Path], tried: list[str]) -> None:
    assert first_of(index) == "p7"
    assert tried == ["temporary"]
    assert left(places) == []


@pytest.mark.usefixtures("no_temporary")
def test_without_a_temporary_folder(
    index: Path, places: dict[str, Path], tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_of(index) == "p7"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert first_of(index) == "p7"
    assert tried == ["runtime", "shared"]
    assert left(places) == []
    assert list(scratch_places()) == [places["shared"]]


def test_a_place_that_is_full(
    index: Path, places: dict[str, Path], tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.symlink_to

    def full(link: Path, target: Path) -> None:
        if places["temporary"] in link.parents and target.suffix == ".idx":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(link))
        plain(link, target)

    monkeypatch.setattr(Path, "symlink_to", full)
    assert first_of(index) == "p7"
    assert tried == ["runtime"]
    assert left(places) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOLCK])
def test_a_place_without_room_for_a_lock_or_without_locks(
    index: Path, places: dict[str, Path], tried: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    plain = tantivy.Index.open

    def refused(path: str) -> Any:
        if str(places["temporary"]) in path:
            cause = f'IoError(Os {{ code: {number}, kind: X, message: "{os.strerror(number)}" }})'
            raise ValueError(f"Failed to acquire Lockfile: {cause}. None")
        return plain(path)

    monkeypatch.setattr(tantivy.Index, "open", refused)
    assert first_of(index) == "p7"
    assert tried == ["runtime"]
    assert left(places) == []


@pytest.mark.usefixtures("no_temporary")
def test_nowhere_at_all(index: Path, places: dict[str, Path]) -> None:
    for name in ("runtime", "shared"):
        places[name].rmdir()
    with pytest.raises(
        ConfigError, match=r"ix is opened through .* \(.*runtime: No such .*; .*shared: No such .*\)\. .* TMPDIR"
    ):
        first_of(index)


def test_what_is_wrong_with_the_index_is_not_laid_on_the_place(index: Path, places: dict[str, Path]) -> None:
    meta = index / "meta.json"
    meta.write_bytes(b"x" * meta.stat().st_size)
    with pytest.raises(IndexCorrupt, match="cannot be read"):
        first_of(index)
    assert left(places) == []


@pytest.mark.usefixtures("no_temporary")
def test_work_that_needs_a_temporary_folder_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match=r"no temporary folder can be made .* TMPDIR"), scratch_folder("memstore-"):
        pass
