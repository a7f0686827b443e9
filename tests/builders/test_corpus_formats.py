"""Every corpus format, plain and compressed: tiny files and exactly the passages they give."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from memstore.errors import CorpusFormatError
from memstore.passage import Passage
from memstore_builders.corpus import EMPTY, open_corpus
from memstore_builders.formats import FORMATS


def rows(*records: object) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def whole(document_id: str, title: str, text: str, url: str = "") -> Passage:
    """The passage of a document that fits into one."""
    return Passage(f"{document_id}:0", document_id, title, text, url, 0, len(text))


def ready(passage_id: str, text: str, document_id: str = "", title: str = "", url: str = "", start: int = 0) -> Passage:
    return Passage(passage_id, document_id or passage_id, title, text, url, start, start + len(text))


CASES = [
    pytest.param(
        "jsonl",
        rows(
            {"id": "a", "title": "A", "text": "Ä one. Two.", "url": "http://x/a"},
            {"id": 7, "text": "No title.", "title": None, "extra": [1]},
        ),
        [whole("a", "A", "Ä one. Two.", "http://x/a"), whole("7", "", "No title.")],
        id="jsonl",
    ),
    pytest.param(
        "jsonl",
        b'\xef\xbb\xbf{"id": "a", "text": "One."}\r\n\r\n \n{"id": "b", "text": "Two\\u2028."}',
        [whole("a", "", "One."), whole("b", "", "Two\u2028.")],
        id="jsonl with byte order mark, blank lines, CRLF, no last line feed",
    ),
    pytest.param(
        "passages",
        rows(
            {"id": "p1", "document_id": "d", "title": "D", "text": "One.", "url": "u"},
            {"id": "p2", "document_id": 5, "text": " Two ", "start": 10, "end": 15},
            {"id": "p3", "document_id": None, "title": None, "text": "Three.", "url": None, "start": None},
            {"passage_id": 4, "text": "Four."},
        ),
        [
            ready("p1", "One.", "d", "D", "u"),
            ready("p2", " Two ", "5", start=10),
            ready("p3", "Three."),
            ready("4", "Four."),
        ],
        id="passages",
    ),
    pytest.param(
        "kilt",
        rows(
            {
                "_id": "12",
                "wikipedia_id": "12",
                "wikipedia_title": "Star Wars: A",
                "text": [
                    "Star Wars: A\n",
                    "It is a film.\n",
                    "Section::::Cast.\n",
                    "Section::::Cast.:Main: one.\n",
                    "BULLET::::- Ann\n",
                    "BULLET::::2. Bob\n",
                    "\n",
                ],
                "history": {"url": "https://en.wikipedia.org/w/index.php?oldid=1"},
            },
            {
                "wikipedia_title": "B",
                "_id": 9,
                "text": {"paragraph": ["Not the title", "Text."]},
                "history": None,
            },
        ),
        [
            whole(
                "12",
                "Star Wars: A",
                "It is a film.\n\nCast.\n\nMain: one.\n\n- Ann\n\n2. Bob",
                "https://en.wikipedia.org/w/index.php?oldid=1",
            ),
            whole("9", "B", "Not the title\n\nText."),
        ],
        id="kilt",
    ),
    pytest.param(
        "dpr",
        b"id\ttext\ttitle\r\n"
        b'1\t"Aaron ( or ; ""Ahar\xc3\xb6n"") is a\nprophet.\t."\tAaron\n'
        b'2\tHe said "hi" there.\t"""Weird Al"" Yankovic"\n'
        b"\n3\tNo title.\t\n",
        [
            ready("1", 'Aaron ( or ; "Aharön") is a\nprophet.\t.', "Aaron", "Aaron"),
            ready("2", 'He said "hi" there.', '"Weird Al" Yankovic', '"Weird Al" Yankovic'),
            ready("3", "No title."),
        ],
        id="dpr",
    ),
    pytest.param(
        "dpr",
        b'title\tid\ttext\n"T"\t1\t"Other ""order""."\n',
        [ready("1", 'Other "order".', "T", "T")],
        id="dpr with its columns in another order",
    ),
    pytest.param(
        "wikiextractor",
        b'<doc id="12" url="https://x/?curid=12&amp;a=b" title="Tom &amp; "Jerry"">\n'
        b'Tom &amp; "Jerry"\n\nA cat &lt; a mouse.\nShow.\n\nBoth run.\n\n</doc>\n'
        b'\n<doc id="13" revid="5" url="u" title="B">\nText of B.</doc>\n'
        b'<doc id="14" url="u" title="Empty">\nEmpty\n\n</doc>\n',
        [
            whole("12", 'Tom & "Jerry"', "A cat < a mouse.\n\nShow.\n\nBoth run.", "https://x/?curid=12&a=b"),
            whole("13", "B", "Text of B.", "u"),
        ],
        id="wikiextractor",
    ),
    pytest.param(
        "wikiextractor",
        b'<doc id="12" url="u?a=1" title="Granite" language="en" revision="1063">\nGranite\n\nA rock.\n</doc>\n'
        b'<doc title="The "A" B" revid="3" id="13" x:y.z-0="" url="v" >\nThe "A" B\n\nA letter.\n</doc>\n'
        b'<doc  url="w&amp;x"\ttitle="" id="14">\nNo title.\n</doc>\n'
        b'<doc id="15" title="a = "b" > c">\nNo url.\n</doc>\n',
        [
            whole("12", "Granite", "A rock.", "u?a=1"),
            whole("13", 'The "A" B', "A letter.", "v"),
            whole("14", "", "No title.", "w&x"),
            whole("15", 'a = "b" > c', "No url."),
        ],
        id="wikiextractor with further attributes, in another order, as its cirrus-extract writes",
    ),
    pytest.param(
        "wikiextractor-json",
        rows(
            {
                "id": "12",
                "revid": "1",
                "url": "u",
                "title": "A &amp; B",
                "text": "A &amp; B\n\nOne &lt; two.\nThree.",
            },
            {"id": "13", "revid": "1", "url": "u", "title": "C", "text": ""},
        ),
        [whole("12", "A & B", "One < two.\n\nThree.", "u")],
        id="wikiextractor-json",
    ),
]


