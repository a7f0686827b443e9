"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memstore.whole import replacing, system_errors


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half\ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


REFUSALS = [
    (ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device [os_error_code='28']"), 28),
    (ValueError("An IO error occurred: 'No space left on device (os error 28) at path \"x.part/.tmpQ\"'"), 28),
    (ValueError("PERMISSION_DENIED: Error opening [os_error_code='13'] [x='1']"), 13),
    (RuntimeError("Error: 'ret == (size)' failed: write error in ix: 0 != 9 (No space left on device)"), 28),
    (RuntimeError("Error: 'f' failed: could not open ix for writing: Permission denied (Permission denied)"), 13),
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
