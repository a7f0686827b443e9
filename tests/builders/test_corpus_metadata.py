"""Metadata in corpora: every form that has a place for them, and bad ones with their line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memstore import metadata
from memstore.errors import CorpusError, InvalidMetadata
from memstore.metadata import add_fields, checked, in_words
from memstore_builders.corpus import open_corpus
from memstore_builders.spool import write_spool

GOOD = {"lang": "en", "year": 1999, "score": 0.5, "draft": False, "tags": ["a", "b"], "none": []}


def corpus(folder: Path, *rows: object, name: str = "c.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("jsonl", {"id": "a", "text": "One. Two.", "metadata": GOOD}),
        ("jsonl", {"_id": "a", "text": "One. Two.", "metadata": GOOD}),  # BEIR's
        ("passages", {"id": "a", "document_id": "d", "text": "One.", "metadata": GOOD}),
        ("kilt", {"wikipedia_id": "1", "wikipedia_title": "T", "text": ["One."], "metadata": GOOD}),
        ("wikiextractor-json", {"id": "1", "revid": "2", "title": "T", "text": "One.", "metadata": GOOD}),
    ],
)
def test_every_form_of_json_has_a_place_for_them(tmp_path: Path, form: str, row: object) -> None:
    passages = list(open_corpus([corpus(tmp_path, row)], format=form, max_words=1))
    assert [p.metadata for p in passages] == [GOOD] * len(passages)


@pytest.mark.parametrize("nothing", [{}, {"metadata": None}, {"metadata": {}}])
def test_a_row_may_have_none(tmp_path: Path, nothing: dict[str, object]) -> None:
    [passage] = open_corpus([corpus(tmp_path, {"id": "a", "text": "One."} | nothing)])
    assert passage.metadata == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('["en"]', '"metadata" must be an object, not a list'),
        ('"en"', '"metadata" must be an object, not a string'),
        ('{"a": {"b": 1}}', "'a' must be a string, a number, a boolean or a list of strings, not an object"),
        ('{"a": null}', "not null"),
        ('{"a": ["x", 1]}', "'a' is a list, and must hold strings alone, not a number"),
        ('{"a": ["x", null]}', "must hold strings alone, not null"),
        ('{"a": [["x"]]}', "must hold strings alone, not a list"),
        ('{"a": NaN}', "'a' must be a finite number, not nan"),
        ('{"a": -Infinity}', "must be a finite number, not -inf"),
        ('{"a": 1e999}', "must be a finite number, not inf"),
        ('{"a": 9007199254740993}', "'a' is a whole number beyond 2^53, which is not exact: make it a string"),
        ('{"": 1}', "must have a name that is text, not ''"),
        ('{"\\ud800": 1}', "holds half of a surrogate pair"),
        ('{"a": "\\ud800"}', "holds half of a surrogate pair"),
        ('{"a": ["\\ud800"]}', "holds half of a surrogate pair"),
        (json.dumps({"n" * 129: 1}), "a name of 129 characters, more than 128"),
        (json.dumps({"a": "x" * 1025}), "a string of 1,025 characters, more than 1,024"),
        (json.dumps({"a": ["x"] * 257}), "'a' holds 257 strings, more than 256"),
        (json.dumps({f"f{i}": 1 for i in range(65)}), "has 65 fields, more than 64"),
        (json.dumps({f"f{i}": "x" * 1000 for i in range(9)}), "characters as JSON, more than 8,192"),
    ],
)
def test_bad_ones_are_refused_with_their_line(tmp_path: Path, value: str, message: str) -> None:
    good = {"id": "good", "text": "Good."}
    path = corpus(tmp_path, good, f'{{"id": "bad", "text": "Bad.", "metadata": {value}}}', good | {"id": "later"})
    with pytest.raises(CorpusError) as caught:
        list(open_corpus([path]))
    assert caught.value.line == 2
    assert message in str(caught.value)
    skipping = open_corpus([path], on_error="skip")
    assert [p.document_id for p in skipping] == ["good", "later"]
    assert message in skipping.counts.errors[0]


def test_what_no_json_can_say_is_refused_too() -> None:
    with pytest.raises(InvalidMetadata, match="must have a name that is text, not 1"):
        checked({1: "x"})
    with pytest.raises(InvalidMetadata, match="not null"):
        checked({"a": object()})


def test_a_collection_has_so_many_fields_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_COLLECTION_FIELDS", 3)
    rows = [{"id": str(i), "text": f"Text {i}.", "metadata": {f"f{i}": i}} for i in range(4)]
    assert write_spool(open_corpus([corpus(tmp_path, *rows[:3])]), tmp_path / "spool").counts.fields == {
        f"f{i}": ["number"] for i in range(3)
    }
    with pytest.raises(InvalidMetadata, match="more than 3 different metadata fields, such as 'f3'"):
        write_spool(open_corpus([corpus(tmp_path, *rows)]), tmp_path / "spool")


def test_fields_are_counted_with_the_kinds_of_their_values() -> None:
    fields: dict[str, tuple[metadata.Kind, ...]] = {}
    for one in ({"year": 1999, "lang": "en"}, {"year": "c. 1850"}, {"tags": ["a"], "draft": True}):
        add_fields(fields, one)
    assert fields == {"year": ("number", "string"), "lang": ("string",), "tags": ("strings",), "draft": ("boolean",)}
    assert in_words(fields) == "draft (booleans), lang (strings), tags (lists of strings), year (numbers or strings)"
    assert in_words({f"f{i:02d}": ("number",) for i in range(25)}).endswith("f19 (numbers), and 5 more")


def test_twins_with_other_metadata_are_no_duplicates(tmp_path: Path) -> None:
    """A filter for one of them must find it."""
    said = {"title": "T", "text": "The same words."}
    rows = [
        {"id": "a", **said, "metadata": {"lang": "en", "year": 1}},
        {"id": "b", **said, "metadata": {"year": 1, "lang": "en"}},
        {"id": "c", **said, "metadata": {"lang": "de", "year": 1}},
        {"id": "d", **said},
        {"id": "e", **said, "metadata": {}},
    ]
    spool = write_spool(open_corpus([corpus(tmp_path, *rows)]), tmp_path / "spool")
    kept = list(spool.read(0, 9))
    assert [p.id for p in kept] == ["a:0", "c:0", "d:0"]
    assert [p.metadata for p in kept] == [rows[0]["metadata"], rows[2]["metadata"], {}]
    records = spool.duplicates(range(3))
    assert [(d.passage.id, d.passage.metadata) for d in records] == [("b:0", rows[1]["metadata"]), ("e:0", {})]


def test_a_spool_that_an_earlier_version_left_is_read(tmp_path: Path) -> None:
    spool = write_spool(open_corpus([corpus(tmp_path, {"id": "a", "text": "One."})]), tmp_path / "spool")
    [line] = (tmp_path / "spool" / "spool.jsonl").read_text().splitlines()
    assert json.loads(line) == ["a:0", "a", "", "One.", "", 0, 4, ""]  # as it was before there were metadata
    assert [p.metadata for p in spool.read(0, 1)] == [{}]
