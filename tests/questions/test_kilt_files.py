"""Reading questions and predictions: which rows are accepted, and the error, with file and line, for the others."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from memstore.errors import DataError, DataNotFound, DataUnreadable, PredictionMismatch
from memstore.evaluate import GoldQuestion, Prediction, align, read_gold, read_predictions

GOLD = '{"id": "a", "input": "who?", "output": [{"answer": "x", "provenance": [{"wikipedia_id": "1"}]}]}'
GUESS = '{"id": "a", "output": [{"answer": "x"}]}'


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def output(*outputs: Any) -> str:
    return json.dumps({"id": "b", "output": list(outputs)})


def test_gold(tmp_path: Path) -> None:
    rows = [
        GOLD,
        "",
        json.dumps(
            {
                "id": 7,
                "meta": {"any": "thing"},
                "output": [
                    {"answer": " 26 ", "provenance": [{"wikipedia_id": 5, "title": "T"}, {"wikipedia_id": " 5 "}]},
                    {"answer": 26},
                    {"answer": None, "provenance": [{"wikipedia_id": "6", "start_paragraph_id": 3}]},
                    {"answer": "", "provenance": []},
                    {"meta": {}},
                    {"answer": "twenty-six"},
                ],
            }
        ),
    ]
    gold = read_gold(write(tmp_path / "gold.jsonl", *rows))
    one, two, nothing = frozenset("5"), frozenset("6"), frozenset[str]()
    assert gold.page_key == "wikipedia_id"
    assert gold.questions == (
        GoldQuestion(id="a", input="who?", answers=("x",), evidence=(frozenset("1"),), line=1),
        GoldQuestion(
            id="7", input="", answers=("26", "twenty-six"), evidence=(one, two, nothing), titles=("T",), line=3
        ),
    )


def test_a_title_of_white_space_is_none(tmp_path: Path) -> None:
    """Otherwise it would be compared in place of the page's id."""
    row = output({"answer": "x", "provenance": [{"wikipedia_id": "1", "title": t} for t in (" ", "", None, "T")]})
    (question,) = read_gold(write(tmp_path / "gold.jsonl", row)).questions
    assert (question.titles, question.evidence) == (("T",), (frozenset("1"),))


def test_predictions(tmp_path: Path) -> None:
    provenance = [{"wikipedia_id": "2"}, {"title": "T"}, {"wikipedia_id": 1}, {"wikipedia_id": "2"}]
    rows = [GUESS, output({"answer": "", "provenance": provenance})]
    assert read_predictions(write(tmp_path / "guess.jsonl", *rows), page_key="wikipedia_id") == (
        Prediction(id="a", answer="x", pages=(), line=1),
        Prediction(id="b", answer="", pages=("2", "1"), line=2),
    )


@pytest.mark.parametrize(
    ("provenance", "key"),
    [
        ({"wikipedia_id": "1", "title": "One"}, "wikipedia_id"),
        ({"wikipedia_id": None, "title": "One"}, "title"),
        ({"title": "One"}, "title"),
        (None, "wikipedia_id"),
    ],
)
def test_pages_are_named_as_the_questions_name_them(
    tmp_path: Path, provenance: dict[str, str | None] | None, key: str
) -> None:
    row = output({"answer": "x"} | ({"provenance": [provenance]} if provenance else {}))
    gold = read_gold(write(tmp_path / "gold.jsonl", row))
    assert gold.page_key == key
    assert gold.questions[0].evidence == ((frozenset([provenance[key]]),) if provenance else ())


def test_pages_are_named_by_the_key_that_is_given(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gold.jsonl", output({"answer": "x", "provenance": [{"wikipedia_id": "1", "title": "One"}]})
    )
    assert read_gold(path, page_key="title").questions[0].evidence == (frozenset(["One"]),)


