"""Bad rows and bad files: each reported with file and line, none of them shifting the rows after it."""

import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard

from memstore.errors import ConfigError, CorpusError, CorpusNotFound, CorpusUnreadable
from memstore_builders import formats, streams, tsv
from memstore_builders.corpus import ERRORS_KEPT, open_corpus

GOOD = b'{"id": "good", "text": "Good."}'
GOOD_KILT = b'{"wikipedia_id": "good", "wikipedia_title": "T", "text": ["Good."]}'
GOOD_DOC = b'<doc id="good" url="" title="T">\nGood.\n</doc>'


def write(folder: Path, data: bytes, name: str = "c") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        (
            "jsonl",
            b"{broken",
            "not valid JSON: Expecting property name enclosed in double quotes at column 2",
        ),
        (
            "jsonl",
            b'{"id": "a", "text": "cut',
            "not valid JSON: Unterminated string starting at at column 21",
        ),
        ("jsonl", b'{"id": 1' + b"0" * 5000 + b', "text": "x"}', "not usable JSON"),
        ("jsonl", b"[" * 100_000, "not usable JSON"),
        ("jsonl", b'["a"]', "the row must be a JSON object, not a list"),
        ("jsonl", b"null", "the row must be a JSON object, not null"),
        ("jsonl", b'{"text": "x"}', '"id" is missing'),
        ("jsonl", b'{"id": null, "text": "x"}', '"id" is missing'),
        ("jsonl", b'{"id": " ", "text": "x"}', '"id" is empty'),
        ("jsonl", b'{"id": true, "text": "x"}', '"id" must be a string, not a boolean'),
        ("jsonl", b'{"id": 1.5, "text": "x"}', '"id" must be a string, not a number'),
        ("jsonl", b'{"id": "a"}', '"text" is missing'),
        ("jsonl", b'{"id": "a", "text": null}', '"text" must be a string, not null'),
        ("jsonl", b'{"id": "a", "text": ["x"]}', '"text" must be a string, not a list'),
        ("jsonl", b'{"id": "a", "text": "x", "title": 1984}', '"title" must be a string, not a number'),
        ("jsonl", b'{"id": "a", "text": "x", "url": {}}', '"url" must be a string, not an object'),
        ("jsonl", b'{"id": "a", "text": "\\ud83d"}', '"text" holds half of a surrogate pair'),
        ("jsonl", b'{"id": "\\udc00", "text": "x"}', '"id" holds half of a surrogate pair'),
        ("jsonl", b'{"id": "a", "text": "\xff"}', "not UTF-8: byte 0xff at offset 21 of the row"),
        ("jsonl", b"\x00\x01\x02", "not valid JSON"),
        (
            "passages",
            b'{"id": "a", "text": "four", "start": 3}',
            '"start" and "end" must both be whole numbers',
        ),
        (
            "passages",
            b'{"id": "a", "text": "four", "start": 0.0, "end": 4}',
            '"start" and "end" must both be whole',
        ),
        (
            "passages",
            b'{"id": "a", "text": "four", "start": 3, "end": 8}',
            '"start" 3 and "end" 8 do not span',
        ),
        (
            "passages",
            b'{"id": "a", "text": "four", "start": -2, "end": 2}',
            '"start" -2 and "end" 2 do not span',
        ),
        ("passages", b'{"id": "a", "text": "x", "document_id": ""}', '"document_id" is empty'),
        ("kilt", b'{"wikipedia_id": "1", "text": []}', '"wikipedia_title" is missing'),
        ("kilt", b'{"wikipedia_title": "T", "text": []}', '"wikipedia_id" is missing'),
        ("kilt", b'{"_id": "1", "wikipedia_title": "T", "text": "x"}', '"text" must be a list of paragraphs'),
        (
            "kilt",
            b'{"_id": "1", "wikipedia_title": "T", "text": ["x", 2]}',
            '"text" must be a string, not a number',
        ),
        ("wikiextractor", b"stray", "text outside of <doc ...> and </doc>"),
        ("wikiextractor", b'<doc id="a" url="">\nText.\n</doc>', "the first line must read <doc id="),
        *(
            ("wikiextractor", head + b"\nText.\n</doc>", "the first line must read <doc id=")
            for head in (
                b'<doc id="a" title="T" id="b">',
                b'<doc id="a" title="T" title="U">',
                b'<doc id="a" title="say " id="b" twice">',
                b'<doc id="a" title=T>',
                b"<doc id='a' title='T'>",
                b'<doc id="a" title="T" language>',
                b'<doc id="a" title="T">Text',
                b'<doc id="a" title="T"',
                b'<doc id="a" Title="T">',
            )
        ),
        ("wikiextractor", b'<doc url="u" title="T">\nText.\n</doc>', '"id" of the <doc> is missing or empty'),
        (
            "wikiextractor",
            b'<doc id="a" url="" title="T">\n\xff\n</doc>',
            "line 3 of the document: not UTF-8",
        ),
        (
            "wikiextractor",
            b'<doc id="a" url="" title="T">\nText.',
            "the document is not closed by </doc> before the next, on line 4",
        ),
    ],
)
def test_a_bad_row_is_reported_by_file_and_line_and_shifts_nothing(
    tmp_path: Path, format: str, row: bytes, message: str
) -> None:
    good = {"kilt": GOOD_KILT, "wikiextractor": GOOD_DOC}.get(format, GOOD)
    path = write(tmp_path, b"\n".join([b"", row, good, b""]))
    with pytest.raises(CorpusError) as caught:
        list(open_corpus([path], format=format))
    assert (caught.value.path, caught.value.line) == (path, 2)
    assert str(caught.value).startswith(f"{path}:2: {message}")

    corpus = open_corpus([path], format=format, on_error="skip")
    assert [passage.text for passage in corpus] == ["Good."]
    assert (corpus.counts.rows_skipped, corpus.counts.errors) == (1, [str(caught.value)])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"1\tText", "2 columns where 3 are needed (id, text, title)"),
        (b"1\tText\tTitle\tmore", "4 columns where 3 are needed (id, text, title)"),
        (b'1\t"Text\tTitle', "not a row of tab-separated values: unexpected end of data"),
        (b'1\t"Te"xt\tTitle', "not a row of tab-separated values: '\t' expected after '\"'"),
        (b'1\t"Te\txt', "not a row of tab-separated values"),
        (
            b"1\t" + b"x" * 200_000 + b"\tTitle",
            "not a row of tab-separated values: field larger than field limit",
        ),
        (b"\tText\tTitle", '"id" is empty'),
        (b"1\t\xff\tTitle", "not UTF-8: byte 0xff at offset 2 of the row"),
    ],
)
def test_a_bad_dpr_row_shifts_nothing(tmp_path: Path, row: bytes, message: str) -> None:
    after = [b'2\t"Say ""two""."\tB', b"3\tThree.\tC", b'4\t"Four\nlines."\tD', b""]
    path = write(tmp_path, b"\n".join([b"id\ttext\ttitle", row, *after]))
    with pytest.raises(CorpusError) as caught:
        list(open_corpus([path]))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    corpus = open_corpus([path], on_error="skip")
    assert [(p.id, p.text) for p in corpus] == [("2", 'Say "two".'), ("3", "Three."), ("4", "Four\nlines.")]
    assert corpus.counts.errors == [str(caught.value)]


