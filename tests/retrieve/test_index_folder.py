"""An index's folder appears whole or not at all."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from memstore.errors import IndexCorrupt, StoreUnreadable
from memstore.retrieve.folder import new_index_folder, read_settings, scratch_folder, write_settings


def make(folder: Path, text: str) -> None:
    with new_index_folder(folder) as part:
        (part / "data").write_text(text)
        write_settings(part, {"a": 1})


def test_settings_and_files_come_back(tmp_path: Path) -> None:
    make(tmp_path / "deep" / "ix", "one")
    assert read_settings(tmp_path / "deep" / "ix") == {"a": 1}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["ix"]


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    make(tmp_path / "ix", "one")
    with new_index_folder(tmp_path / "ix") as part:
        (part / "data").write_text("two")
        write_settings(part, {"a": 2})
        assert (tmp_path / "ix" / "data").read_text() == "one"
    assert (tmp_path / "ix" / "data").read_text() == "two"
    assert read_settings(tmp_path / "ix") == {"a": 2}


def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    def fail() -> None:
        with new_index_folder(tmp_path / "ix") as part:
            (part / "data").write_text("half")
            raise OSError("full")

    make(tmp_path / "ix", "one")
    with pytest.raises(OSError, match="full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["ix"]
    assert (tmp_path / "ix" / "data").read_text() == "one"


def test_what_a_killed_build_left_is_discarded(tmp_path: Path) -> None:
    (tmp_path / "ix.part").mkdir()
    (tmp_path / "ix.part" / "stale").write_text("x")
    make(tmp_path / "ix", "one")
    assert sorted(p.name for p in (tmp_path / "ix").iterdir()) == ["data", "settings.json"]


def test_a_file_in_place_of_the_folder_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "ix").write_text("")
    with pytest.raises(IndexCorrupt, match="there is no index"):
        read_settings(tmp_path / "ix")


@pytest.mark.parametrize("closed", ["settings.json", "data", "folder"])
def test_what_the_system_refuses_is_unreadable_and_not_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    make(tmp_path / "ix", "one")
    if closed == "settings.json":
        (tmp_path / "ix" / closed).unlink()
        (tmp_path / "ix" / closed).mkdir()
    elif closed == "data":
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != closed)
    else:
        monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreUnreadable, match=r"ix cannot be read: .*(directory|denied)"):
        read_settings(tmp_path / "ix")


def test_a_scratch_folder_goes_even_while_a_lock_comes_back() -> None:
    until = time.monotonic() + 0.3

    def lock_again() -> None:
        while time.monotonic() < until:
            try:
                (folder / ".lock").touch()
            except FileNotFoundError:
                return

    with scratch_folder("memstore-test-") as folder:
        (folder / "a").mkdir()
        watcher = threading.Thread(target=lock_again)
        watcher.start()
    watcher.join()
    assert not folder.exists()


def test_a_scratch_folder_goes_after_an_error() -> None:
    with pytest.raises(RuntimeError), scratch_folder("memstore-test-") as folder:
        raise RuntimeError
    assert not folder.exists()
