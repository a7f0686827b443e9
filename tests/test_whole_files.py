"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memstore.files import replacing, system_errors, temporary_name


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "out.txt", os.fsync
    named: list[bool] = []

    def note(handle: int) -> None:
        named.append(path.exists())
        flushed(handle)

    monkeypatch.setattr(os, "fsync", note)
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert named == [False]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half\ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """Whoever writes it: some libraries make files for their owner alone."""
    path = tmp_path / "out.txt"
    temporary_name(path).touch(mode=0o600)  # left by a killed process
    before = os.umask(0o027)
    try:
        with replacing(path) as temporary:
            temporary.unlink()
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


REFUSALS = [
    (ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device [os_error_code='28']"), 28),
    (ValueError("An IO error occurred: 'No space left on device (os error 28) at path \"x.part/.tmpQ\"'"), 28),
    (ValueError("PERMISSION_DENIED: Error opening [os_error_code='13'] [x='1']"), 13),
    (RuntimeError("Error: 'ret == (size)' failed: write error in ix: 0 != 9 (No space left on device)"), 28),
    (RuntimeError("Error: 'f' failed: could not open ix for writing: Permission denied (Permission denied)"), 13),
    (
        ValueError(
            'Failed to acquire Lockfile: IoError(Os { code: 37, kind: X, message: "No locks available" }). None'
        ),
        37,
    ),
]


@pytest.mark.parametrize(("error", "number"), REFUSALS)
def test_a_refusal_in_a_library_s_words_is_the_error_that_it_was(error: Exception, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as caught, system_errors():
        raise error
    assert caught.value.errno == number
    assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="no number of the system"), system_errors():
        raise ValueError("no number of the system")