def test_lines_after_a_quoted_field_keep_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, b'id\ttext\ttitle\n1\t"a\nb\nc"\tT\nbad\n2\t"never closed\tT\n3\tx\tT\n')
    corpus = open_corpus([path], on_error="skip")
    assert [p.id for p in corpus] == ["1", "3"]
    assert [error.split(": ")[0] for error in corpus.counts.errors] == [f"{path}:5", f"{path}:6"]


@pytest.mark.parametrize(
    ("lines", "column", "kept"),
    [
        pytest.param(['1\t"Open\tA', "2\tx\tB", '3\tclosed"\tC'], "text", ["2", "3"], id="by another row's quote"),
        pytest.param(['1\t"Open\tA', '2\tclosed"\tB'], "text", ["2"], id="by the next row's"),
        pytest.param(['a\t"Open\tA', "b c\tx\tB", 'd\tclosed"\tC'], "text", ["b c", "d"], id="ids of words"),
        pytest.param(['1\t"Open', "2\tx\tB", '3\tclosed"\tC'], "text", ["2", "3"], id="a row without its last column"),
        pytest.param(['1\tx\t"Open', "2\ty\tB", '3\tz\tC"'], "title", ["2", "3"], id="in the last column"),
    ],
)
def test_a_quote_that_opens_a_row_swallows_no_others(
    tmp_path: Path, lines: list[str], column: str, kept: list[str]
) -> None:
    path = write(tmp_path, "\n".join(["id\ttext\ttitle", *lines, ""]).encode())
    corpus = open_corpus([path], on_error="skip")
    assert [p.id for p in corpus] == kept
    [message] = corpus.counts.errors
    assert message.startswith(
        f'{path}:2: not a row of tab-separated values: the quote that opens "{column}" would run on over other rows, '
        f"to line {len(lines) + 1}; "
    )


@pytest.mark.parametrize(
    "rows",
    [
        'id\ttext\ttitle\n1\t"a\n2\tb\nc"\tT\n',
        'id\ttext\ttitle\n1\t"a\nb\tc\td\ne"\tT\n',
        'text\tid\ttitle\n"a\nb"\t1\tT\n',
        'title\tid\ttext\nT\t1\t"a\nb"\n',
    ],
)
def test_a_quoted_value_may_run_on_over_lines_that_are_no_rows(tmp_path: Path, rows: str) -> None:
    [passage] = open_corpus([write(tmp_path, rows.encode())])
    assert (passage.id, passage.title, passage.text[0], passage.text[-1]) == ("1", "T", "a", rows.split('"')[1][-1])


