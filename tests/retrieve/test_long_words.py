"""Words of any length are found by BM25; an index from before is searched as it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tantivy

from memstore.errors import IndexCorrupt
from memstore.retrieve import lexical
from memstore.retrieve.lexical import MAX_WORD_CHARACTERS, Bm25Retriever, build_bm25
from memstore.retrieve.terms import Texts
from memstore.retrieve.unspaced import cut_words
from tests.retrieve.retrieve_cases import hits_of, passage

LONG = {
    "SHA-1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "SHA-512": "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f",
    "Russian": "достопримечательности",
    "Georgian": "გაუმჯობესებისათვის",
    "Greek": "ηλεκτροεγκεφαλογραφήματα",
    "German": "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
    "Tamil": "நிலைநிறுத்தப்பட்டவர்களுக்கு",
    "URL": "https://example.org/archive/thecompletelistofallsteamenginesbuiltbeforenineteenhundred?page=3",
    "as long as is indexed whole": "z" * MAX_WORD_CHARACTERS,
    "one letter longer": "y" * (MAX_WORD_CHARACTERS + 1),
    "a sequence of DNA": "ACGTTGCA" * 1000,
    "beyond Tantivy's own limit": "q" * 70_000,
}
PASSAGES = [passage(row, "", f"Here is {word}, in a sentence.") for row, word in enumerate(LONG.values())]


def found(retriever: Bm25Retriever, question: str) -> list[str]:
    return [hit.passage_id for hit in retriever.search([question], 20)[0]]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Bm25Retriever:
    folder = tmp_path_factory.mktemp("long") / "ix"
    build_bm25(folder, PASSAGES)
    return Bm25Retriever(folder, hits_of(PASSAGES))


@pytest.mark.parametrize("name", LONG)
def test_a_long_word_is_found(retriever: Bm25Retriever, name: str) -> None:
    row = list(LONG).index(name)
    assert found(retriever, f"What of {LONG[name]}?") == [f"p{row}"]
    assert found(retriever, LONG[name].upper()) == [f"p{row}"]


def test_a_long_word_in_a_title_is_found(tmp_path: Path) -> None:
    passages = [passage(0, LONG["Russian"], ""), passage(1, LONG["SHA-1"], "")]
    build_bm25(tmp_path / "ix", passages)
    assert found(Bm25Retriever(tmp_path / "ix", hits_of(passages)), LONG["SHA-1"]) == ["p1"]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("", ""),
        ("abc ab", "abc ab"),
        ("abcd", "abc d"),
        ("abcdefgh", "abc def gh"),
        ("abcdef", "abc def"),
        ("-abcd_abcd", "-abc d_abc d"),
        ("xy abcd\nabcd", "xy abc d\nabc d"),
        ("дом дома", "дом дом а"),
    ],
)
def test_words_are_cut_from_their_beginning(text: str, cut: str) -> None:
    assert cut_words(text, 3) == cut


def old_index(folder: Path, monkeypatch: pytest.MonkeyPatch, *, settings: dict[str, object]) -> Bm25Retriever:
    """An index as it was made when terms of 40 bytes or more were dropped."""
    passages = [passage(0, "", f"nile {LONG['SHA-1']}"), passage(1, "", "nile " + "x" * 39)]
    with monkeypatch.context() as patch:
        patch.setattr(lexical, "_TEXTS", Texts(spaced=True, max_word=None))
        build_bm25(folder, passages)
    path = folder / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return Bm25Retriever(folder, hits_of(passages))


def test_an_index_from_before_is_searched_as_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = old_index(tmp_path / "ix", monkeypatch, settings={})
    assert "max_word" not in json.loads((tmp_path / "ix" / "settings.json").read_text())
    assert found(retriever, "x" * 39) == ["p1"]
    assert found(retriever, LONG["SHA-1"]) == []
    assert len(found(retriever, "nile")) == 2
    analyzer = Texts(spaced=True, max_word=None).analyzer()
    assert analyzer.analyze("y" * 39 + " " + "y" * 40) == ["y" * 39]


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "255", None])
def test_a_length_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    with pytest.raises(IndexCorrupt, match="not of this version"):
        old_index(tmp_path / "ix", monkeypatch, settings={"max_word": value})


def test_the_length_is_that_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version may cut elsewhere: an index keeps its own length, and its questions are cut by it."""
    with monkeypatch.context() as patch:
        patch.setattr(lexical, "_TEXTS", Texts(spaced=True, max_word=4))
        build_bm25(tmp_path / "ix", [passage(0, "", "abcdefgh")])
    retriever = Bm25Retriever(tmp_path / "ix", hits_of([passage(0, "", "")]))
    assert retriever.terms("abcdefgh") == ["abcd", "efgh"]


def test_tantivy_still_drops_what_the_cut_keeps_away_from_it() -> None:
    """Why words are cut at all: beyond 65,530 bytes Tantivy leaves a term out without a word."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text")
    index = tantivy.Index(builder.build())
    writer = index.writer(15_000_000, 1)
    writer.add_document(tantivy.Document(text="q" * 70_000))
    writer.commit()
    index.reload()
    assert index.searcher().doc_freq("text", "q" * 70_000) == 0
