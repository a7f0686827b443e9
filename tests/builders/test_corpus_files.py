"""The files of a corpus: every one is read, once, through whatever links; what cannot be read is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memstore import cli
from memstore.errors import ConfigError, CorpusFormatError, CorpusNotFound, CorpusUnreadable, MemstoreError
from memstore_builders.build import build
from memstore_builders.corpus import open_corpus
from memstore_builders.corpus_files import find_files
from memstore_builders.job import BuildOptions
from memstore_builders.plan import plan
from tests import tiny


def write(path: Path, text: str = "A river.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"id": path.stem, "title": "T", "text": text}) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    """A folder with a file, and one beside it with two more."""
    write(tmp_path / "wiki/part1/one.jsonl")
    write(tmp_path / "elsewhere/two.jsonl", "A lake.")
    write(tmp_path / "elsewhere/deep/three.jsonl", "A city.")
    return tmp_path / "wiki"


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_files(folder).files]


def test_linked_folders_and_files_are_read_under_the_names_of_their_links(wiki: Path) -> None:
    (wiki / "part2").symlink_to("../elsewhere")
    (wiki / "part0.jsonl").symlink_to(write(wiki.parent / "zero.jsonl", "A mountain."))
    assert names(wiki) == ["part0.jsonl", "part1/one.jsonl", "part2/deep/three.jsonl", "part2/two.jsonl"]
    assert [p.document_id for p in open_corpus([wiki])] == ["zero", "one", "three", "two"]


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("a/z.jsonl", "a.jsonl", "a-b/x.jsonl", "B/x.jsonl", "ab", "a/b/c", "Ä"):
        write(tmp_path / name)
    assert names(tmp_path) == [str(p) for p in sorted(map(Path, names(tmp_path)))]
    assert names(tmp_path)[:3] == ["B/x.jsonl", "a/b/c", "a/z.jsonl"]


def test_links_in_a_circle_end_and_nothing_is_read_twice(wiki: Path) -> None:
    (wiki / "part1" / "up").symlink_to(wiki)
    (wiki / "part2").symlink_to("../elsewhere")
    (wiki.parent / "elsewhere" / "back").symlink_to(wiki / "part2")
    (wiki / "latest").symlink_to("part1")
    (wiki / "zzz.jsonl").symlink_to("part1/one.jsonl")
    assert sorted(Path(name).name for name in names(wiki)) == ["one.jsonl", "three.jsonl", "two.jsonl"]


def test_hidden_links_are_left_out_whatever_they_lead_to(wiki: Path) -> None:
    (wiki / ".dead").symlink_to("nowhere")
    (wiki / ".part2").symlink_to("../elsewhere")
    assert names(wiki) == ["part1/one.jsonl"]


def dead_link(wiki: Path) -> None:
    (wiki / "part4.jsonl").symlink_to("../blobs/4f1c")


def circle(wiki: Path) -> None:
    (wiki / "part4.jsonl").symlink_to("part4.jsonl")


def pipe(wiki: Path) -> None:
    os.mkfifo(wiki / "part4.jsonl")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            dead_link,
            CorpusNotFound,
            r"this link leads to nothing \(\.\./blobs/4f1c\): restore what it led to, or remove",
        ),
        (circle, CorpusUnreadable, r"it cannot be read: Too many levels of symbolic links"),
        (pipe, CorpusFormatError, "is neither a file nor a folder"),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_what_cannot_be_followed_is_refused_with_its_path(
    wiki: Path, make: Callable[[Path], None], error: type[MemstoreError], message: str, on_error: str
) -> None:
    make(wiki)
    with pytest.raises(error, match=f"wiki/part4.jsonl: {message}"):
        open_corpus([wiki], on_error=on_error)  # type: ignore[arg-type]


def test_a_folder_closed_to_us_is_refused_with_its_path(wiki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scandir = write(wiki / "closed/three.jsonl").parent, os.scandir

    def refuse(folder: Path) -> object:
        if folder == closed:  # as the system does, the superuser aside
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusUnreadable, match=r"wiki/closed: this folder cannot be read: Permission denied"):
        open_corpus([wiki])


def test_a_path_that_the_system_does_not_look_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusUnreadable, match=r"x: it cannot be read: File name too long"):
        open_corpus([tmp_path / ("x" * 300)])

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(CorpusUnreadable, match=r"home/c: it cannot be read: Permission denied"):
        find_files(Path("/home/c"))


def test_every_command_that_reads_a_corpus_reads_the_same_files(wiki: Path, tmp_path: Path) -> None:
    (wiki / "part2").symlink_to("../elsewhere")
    options = BuildOptions(
        corpus=(wiki,), out=tmp_path / "store", model=str(tiny.save_checkpoint(tmp_path / "model")), dtype="float32"
    )
    assert plan(options).documents == build(options).documents == 3
    dead_link(wiki)
    options = BuildOptions(corpus=(wiki,), out=tmp_path / "other", model=options.model)
    for run in (plan, build):
        with pytest.raises(CorpusNotFound, match=r"part4\.jsonl: this link leads to nothing"):
            run(options)
    assert not options.out.exists()
    for command in ("questions", "tokenizer"):
        words = [command, "--corpus", str(wiki), "--out", str(tmp_path / command)]
        with pytest.raises(CorpusNotFound, match=r"part4\.jsonl: this link leads to nothing"):
            CliRunner().invoke(cli.app, words, catch_exceptions=False)


@pytest.mark.parametrize("out", ["elsewhere/store", "elsewhere/deep/store", "elsewhere"])
def test_a_store_inside_a_folder_that_a_link_of_its_corpus_leads_to_is_refused(
    wiki: Path, tmp_path: Path, out: str
) -> None:
    (wiki / "part2").symlink_to("../elsewhere")
    with pytest.raises(ConfigError, match="choose an --out outside that folder"):
        build(BuildOptions(corpus=(wiki,), out=tmp_path / out))