def test_a_quote_is_not_sought_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "MAX_QUOTED_LINES", 2)
    path = write(tmp_path, b'id\ttext\ttitle\n1\t"a\nb\n2\tx\tT\n3\ty"\tT\n')
    corpus = open_corpus([path], on_error="skip")
    assert [(p.id, p.text) for p in corpus] == [("2", "x"), ("3", 'y"')]
    assert corpus.counts.rows_skipped == 2


def test_an_overlong_row_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 40)
    path = write(tmp_path, GOOD + b'\n{"id": "a", "text": "' + b"x" * 3_000_000 + b'"}\n' + GOOD)
    corpus = open_corpus([path], on_error="skip")
    assert [p.id for p in corpus] == ["good:0", "good:0"]
    assert corpus.counts.errors == [f"{path}:2: the row is longer than 40 bytes"]


def test_an_overlong_wikiextractor_document_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_DOCUMENT_CHARS", 10)
    long = b'<doc id="a" url="" title="A">\nEleven\nletters\n</doc>\n'
    path = write(tmp_path, long + GOOD_DOC)
    corpus = open_corpus([path], on_error="skip")
    assert [p.text for p in corpus] == ["Good."]
    assert corpus.counts.errors == [f"{path}:1: the document is longer than 10 characters"]


def test_an_unclosed_last_document_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD_DOC + b'\n<doc id="b" url="" title="B">\nText.\n')
    with pytest.raises(CorpusError, match=r":4: the document is not closed by </doc> before the end of the file"):
        list(open_corpus([path]))


def test_the_good_rows_before_a_bad_one_come_first(tmp_path: Path) -> None:
    passages = iter(open_corpus([write(tmp_path, GOOD + b"\n{}\n")]))
    assert next(passages).id == "good:0"
    with pytest.raises(CorpusError, match=":2: "):
        next(passages)


def test_all_bad_rows_are_counted_and_the_first_messages_kept(tmp_path: Path) -> None:
    path = write(tmp_path, b"{}\n" * (ERRORS_KEPT + 5) + GOOD)
    corpus = open_corpus([path], format="jsonl", on_error="skip")
    assert len(list(corpus)) == 1
    assert corpus.counts.rows_skipped == ERRORS_KEPT + 5
    assert corpus.counts.errors == [f'{path}:{n}: "id" is missing' for n in range(1, ERRORS_KEPT + 1)]


# --- files that cannot be read ---------------------------------------------------------------------------

MANY = b"".join(json.dumps({"id": i, "text": f"Row {i}."}).encode() + b"\n" for i in range(20_000))
# A frame without size and checksum, a window of 2 to the 10 + 22 bytes, and one raw block, the last, of one byte.
LONGEST = b"\x28\xb5\x2f\xfd\x00" + bytes([22 << 3]) + b"\x09\x00\x00x"
CHECKED = zstandard.ZstdCompressor(write_checksum=True)  # without one, zstd cannot tell damage


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\x00\xff\x00\xff" * 8 + data[len(data) // 2 + 32 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(gzip.compress(MANY)[:-200], "ended before the end-of-stream", id="gzip cut off"),
        pytest.param(zstandard.compress(MANY)[:-200], "the zstd data are cut off before their end", id="zstd cut off"),
        pytest.param(gzip.compress(MANY)[:-8] + b"\0" * 8, "CRC check failed", id="gzip checksum"),
        pytest.param(damaged(gzip.compress(MANY)), "", id="gzip damaged"),
        pytest.param(damaged(CHECKED.compress(MANY)), "", id="zstd damaged"),
        pytest.param(zstandard.compress(MANY) + b"tail", "", id="zstd with something behind"),
        pytest.param(LONGEST, "look back more than 2 GiB: compress the file again", id="zstd with a window of 4 GiB"),
    ],
)
def test_damaged_compression_is_an_error_even_when_skipping(tmp_path: Path, data: bytes, reason: str) -> None:
    path = write(tmp_path, data)
    corpus = open_corpus([path], format="jsonl", on_error="skip")
    with pytest.raises(CorpusUnreadable) as caught:
        list(corpus)
    assert str(caught.value).startswith(f"{path}: cannot be read after line ")
    assert reason in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_closed_to_us_is_unreadable_not_missing(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(CorpusUnreadable, match="Permission denied"):
        open_corpus([path])


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CorpusNotFound, match="nowhere: no such corpus file or folder"):
        open_corpus([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be fail or skip, not 'ignore'"),
        ({"max_words": 0}, "max_words must be at least 1, not 0"),
        ({"limit": -1}, "limit must not be negative, not -1"),
    ],
)
def test_options_are_checked_at_once(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_corpus([write(tmp_path, GOOD)], **options)  # type: ignore[arg-type]


def test_no_paths_and_a_path_named_twice_are_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="no corpus given"):
        open_corpus([])
    with pytest.raises(ConfigError, match="named twice"):
        open_corpus([path, tmp_path / "." / "c"])
    with pytest.raises(ConfigError, match="named twice"):
        open_corpus([path, tmp_path])