def zstd_in_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


def zstd_long(data: bytes) -> bytes:
    """A stream, whose length is not known at first: its frame declares the whole window of 1 GiB."""
    settings = zstandard.ZstdCompressionParameters(window_log=30, hash_log=6, chain_log=6)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return (
        stream.compress(data[:9])
        + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        + stream.compress(data[9:])
        + stream.flush()
    )


def pzstd(data: bytes) -> bytes:
    """Frames of a few bytes, each behind a frame that is to be skipped: more than is decompressed at a time."""
    parts = [data[i : i + 7] for i in range(0, len(data), 7)]
    skipped = b"\x50\x2a\x4d\x18" + (997).to_bytes(4, "little") + bytes(997)
    return b"".join(skipped + zstandard.compress(part) for part in parts)


@pytest.mark.parametrize(("name", "data", "expected"), CASES)
@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(bytes, id="plain"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]), id="gzip members"),
        pytest.param(zstandard.compress, id="zstd"),
        pytest.param(zstd_in_frames, id="zstd frames"),
        pytest.param(zstd_long, id="zstd --long=30"),
        pytest.param(pzstd, id="pzstd"),
    ],
)
def test_a_file_is_detected_and_read(
    tmp_path: Path, name: str, data: bytes, expected: list[Passage], compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "corpus.data"  # the name tells nothing
    path.write_bytes(compress(data))
    corpus = open_corpus([path])
    assert corpus.formats == {path: name}
    assert list(corpus) == expected
    assert list(open_corpus([path], format=name)) == expected


def test_every_format_has_a_case() -> None:
    assert {case.values[0] for case in CASES} == set(FORMATS)


@pytest.mark.parametrize("name", ["jsonl", "passages"])
def test_rows_with_an_underscore_id_need_a_named_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / "beir.jsonl"
    path.write_bytes(rows({"_id": "x", "title": "T", "text": "One."}))
    with pytest.raises(CorpusFormatError, match=r"beir\.jsonl: .*jsonl.* or ready passages.*--format NAME.*kilt"):
        open_corpus([path])
    [passage] = open_corpus([path], format=name)
    assert passage == (whole("x", "T", "One.") if name == "jsonl" else ready("x", "One.", title="T"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Once upon a time.\n", "not recognised"),
        (b'{\n "id": "a",\n "text": "x"\n}\n', "not recognised; its first row is not valid JSON: Expecting property"),
        ('{"id": "é", "text": "x"}\n'.encode("latin-1"), "not recognised; its first row is not UTF-8: byte 0xe9"),
        (b'\n[{"id": "a", "text": "x"}]\n', "is one JSON array; write each"),
        (b'[\n{"id": "a", "text": "x"},\n{"id": "b", "text": "y"}\n]\n', "is one JSON array; write each"),
        ('{"id": "a", "text": "x"}\n'.encode("utf-16-le"), "begins with NUL characters"),
        (b"corpus.jsonl" + b"\0" * 500 + rows({"id": "a", "text": "x"}, {"id": "b", "text": "y"}), "begins with NUL"),
        (rows({"question": "q", "answer": "a"}), "its first JSON object has the keys 'answer', 'question'"),
        (rows({"id": "a", "text": ["x"]}), "its first JSON object has the keys 'id', 'text'"),
        (b"id\ttitle\n1\tx\n", "not recognised"),
        (b"BZh91AY", "is compressed by bzip2"),
        (b"\xfd7zXZ\x00", "is compressed by xz"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"PAR1rest", "is a Parquet file"),
        ("id".encode("utf-16"), "is UTF-16 text"),
    ],
)
def test_an_unknown_file_is_an_error_that_helps(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(data)
    with pytest.raises(CorpusFormatError) as caught:
        open_corpus([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    if "recognised" in message:
        assert all(name in str(caught.value) for name in ["--format NAME", *FORMATS])


def test_detection_looks_past_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n{broken\n\xff\n" + rows({"id": "a"}, {"id": "a", "text": "One."}))
    assert open_corpus([path]).formats == {path: "jsonl"}


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    path.write_bytes(b"\n \n")
    corpus = open_corpus([path])
    assert (list(corpus), corpus.formats) == ([], {path: EMPTY})


def test_an_unknown_format_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CorpusFormatError, match=r"unknown corpus format 'csv'.*jsonl.*wikiextractor-json"):
        open_corpus([tmp_path], format="csv")


def test_dpr_needs_its_header(tmp_path: Path) -> None:
    path = tmp_path / "psgs.tsv"
    path.write_bytes(b"1\tText\tTitle\n")
    with pytest.raises(CorpusFormatError, match=r"psgs\.tsv: cannot be read as dpr: its first line must name"):
        list(open_corpus([path], format="dpr", on_error="skip"))
