"""Question files, how often tasks are drawn, which answer is trained on, where answers are found."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from memstore.errors import ConfigError, CorpusError, CorpusNotFound, CorpusUnreadable
from memstore.evaluate import read_gold
from memstore.questions.answers import holds, normalise, same_title, searchable_answers
from memstore.train.data.tasks import TaskRow, choose_answer, file_sha256, mixture, read_tasks

ROWS = [
    {"id": "a", "input": "who?", "output": [{"answer": "Ann", "provenance": [{"title": "T"}]}, {"answer": "Ann"},
                                            {"provenance": [{"title": "U"}, {"title": "T"}]}], "meta": {}},
    {"id": 7, "input": "Nile [SEP] mouth", "output": [{"answer": "sea"}, {"answer": "the sea"}]},
]  # fmt: skip
EXPECTED = [TaskRow("a", "who?", ("Ann",), ("T", "U")), TaskRow("7", "Nile [SEP] mouth", ("sea", "the sea"))]
LINES = [json.dumps(row).encode() + b"\n" for row in ROWS]
PLAIN = b"".join(LINES)
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00size"  # before each frame of pzstd


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    "data",
    [PLAIN, b"\n".join(LINES), gzip.compress(PLAIN), zst(PLAIN), zst(LINES[0]) + zst(LINES[1]),
     SKIPPED + zst(LINES[0]) + SKIPPED + zst(LINES[1]), b"\xef\xbb\xbf" + PLAIN, PLAIN.replace(b"\n", b"\r\n")],
    ids=["plain", "empty lines", "gzip", "zstd", "two zstd frames", "pzstd", "byte order mark", "CRLF"],
)  # fmt: skip
def test_rows_are_read_however_the_file_is_compressed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tasks"
    path.write_bytes(data)
    assert list(read_tasks(path)) == EXPECTED


def test_a_number_is_an_answer_as_it_is_when_scored(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "n", "input": "when?", "output": [{"answer": 1945}, {"answer": "in 1945"}]}\n')
    assert [row.answers for row in read_tasks(path)] == [("1945", "in 1945")]
    assert [question.answers for question in read_gold(path).questions] == [("1945", "in 1945")]


def test_the_hash_is_of_the_rows_not_of_the_compression(tmp_path: Path) -> None:
    for name, data in {"a": LINES[0], "b": zst(LINES[0]), "c": LINES[1]}.items():
        (tmp_path / name).write_bytes(data)
    assert file_sha256([tmp_path / "a"]) == file_sha256([tmp_path / "b"]) != file_sha256([tmp_path / "c"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "x", "input": "q", "output": [{"answer": "y", "provenance": 5}]}', '"provenance" must be a list'),
        (b'{"id": "x", "input": "q", "output": [{"answer": "y", "provenance": {"title": "T"}}]}', "must be a list"),
        (b'{"id": "x", "input": "q", "output": [{"answer": true}, {"answer": null}]}', 'has an "answer"'),
        (b'{"id": "x", "input": "q", "output": [{"answer": NaN}, {"answer": "y"}]}', 'an "answer" is no number and no'),
        (b'{"id": "x", "input": "q", "output": [{"answer": 19.0}]}', 'an "answer" is equal to no text "19"; write 19'),
        (b'{"id": "x", "output": []}', '"input"'),
        (b'{"id": "x", "input": " ", "output": [{"answer": "y"}]}', '"input"'),
        (b'{"id": "x", "input": "q", "output": {"answer": "y"}}', '"output" must be a list'),
        (b'{"id": "x", "input": "q", "output": [{"answer": " "}]}', 'has an "answer"'),
        (b'{"id": "a", "input": "q", "output": [{"answer": "y"}]}', "second row has the id 'a'"),
        (b'{"id": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_row_is_told_with_file_and_line(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(LINES[0] + line + b"\n")
    with pytest.raises(CorpusError, match=says) as caught:
        list(read_tasks(path))
    assert (caught.value.path, caught.value.line) == (path, 2)


@pytest.mark.parametrize("data", [zst(LINES[0])[:-3], gzip.compress(LINES[0])[:-9], zst(LINES[0])[:4] + b"\xff" * 9])
def test_damaged_compression_is_unreadable_not_shorter(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(CorpusUnreadable):
        list(read_tasks(tmp_path / "t"))


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CorpusNotFound):
        list(read_tasks(tmp_path / "none"))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"a": 0.5, "b": 0.5, "none": 0.0}),
        (1.0, {"a": 0.8, "b": 0.2, "none": 0.0}),
        (2.0, {"a": 2 / 3, "b": 1 / 3, "none": 0.0}),  # square roots of 400 and 100 are 20 and 10
        (float("inf"), {"a": 0.5, "b": 0.5, "none": 0.0}),
        ({"a": 1, "b": 3}, {"a": 0.25, "b": 0.75, "none": 0.0}),
        ({"b": 2, "none": 2}, {"a": 0.0, "b": 1.0, "none": 0.0}),
    ],
)
def test_mixture(weights: Any, expected: dict[str, float]) -> None:
    assert mixture({"a": 400, "b": 100, "none": 0}, weights=weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "says"),
    [({"c": 1}, "unknown task"), ({"a": -1}, "not negative"), ({"a": 0}, "no task is left"), (0.0, "above 0"),
     ({"a": "half"}, "must be numbers"), ({"a": True}, "must be numbers"), ({"a": float("nan")}, "finite")],
)  # fmt: skip
def test_impossible_mixtures(weights: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        mixture({"a": 1}, weights=weights)


def test_which_answer_is_trained_on() -> None:
    assert choose_answer([3, 1, 1], "first", 0.9) == 0
    assert choose_answer([3, 1, 1], "shortest", 0.9) == 1
    assert [choose_answer([3, 1, 1], "random", draw) for draw in (0.0, 0.34, 0.99)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick, brown\nFox!", "quick brown fox"),
        ("U.S. dollars: 1,000.50", "us dollars 100050"),
        ("the war of 1939–1945 (Europe)", "war of 1939 1945 europe"),
        ("England's king, O’Brien", "england s king obrien"),
        ("an _A_ the", ""),
        ("Ｐａｄｍé", "padmé"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_answers_are_found_as_whole_words_only() -> None:
    text = normalise("The Nile's delta: 1,000 km, near Cairo.")
    for answer, found in {"the Nile": True, "1000": True, "Cair": False, "km near": True, "Nil": False}.items():
        assert holds(text, searchable_answers([answer])) is found, answer


def test_verdicts_and_empty_answers_are_not_looked_for() -> None:
    assert searchable_answers(["SUPPORTS", "No", "The", "Nile", "the nile"]) == ["nile"]


def test_titles_are_compared_as_pages_are_named() -> None:
    assert same_title("the_Nile", "The  Nile")
    assert not same_title("The Nile", "The nile")
