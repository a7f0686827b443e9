"""Question files, as training and evaluation read them: the same rows, the same errors, plain or compressed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from memstore.errors import DataError, DataNotFound, DataUnreadable
from memstore.questions.files import read_gold, read_questions
from memstore.train.data.lines import file_sha256

ROWS = [
    {"id": "a", "input": "who?", "output": [{"answer": "Ann", "provenance": [{"title": "T"}]}, {"answer": "Ann"},
                                            {"provenance": [{"title": "U"}, {"title": "T"}]}], "meta": {}},
    {"id": 7, "input": "Nile [SEP] mouth", "output": [{"answer": "sea"}, {"answer": "the sea"}]},
]  # fmt: skip
EXPECTED = [("a", "who?", ("Ann",), ("T", "U")), ("7", "Nile [SEP] mouth", ("sea", "the sea"), ())]
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
    found = list(read_questions(path))
    assert [(q.id, q.input, q.answers, q.titles) for q in found] == EXPECTED
    assert not any(question.evidence for question in found)  # nothing is scored


def test_a_number_is_an_answer_as_it_is_when_scored(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "n", "input": "when?", "output": [{"answer": 1945}, {"answer": "in 1945"}]}\n')
    assert [row.answers for row in read_questions(path)] == [("1945", "in 1945")]
    assert [question.answers for question in read_gold(path).questions] == [("1945", "in 1945")]


def test_the_hash_is_of_the_rows_not_of_the_compression(tmp_path: Path) -> None:
    for name, data in {"a": LINES[0], "b": zst(LINES[0]), "c": LINES[1]}.items():
        (tmp_path / name).write_bytes(data)
    assert file_sha256([tmp_path / "a"]) == file_sha256([tmp_path / "b"]) != file_sha256([tmp_path / "c"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "x", "input": "q", "output": [{"answer": "y", "provenance": 5}]}', "`provenance` must be a list"),
        (b'{"id": "x", "input": "q", "output": [{"answer": "y", "provenance": {"title": "T"}}]}', "must be a list"),
        (b'{"id": "x", "input": "q", "output": [{"answer": true}]}', "`answer` must be a string"),
        (b'{"id": "x", "input": "q", "output": [{"answer": null}]}', "no answer"),
        (
            b'{"id": "x", "input": "q", "output": [{"answer": NaN}, {"answer": "y"}]}',
            "`answer` is NaN, which is no finite number",
        ),
        (
            b'{"id": "x", "input": "q", "output": [{"answer": 19.0}]}',
            '`answer` is 19.0, which is not equal to the text "19"; write 19',
        ),
        (b'{"id": "x", "output": []}', "`input` is empty"),
        (b'{"id": "x", "input": " ", "output": [{"answer": "y"}]}', "`input` is empty"),
        (b'{"id": "x", "input": "q", "output": {"answer": "y"}}', "`output` must be a list"),
        (b'{"id": "x", "input": "q", "output": [{"answer": " "}]}', "no answer"),
        (b'{"id": "a", "input": "q", "output": [{"answer": "y"}]}', "id 'a' again"),
        (b'{"id": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_row_is_reported_with_file_and_line(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(LINES[0] + line + b"\n")
    with pytest.raises(DataError, match=says) as caught:
        list(read_questions(path))
    assert (caught.value.path, caught.value.line) == (path, 2)


@pytest.mark.parametrize("data", [zst(LINES[0])[:-3], gzip.compress(LINES[0])[:-9], zst(LINES[0])[:4] + b"\xff" * 9])
def test_damaged_compression_is_unreadable_not_shorter(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(DataUnreadable):
        list(read_questions(tmp_path / "t"))


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound):
        list(read_questions(tmp_path / "none"))
