"""A corpus is known by what it says: a changed one is never "built already", and `--rebuild` builds it again."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memstore.errors import ConfigError, CorpusError
from memstore.retrieve.open import open_retriever
from memstore.store import Generation, Store, publish, remove_other_generations
from memstore_builders import segments as segments_module
from memstore_builders.build import build
from memstore_builders.content import ContentHash, same_content
from memstore_builders.job import BuildOptions
from memstore_builders.progress import Silent
from memstore_builders.state import lock
from memstore_builders.verify import verify
from tests import tiny

YEAR = ("1853", "1953")


def write(path: Path, *, year: str = YEAR[0], documents: int = 40) -> Path:
    rows = [{"id": f"d{i}", "title": "Nile", "text": f"the river was born in {year} . {i}"} for i in range(documents)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildOptions:
    """Three segments."""
    monkeypatch.setattr(segments_module, "SHARD_PASSAGES", (16, 16))
    model = str(tiny.save_checkpoint(tmp_path / "model"))
    return BuildOptions(
        corpus=(write(tmp_path / "c.jsonl"),), out=tmp_path / "store", model=model, dtype="float32", segment_passages=16
    )


def texts(store: Path) -> str:
    opened = Store.open(store)
    return " ".join(p.text for p in opened.passages(opened.ids(range(len(opened)))))


def names(store: Path) -> list[str]:
    return sorted(p.relative_to(store).as_posix() for p in store.glob("*/*") if not p.name.endswith(".ids.npy"))


def refused(options: BuildOptions, how: str) -> None:
    with pytest.raises(ConfigError, match=f"{how}.*choose another --out, or --rebuild"):
        build(options)


def test_a_changed_corpus_of_the_same_name_and_size_is_not_built_already(options: BuildOptions, tmp_path: Path) -> None:
    [path] = options.corpus
    build(options)
    before = path.stat()
    write(path, year=YEAR[1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    refused(options, "of the corpus as it was before it changed, though its name and size are the same")
    assert YEAR[1] not in texts(options.out)
    refused(replace(options, corpus=(write(tmp_path / "other" / "c.jsonl", year="1066"),)), "before it changed")


def test_the_same_corpus_elsewhere_or_touched_is_built_already(options: BuildOptions, tmp_path: Path) -> None:
    build(options)
    [path] = options.corpus
    os.utime(path, (1, 1))
    assert build(options).already_built
    assert build(replace(options, corpus=(write(tmp_path / "other" / "c.jsonl"),))).already_built


def test_rebuild_makes_what_a_new_build_makes_and_leaves_nothing_of_the_old(options: BuildOptions) -> None:
    [path] = options.corpus
    build(options)
    old = names(options.out)
    write(path, year=YEAR[1])
    report = build(replace(options, rebuild=True))
    assert not report.already_built
    assert (YEAR[0] in texts(options.out), YEAR[1] in texts(options.out)) == (False, True)
    assert (Store.open(options.out).generation.number, set(names(options.out)) & set(old)) == (2, set())
    assert sorted(p.name for p in options.out.iterdir()) == [
        ".lock", "CURRENT", "generations", "index", "lookups", "segments",
    ]  # fmt: skip
    assert verify(options.out).sound
    fresh = replace(options, out=options.out.with_name("fresh"))
    build(fresh)
    found = [open_retriever(Store.open(out)).search(["river 17"], 5) for out in (options.out, fresh.out)]
    assert found[0] == found[1]
    assert build(options).already_built
    assert build(replace(options, rebuild=True)).passages == 40  # as asked, though nothing changed
    assert Store.open(options.out).generation.number == 3


def test_rebuild_takes_other_settings_and_a_bad_corpus_loses_nothing(options: BuildOptions) -> None:
    [path] = options.corpus
    build(options)
    path.write_text(path.read_text() + "broken\n")
    with pytest.raises(CorpusError, match=r"c\.jsonl:41: "):
        build(replace(options, codec="bf16", rebuild=True))
    assert Store.open(options.out).generation.codec == "int8"
    assert verify(options.out).sound
    write(path)
    build(replace(options, codec="bf16", rebuild=True))
    assert Store.open(options.out).generation.codec == "bf16"


def test_rebuild_of_nothing_is_a_build(options: BuildOptions) -> None:
    assert build(replace(options, rebuild=True)).passages == 40
    assert Store.open(options.out).generation.number == 1


class KilledAt(Silent):
    """Dies at the end of a stage."""

    def __init__(self, stage: str) -> None:
        self._at, self._now = stage, ""

    def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
        self._now = stage

    def end(self) -> None:
        if self._now == self._at:
            raise KeyboardInterrupt


def test_a_killed_rebuild_leaves_the_old_store_in_force_and_goes_on(options: BuildOptions) -> None:
    [path] = options.corpus
    build(options)
    write(path, year=YEAR[1])
    again = replace(options, rebuild=True)
    for stage in ("read", "encode", "index"):
        with pytest.raises(KeyboardInterrupt):
            build(again, KilledAt(stage))
        assert YEAR[0] in texts(options.out)
        assert verify(options.out).sound
    with lock(options.out / ".build"):  # while another process goes on with it
        refused(options, "before it changed")
    write(path)
    assert build(options).already_built
    assert (options.out / ".build").exists()  # what it had made is not lost
    write(path, year=YEAR[1])
    assert build(again).resumed_segments == 3
    assert YEAR[1] in texts(options.out)
    assert not (options.out / ".build").exists()


def test_a_rebuild_killed_after_it_was_published_is_finished(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = options.corpus
    build(options)
    write(path, year=YEAR[1])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("memstore_builders.build.remove_other_generations", killed)
        with pytest.raises(KeyboardInterrupt):
            build(replace(options, rebuild=True))
    assert len(list((options.out / "segments").iterdir())) == 6
    assert build(options).already_built
    assert len(list((options.out / "segments").iterdir())) == 3
    assert verify(options.out).sound


@pytest.mark.parametrize(("stage", "sealed"), [("read", 0), ("encode", 3)])
def test_an_unfinished_build_of_a_corpus_that_changed_is_not_resumed(
    options: BuildOptions, stage: str, sealed: int
) -> None:
    [path] = options.corpus
    with pytest.raises(KeyboardInterrupt):
        build(options, KilledAt(stage))
    write(path, year=YEAR[1])
    if sealed:
        refused(options, "an unfinished build of the corpus as it was before it changed")
        options = replace(options, rebuild=True)
    report = build(options)
    assert report.resumed_segments == 0
    assert (YEAR[0] in texts(options.out), YEAR[1] in texts(options.out)) == (False, True)
    assert verify(options.out).sound


def test_an_unfinished_build_goes_on_where_the_corpus_was_only_touched(options: BuildOptions) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(options, KilledAt("encode"))
    write(options.corpus[0])
    assert build(options).resumed_segments == 3


def test_rebuild_begins_again_where_other_settings_are_unfinished(options: BuildOptions) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(options, KilledAt("encode"))
    refused(replace(options, codec="bf16"), "settings.codec: was 'int8', is 'bf16'")
    assert build(replace(options, codec="bf16", rebuild=True)).resumed_segments == 0
    assert len(list((options.out / "segments").iterdir())) == 3


def test_with_a_limit_what_lies_after_it_is_not_compared(options: BuildOptions) -> None:
    options = replace(options, limit=10)
    [path] = options.corpus
    build(options)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:30], *(line.replace("1853", "1953") for line in lines[30:])]))
    assert build(options).already_built
    path.write_text("".join([lines[0].replace("1853", "1953"), *lines[1:]]))
    refused(options, "before it changed")


def test_a_store_that_does_not_know_what_it_read_is_reported(options: BuildOptions) -> None:
    build(options)
    store = Store.open(options.out)
    older = replace(store.generation, number=2, source={}, index=None, ids=None)
    shutil.copytree(options.out / "index/000001", options.out / "index/000002")
    publish(options.out, replace(older, index=store.generation.index))
    refused(options, "of a version of memstore that did not keep what the corpus said")


# --- parts ---------------------------------------------------------------------------------------------------


def changed(text: str) -> dict[str, Callable[[list[Path]], object]]:
    return {
        "a letter": lambda files: files[1].write_text(text.replace("b", "c")),
        "a line more": lambda files: files[1].write_text(text + "d\n"),
        "a line less": lambda files: files[1].write_text(text[:-2]),
        "a line moved on": lambda files: (files[0].write_text(text[:-2]), files[1].write_text(text[-2:] + text)),
        "no last line feed": lambda files: files[1].write_text(text[:-1]),
        "a file less": lambda files: files.pop(),
        "a file more": lambda files: files.append(files[0]),
        "another order": lambda files: files.reverse(),
    }


@pytest.mark.parametrize("change", changed(""))
def test_content(tmp_path: Path, change: str) -> None:
    text = "a\nb\nc\n"
    files = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    for path, content in zip(files, (text, text, "\n"), strict=True):
        path.write_text(content)
    read = ContentHash()
    for path in files:
        assert list(read.read(path))
    known = read.content
    assert (known.files, known.lines) == (3, 7)
    assert same_content(files, known, whole=True)
    files[1].write_bytes(gzip.compress(text.encode()))
    assert same_content(files, known, whole=True)
    changed(text)[change](files)
    assert not same_content(files, known, whole=True)


def test_content_of_what_was_left_in_the_middle(tmp_path: Path) -> None:
    for name in "01":
        (tmp_path / name).write_text("a\nb\nc\n")
    files = [tmp_path / "0", tmp_path / "1"]
    read = ContentHash()
    assert len(list(read.read(files[0]))) == 3
    lines = read.read(files[1])
    next(lines)
    lines.close()
    known = read.content
    assert (known.files, known.lines) == (1, 4)
    files[1].write_text("a\nx\n")
    assert same_content(files, known, whole=False)
    files[1].write_text("x\na\n")
    assert not same_content(files, known, whole=False)


def test_what_generations_share_and_what_cannot_be_read_stays(options: BuildOptions) -> None:
    build(options)
    store = Store.open(options.out)
    second = publish(options.out, replace(store.generation, number=2, index=None, ids=None))
    (options.out / "generations/000009.json").write_text("{}")
    (options.out / "segments/mine").mkdir()
    remove_other_generations(options.out, second)
    assert (options.out / "generations/000001.json").exists()  # a reader has it
    store.close()
    remove_other_generations(options.out, second)
    assert isinstance(second, Generation)
    assert sorted(p.name for p in (options.out / "generations").iterdir()) == [
        "000002.ids.npy", "000002.json", "000009.json",
    ]  # fmt: skip
    assert len(list((options.out / "segments").iterdir())) == 4
    assert len(Store.open(options.out)) == 40
