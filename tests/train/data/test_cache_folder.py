"""Where a cache of training data can be made, and what is left when that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memstore.errors import ConfigError, MemstoreError, OutputUnwritable
from memstore.model.tokens import TextTokenizer
from memstore.train.data import prepare as prepare_module
from memstore.train.data.cache import Candidates
from memstore.train.data.cache_folder import check_place, new_cache
from memstore.train.data.prepare import prepare
from memstore.train.data.prepare_options import PrepareOptions
from tests.train.data import data_cases as cases


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return cases.tokenizer()


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    (tmp_path / "in").mkdir()
    return PrepareOptions(out=tmp_path / "cache", corpus=(cases.write_corpus(tmp_path / "in" / "corpus.jsonl"),))


def at(options: PrepareOptions, out: Path) -> PrepareOptions:
    return PrepareOptions(out=out, corpus=options.corpus)


PLACES: dict[str, tuple[type[MemstoreError], str]] = {
    "file": (OutputUnwritable, "file is a file; name a folder"),
    "file/cache": (OutputUnwritable, "file is a file; name a folder"),
    "nowhere": (OutputUnwritable, "nowhere cannot be written: File exists"),
    "busy": (ConfigError, "busy holds other files than a cache of training data"),
    "mixed": (ConfigError, "mixed holds other files than a cache of training data"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_hold_a_cache_is_reported_and_stays_as_it_is(
    options: PrepareOptions, tokenizer: TextTokenizer, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for folder in ("busy/sets", "mixed/.part"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mixed" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    error, message = PLACES[place]
    with pytest.raises(error, match=message):
        prepare(at(options, tmp_path / place), tokenizer)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_write_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputUnwritable, match="no permission to write to"):
        check_place(tmp_path / "cache")


def test_a_folder_below_a_closed_one_is_reported(
    options: PrepareOptions, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(OutputUnwritable, match="cache cannot be written: Permission denied; name another folder"):
        prepare(options, tokenizer)


def test_an_empty_folder_is_filled_where_it_is(
    options: PrepareOptions, tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount point, over which nothing can be renamed, a link, or the current folder."""
    (tmp_path / "disk").mkdir()
    number = (tmp_path / "disk").stat().st_ino
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    prepare(options, tokenizer)
    assert (tmp_path / "disk").stat().st_ino == number
    assert (tmp_path / "cache").is_symlink()
    assert len(Candidates.open(tmp_path / "disk").passages) == len(cases.PASSAGES)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare(at(options, Path()), tokenizer)
    assert prepare(at(options, Path()), tokenizer).already


def test_a_folder_beside_it_is_left_alone(options: PrepareOptions, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "cache.part").mkdir()
    (tmp_path / "cache.part" / "mine").touch()
    prepare(options, tokenizer)
    assert (tmp_path / "cache.part" / "mine").exists()


def test_a_full_disk_is_reported_and_leaves_nothing(
    options: PrepareOptions, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prepare_module, "write_gzip_lines", full)
    with pytest.raises(OutputUnwritable, match=r"cache cannot be written: No space left on device\. Make room"):
        prepare(options, tokenizer)
    assert not options.out.exists()
    options.out.mkdir()
    with pytest.raises(OutputUnwritable):
        prepare(options, tokenizer)
    assert list(options.out.iterdir()) == []


def write(part: Path) -> None:
    (part / "sets").mkdir()
    (part / "sets" / "rows").write_text("x")
    (part / "passages.npy").write_text("x")
    (part / "manifest.json").write_text("{}")


def killed_at(when: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The process ends at a rename; its `finally` clauses do not run."""
    done, rename = 0, Path.rename

    def deadly(path: Path, target: Path) -> Path:
        nonlocal done
        if done == when:
            raise KeyboardInterrupt
        done += 1
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", deadly)
    monkeypatch.setattr("memstore.train.data.cache_folder._clear", lambda out: None)
    return monkeypatch.undo


@pytest.mark.parametrize("when", [0, 1, 2])
def test_what_a_killed_run_left_is_removed(tmp_path: Path, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "cache"
    again = killed_at(when, monkeypatch)
    with pytest.raises(KeyboardInterrupt), new_cache(out) as part:
        write(part)
    again()
    assert not (out / "manifest.json").exists()
    check_place(out)
    with new_cache(out) as part:
        assert list(part.iterdir()) == []
        write(part)
    assert {p.name for p in out.iterdir()} == {"sets", "passages.npy", "manifest.json"}
