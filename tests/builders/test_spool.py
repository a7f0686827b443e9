"""The first pass over a corpus: every passage once, in order; duplicates and clashing ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memstore.errors import ConfigError, CorpusUnreadable, DiskSpaceError, StoreFormatError
from memstore_builders import spool as spool_module
from memstore_builders.corpus import open_corpus
from memstore_builders.spool import Spool, write_spool


def corpus(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(id_: str, text: str, title: str = "T") -> dict[str, str]:
    return {"id": id_, "document_id": "d", "title": title, "text": text}


def spool(tmp_path: Path, rows: list[dict[str, str]], **options: object) -> Spool:
    source = open_corpus([corpus(tmp_path / "c.jsonl", rows)], format="passages", **options)  # type: ignore[arg-type]
    return write_spool(source, tmp_path / "spool")


def test_passages_come_back_in_order_and_by_range(tmp_path: Path) -> None:
    made = spool(tmp_path, [row(f"p{i}", f"text {i} ünï 北京") for i in range(10)])
    assert [p.id for p in made.read(0, 10)] == [f"p{i}" for i in range(10)]
    assert [p.text for p in made.read(3, 5)] == ["text 3 ünï 北京", "text 4 ünï 北京"]
    assert [p.id for p in made.read(8, 99)] == ["p8", "p9"]
    assert [p.id for p in made.sample(3)] == ["p0", "p4", "p9"]


def test_exact_duplicates_are_stored_once_and_the_first_stays(tmp_path: Path) -> None:
    rows = [row("a", "same"), row("b", "other"), row("c", "same"), row("d", "same"), row("e", "same", title="U")]
    made = spool(tmp_path, rows)
    assert [p.id for p in made.read(0, 9)] == ["a", "b", "e"]
    assert (made.counts.passages, made.counts.duplicates) == (3, 2)
    assert made.counts.characters == sum(len(p.title) + len(p.text) for p in made.read(0, 9))


def test_the_same_passage_twice_is_a_duplicate_but_one_id_for_two_texts_is_an_error(tmp_path: Path) -> None:
    assert spool(tmp_path, [row("a", "same"), row("a", "same")]).counts.duplicates == 1
    with pytest.raises(ConfigError, match=r"two different passages have the id 'a' .* passages 1 and 3"):
        spool(tmp_path, [row("a", "one"), row("b", "two"), row("a", "three")])


def test_the_same_letters_parted_elsewhere_are_no_duplicate(tmp_path: Path) -> None:
    assert len(spool(tmp_path, [row("a", "c", title="ab"), row("b", "bc", title="a")])) == 2


def test_offsets_are_written_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_FLUSH_ROWS", 2)
    found = spool(tmp_path, [row(f"d{i}", f"text {i}") for i in range(5)])
    assert [p.text for p in found.read(0, 9)] == [f"text {i}" for i in range(5)]


def test_duplicates_are_found_across_many_passages(tmp_path: Path) -> None:
    """Enough of them that every hash partition holds some."""
    rows = [row(f"p{i}", f"text {i % 700}") for i in range(1000)]
    made = spool(tmp_path, rows)
    assert [p.id for p in made.read(0, 1000)] == [f"p{i}" for i in range(700)]
    assert made.counts.duplicates == 300


def test_a_bad_row_that_is_skipped_shifts_nothing(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c.jsonl", [row("a", "one"), row("b", "two")])
    path.write_text(path.read_text() + "not json\n" + json.dumps(row("c", "three")) + "\n")
    made = write_spool(open_corpus([path], format="passages", on_error="skip"), tmp_path / "spool")
    assert [p.id for p in made.read(0, 9)] == ["a", "b", "c"]
    assert made.counts.rows_skipped == 1
    assert "c.jsonl:3" in made.counts.errors[0]


def test_an_unfinished_spool_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError, match="no finished spool"):
        Spool(tmp_path)


def test_an_empty_corpus_gives_an_empty_spool(tmp_path: Path) -> None:
    made = spool(tmp_path, [])
    assert len(made) == 0
    assert made.sample(5) == []


def test_a_full_disk_is_reported_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        DiskSpaceError, match=r"no room is left in .*spool \(No space left on device\): free some space"
    ):
        spool(tmp_path, [row(f"p{i}", f"text {i}") for i in range(10)])


def test_a_short_write_of_numpy_is_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object) -> None:
        raise OSError("10 requested and 0 written")

    monkeypatch.setattr("numpy.save", save)
    with pytest.raises(DiskSpaceError, match="10 requested and 0 written"):
        spool(tmp_path, [row("a", "one")])


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "spool" / "spool.jsonl").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"spool cannot be written \(Is a directory\): choose another folder"):
        spool(tmp_path, [row("a", "one")])


def test_errors_of_the_corpus_stay_what_they_are(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c.jsonl", [row("a", "one")])
    opened = open_corpus([path])
    path.unlink()
    with pytest.raises(CorpusUnreadable):  # an OSError as well
        write_spool(opened, tmp_path / "spool")