BAD_ROWS = {
    "cut off": (GOLD[:-9], "not JSON"),
    "nested too deeply": ("[" * 100_000, "not JSON"),
    "no object": ('["a"]', 'a row must be a JSON object, not ["a"]'),
    "another form": ('{"id": "1", "question": "who?", "answer": "Ann"}', "not in KILT's form"),
    "no id": ('{"output": []}', "the row has no `id`"),
    "empty id": ('{"id": " ", "output": []}', "the row has no `id`"),
    "odd id": ('{"id": ["b"], "output": []}', '`id` must be a string, not ["b"]'),
    "id again": (GOLD, "id 'a' again: line 1 has it too"),
    "odd input": ('{"id": "b", "input": {}, "output": []}', "`input` must be a string, not {}"),
    "odd outputs": ('{"id": "b", "output": {"answer": "x"}}', "`output` must be a list of objects"),
    "odd output": (output("x"), "`output` must be a list of objects"),
    "odd answer": (output({"answer": ["x"]}), '`answer` must be a string, not ["x"]'),
    "true": (output({"answer": True}), "`answer` must be a string, not true"),
    "odd provenance": (output({"answer": "x", "provenance": "1"}), "`provenance` must be a list of objects"),
    "a page of a table with gaps": (
        output({"answer": "x", "provenance": [{"wikipedia_id": 13.0}]}),
        '`wikipedia_id` is 13.0, which is not equal to the text "13"; write 13, or the text in quotes',
    ),
    "a page that is missing": (
        output({"answer": "x", "provenance": [{"wikipedia_id": float("nan")}]}),
        "`wikipedia_id` is NaN, which is no finite number",
    ),
    "half a page": (
        output({"answer": "x", "provenance": [{"wikipedia_id": 1.5}]}),
        "`wikipedia_id` must be a string or a whole number, not 1.5",
    ),
    "an id of a table with gaps": ('{"id": 7.0, "output": []}', '`id` is 7.0, which is not equal to the text "7"'),
    "an answer that is missing": (output({"answer": float("nan")}), "`answer` is NaN, which is no finite number"),
    "an endless answer": (output({"answer": float("-inf")}), "`answer` is -Infinity, which is no finite number"),
    "an answer of a table with gaps": (
        output({"answer": 1903.0}),
        '`answer` is 1903.0, which is not equal to the text "1903"',
    ),
    "odd page": (output({"answer": "x", "provenance": [{"wikipedia_id": ["1"]}]}), "`wikipedia_id` must be a string"),
}
BAD_GOLD = BAD_ROWS | {
    "no output": ('{"id": "b"}', "the question has no answer"),
    "no answer": (output({"provenance": [{"wikipedia_id": "1"}]}, {"answer": " "}), "the question has no answer"),
    "no page": (output({"answer": "x", "provenance": [{"title": "T"}]}), "provenance without `wikipedia_id`"),
    "null page": (output({"answer": "x", "provenance": [{"wikipedia_id": None}]}), "provenance without `wikipedia_id`"),
}
BAD_PREDICTIONS = BAD_ROWS | {
    "no output": ('{"id": "b"}', "exactly one output, not 0"),
    "two outputs": (output({"answer": "x"}, {"answer": "y"}), "exactly one output, not 2"),
    "no answer": (output({"provenance": []}), "the prediction has no answer"),
    "null answer": (output({"answer": None}), "the prediction has no answer"),
    "null page": (output({"answer": "x", "provenance": [{"wikipedia_id": None}]}), "with an empty `wikipedia_id`"),
    "empty page": (output({"answer": "x", "provenance": [{"wikipedia_id": " "}]}), "with an empty `wikipedia_id`"),
    "pages by title": (output({"answer": "x", "provenance": [{"title": "T"}]}), "no provenance in this file has"),
}


def test_numbers_that_are_texts(tmp_path: Path) -> None:
    """A fraction is an answer; in quotes anything is, `13.0` too."""
    row = output({"answer": 3.14, "provenance": [{"wikipedia_id": "13.0"}]}, {"answer": "26.0"}, {"answer": "NaN"})
    [question] = read_gold(write(tmp_path / "gold.jsonl", row)).questions
    assert question.answers == ("3.14", "26.0", "NaN")
    assert question.evidence == (frozenset(["13.0"]),)


