"""A corpus as a whole: order, folders, counts, limits, iterating again, and how much of a file is read."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from memstore.errors import CorpusFormatError, CorpusNotFound
from memstore_builders.corpus import CorpusCounts, open_corpus


def document(document_id: str, text: str) -> str:
    return json.dumps({"id": document_id, "title": document_id.upper(), "text": text}) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two documents of two passages each (at 3 words), and an empty one between them."""
    path = tmp_path / "c.jsonl"
    path.write_text(document("a", "A one. A two.") + document("e", " \n") + document("b", "B one. B two."))
    return path


def test_passages_come_in_file_order_and_never_cross_documents(path: Path) -> None:
    passages = list(open_corpus([path], max_words=3))
    assert [(p.id, p.title, p.text, p.start, p.end) for p in passages] == [
        ("a:0", "A", "A one.", 0, 6),
        ("a:1", "A", "A two.", 7, 13),
        ("b:0", "B", "B one.", 0, 6),
        ("b:1", "B", "B two.", 7, 13),
    ]
    assert [p.id for p in open_corpus([path], max_words=100)] == ["a:0", "b:0"]  # room enough, yet two


def test_iterating_again_starts_again(path: Path) -> None:
    corpus = open_corpus([path], max_words=3)
    assert corpus.counts == CorpusCounts()
    first = list(corpus)
    assert corpus.counts == CorpusCounts(documents=3, documents_empty=1, passages=4)
    next(iter(corpus))
    assert corpus.counts == CorpusCounts(documents=1, passages=1)
    assert list(corpus) == first
    assert corpus.counts == CorpusCounts(documents=3, documents_empty=1, passages=4)


@pytest.mark.parametrize(
    ("limit", "expected", "documents"),
    [(0, [], 0), (1, ["a:0"], 1), (3, ["a:0", "a:1", "b:0"], 3), (9, ["a:0", "a:1", "b:0", "b:1"], 3)],
)
def test_limit_is_in_passages(path: Path, limit: int, expected: list[str], documents: int) -> None:
    corpus = open_corpus([path], max_words=3, limit=limit)
    for _ in range(2):
        assert [p.id for p in corpus] == expected
        assert (corpus.counts.passages, corpus.counts.documents) == (len(expected), documents)


def test_a_limit_stops_before_the_rows_after_it(path: Path) -> None:
    with path.open("a") as file:
        file.write("broken\n")
    assert len(list(open_corpus([path], max_words=3, limit=4))) == 4


def test_ready_passages_are_taken_as_they_are_and_counted_by_document(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [
        ("1", "d", "One. " * 50),
        ("2", "d", "Two."),
        ("3", "e", ""),
        ("4", "e", "Four."),
        ("5", "d", "Five."),
    ]
    path.write_text("".join(json.dumps({"id": i, "document_id": d, "text": t}) + "\n" for i, d, t in rows))
    corpus = open_corpus([path], max_words=3)
    assert [(p.id, p.text) for p in corpus] == [(i, t) for i, _, t in rows if t]
    assert corpus.counts == CorpusCounts(documents=3, documents_empty=1, passages=4)


def test_a_folder_is_every_file_below_it_sorted(tmp_path: Path) -> None:
    for name in ["AB/wiki_00", "AA/wiki_01", "AA/wiki_00", "AA/.hidden", ".git/config"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'<doc id="{name}" url="" title="T">\nText.\n</doc>\n')
    (tmp_path / "AA/wiki_02").write_bytes(gzip.compress(document("json", "Text.").encode()))
    (tmp_path / "AA/wiki_03").touch()
    corpus = open_corpus([tmp_path])
    expected = ["AA/wiki_00", "AA/wiki_01", "json", "AB/wiki_00"]
    assert [p.document_id for p in corpus] == expected
    assert {str(p.relative_to(tmp_path)): name for p, name in corpus.formats.items()} == {
        "AA/wiki_00": "wikiextractor",
        "AA/wiki_01": "wikiextractor",
        "AA/wiki_02": "jsonl",
        "AA/wiki_03": "empty",
        "AB/wiki_00": "wikiextractor",
    }


def test_several_paths_are_read_in_the_order_given(tmp_path: Path, path: Path) -> None:
    first = tmp_path / "z.jsonl"
    first.write_text(document("z", "Z."))
    assert [p.id for p in open_corpus([first, path])] == ["z:0", "a:0", "b:0"]


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(CorpusNotFound, match="there are no files in this folder"):
        open_corpus([tmp_path])


def test_a_pipe_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusFormatError, match="is neither a file nor a folder"):
        open_corpus([tmp_path / "pipe"])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    row = document("a", "Some words in a sentence. " * 40)
    path.write_text(row * 2_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_corpus([path], format="jsonl")) == 2_000 * 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10