@pytest.mark.parametrize("case", BAD_GOLD)
def test_bad_gold(tmp_path: Path, case: str) -> None:
    row, message = BAD_GOLD[case]
    path = write(tmp_path / "gold.jsonl", GOLD, "", row)
    with pytest.raises(DataError) as raised:
        read_gold(path)
    assert str(raised.value).startswith(f"{path}:3: {message}")
    assert (raised.value.path, raised.value.line) == (path, 3)


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_bad_predictions(tmp_path: Path, case: str) -> None:
    row, message = BAD_PREDICTIONS[case]
    path = write(tmp_path / "guess.jsonl", GUESS, "", row)
    with pytest.raises(DataError) as raised:
        read_predictions(path, page_key="wikipedia_id")
    assert str(raised.value).startswith(f"{path}:3: ")
    assert message in str(raised.value)


def test_bad_utf8(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_bytes(GOLD.encode() + b'\n{"id": "\xff"}')
    with pytest.raises(DataError, match=r"gold\.jsonl:2: not UTF-8 at byte 8"):
        read_gold(path)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_no_questions(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="the file holds no questions"):
        read_gold(path)


LONG = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=30, hash_log=6))
STREAM = LONG.compressobj()  # a stream, whose length is not known at first, declares its whole window: 1 GiB
PACKED = {
    "zstd --long=30": STREAM.compress(b"\n")
    + STREAM.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    + STREAM.compress(GOLD.encode())
    + STREAM.flush(),
    "gzip": gzip.compress(GOLD.encode()),
    "zstd": zstandard.compress(GOLD.encode()),
    "zstd frames": zstandard.compress(GOLD[:30].encode()) + zstandard.compress(GOLD[30:].encode()),
    "byte order mark": b"\xef\xbb\xbf" + GOLD.encode(),
    "CRLF": GOLD.encode() + b"\r\n",
}


@pytest.mark.parametrize("how", PACKED)
def test_packed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "gold"
    path.write_bytes(PACKED[how])
    assert [question.id for question in read_gold(path).questions] == ["a"]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_cut_off(tmp_path: Path, how: str) -> None:
    path = tmp_path / "gold"
    path.write_bytes(PACKED[how][:-4])
    with pytest.raises(DataUnreadable, match="cannot be read"):
        read_gold(path)


def test_missing_is_not_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no file"):
        read_gold(tmp_path / "none.jsonl")
    with pytest.raises(DataUnreadable, match="cannot be read"):
        read_gold(tmp_path)


def rows(*ids: str) -> list[str]:
    return [json.dumps({"id": name, "output": [{"answer": "x"}]}) for name in ids]


@pytest.mark.parametrize(
    ("asked", "given", "where", "message"),
    [
        ("abc", "ab", "gold.jsonl:3", "question 'c' has no prediction in GUESS"),
        ("abc", "b", "gold.jsonl:1", "question 'a' has no prediction in GUESS, nor have 1 more questions"),
        ("abc", "", "gold.jsonl:1", "question 'a' has no prediction in GUESS, nor have 2 more questions"),
        ("a", "xa", "guess.jsonl:1", "no question in GOLD has id 'x'"),
        ("a", "axyz", "guess.jsonl:2", "no question in GOLD has id 'x', nor those of 2 more predictions"),
        ("ab", "ax", "guess.jsonl:2", "no question in GOLD has id 'x'"),
    ],
)
def test_questions_and_predictions_must_match(tmp_path: Path, asked: str, given: str, where: str, message: str) -> None:
    gold = read_gold(write(tmp_path / "gold.jsonl", *rows(*asked)))
    path = write(tmp_path / "guess.jsonl", *rows(*given))
    with pytest.raises(PredictionMismatch) as raised:
        align(gold, read_predictions(path, page_key="wikipedia_id"), path=path)
    expected = message.replace("GOLD", str(gold.path)).replace("GUESS", str(path))
    assert str(raised.value) == f"{tmp_path / where}: {expected}"
