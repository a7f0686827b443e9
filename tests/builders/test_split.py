"""Documents into passages: exact spans, rules 1 to 4 of split.py, and what holds for every text."""

from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memstore.errors import ConfigError
from memstore.passage import Document, Passage
from memstore_builders import split
from memstore_builders.split import count_words, split_document


def texts(text: str, max_words: int) -> list[str]:
    document = Document("d", "T", text)
    passages = split_document(document, max_words=max_words)
    assert [text[p.start : p.end] for p in passages] == [p.text for p in passages]
    return [p.text for p in passages]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \n\u3000\u00a0", 0),
        ("one", 1),
        ("It's a well-known fact, isn't it?", 6),
        ("x" * 20, 1),
        ("x" * 21, 2),
        ("é" * 41, 3),
        ("日本語", 2),  # three characters: one and a half words
        ("日本語 は", 3),
        ("日，本語", 2),  # a stop ends a word: 日， and 本語
        ("日本，語", 3),  # 日本 and ， and 語
        ("GPUは速い", 3),  # GPU, は速, い
        ("한국어 문장", 2),  # Korean has spaces
        ("ภาษาไทย", 4),
        ("👨‍👩‍👧 family", 2),
    ],
)
def test_count_words(text: str, words: int) -> None:
    assert count_words(text) == words


def test_a_passage_carries_its_document_and_span() -> None:
    document = Document("7", "Title", "  One two. Three four.  ", url="http://x/7")
    assert split_document(document, max_words=2) == [
        Passage("7:0", "7", "Title", "One two.", "http://x/7", 2, 10),
        Passage("7:1", "7", "Title", "Three four.", "http://x/7", 11, 22),
    ]


@pytest.mark.parametrize(
    ("text", "max_words", "expected"),
    [
        pytest.param("", 5, [], id="empty"),
        pytest.param(" \n\n ", 5, [], id="spaces"),
        pytest.param("A b c.", 5, ["A b c."], id="one sentence"),
        pytest.param("A b c. D e f. G h i.", 6, ["A b c. D e f.", "G h i."], id="whole sentences"),
        pytest.param("Ann saw Bob. He ran off.", 5, ["Ann saw Bob.", "He ran off."], id="whole only"),
        pytest.param("A b.\n\nC d.", 4, ["A b.\n\nC d."], id="paragraphs may share a passage"),
        pytest.param("Dr. Lee met J. R. Fox. Bye.", 6, ["Dr. Lee met J. R. Fox.", "Bye."], id="short forms"),
        pytest.param("Ölé ñu. Él vío 🎉. Ça là.", 3, ["Ölé ñu.", "Él vío 🎉.", "Ça là."], id="characters"),
        pytest.param("日本語です。はい。そうか。", 5, ["日本語です。はい。", "そうか。"], id="Japanese"),
        pytest.param("a b c d e f g", 3, ["a b c", "d e f", "g"], id="a long sentence between words"),
        pytest.param("a b\nc d\ne f", 4, ["a b\nc d", "e f"], id="a long sentence first at line breaks"),
        pytest.param("x" * 50, 1, ["x" * 20, "x" * 20, "x" * 10], id="a run without spaces"),
        pytest.param("我們去，他們也去了", 4, ["我們去，", "他們也去了"], id="Chinese after a clause"),
        pytest.param("ab " + "y" * 50, 3, ["ab " + "y" * 40, "y" * 10], id="a gap too early is no cut"),
        pytest.param("A b.\r\n\r\nC d.", 2, ["A b.", "C d."], id="carriage returns"),
        pytest.param("A b.\n \nC d.", 2, ["A b.", "C d."], id="a blank line with a space"),
    ],
)  # fmt: skip
def test_texts(text: str, max_words: int, expected: list[str]) -> None:
    assert texts(text, max_words) == expected


def test_a_letter_keeps_its_marks_and_an_emoji_its_sequence() -> None:
    accent, family = "e\u0301", "👨\u200d👩\u200d👧"
    assert texts("x" * 19 + accent + "y" * 19 + "z" * 9, 1)[0] == "x" * 19 + "e"  # one word holds no better place
    cut = texts("a" * 20 + "b" * 19 + accent + "c" * 40, 2)
    assert cut[0] == "a" * 20
    assert cut[1].startswith("b" * 19 + accent)
    cut = texts("a" * 20 + "b" * 19 + family + "c" * 40, 2)
    assert cut[0] == "a" * 20
    assert family in cut[1]


def test_headings_go_with_what_follows_them() -> None:
    body = "One two three four five six."
    assert texts(f"{body}\n\nHistory.\n\n{body}", 8) == [body, f"History.\n\n{body}"]
    assert texts(f"{body}\n\nHistory.\n\nYouth.\n\n{body}", 8) == [body, f"History.\n\nYouth.\n\n{body}"]


def test_a_heading_stays_where_it_does_not_fit_before_what_follows() -> None:
    body = "One two three four five six."
    assert texts(f"{body}\n\nHistory.\n\n{body}", 7)[:1] == [body]
    full = "One two three four five six seven."
    assert texts(f"{body}\n\nHistory.\n\n{full}", 7) == [f"{body}\n\nHistory.", full]


def test_no_more_than_two_headings_move() -> None:
    body = "One two three four five six."
    text = f"A b c.\n\nD.\n\nE.\n\nF.\n\n{body}"
    assert texts(text, 8) == ["A b c.\n\nD.", f"E.\n\nF.\n\n{body}"]


def test_the_last_sentence_of_a_paragraph_is_no_heading() -> None:
    assert texts("A b c d. E f.\n\nG h i j k.", 7) == ["A b c d. E f.", "G h i j k."]


def test_a_short_end_is_evened_out() -> None:
    four = "One two three four."
    assert texts(f"{four} {four} {four} {four} {four} Five. End.", 20) == [
        f"{four} {four} {four}",  # 12 and 10 words, where packing alone gives 20 and 2
        f"{four} {four} Five. End.",
    ]


def test_an_end_of_a_fifth_is_not_short() -> None:
    one, two = "One of the five words.", "Two has them as well."
    assert texts(f"{one} {two} Three too.", 10) == [f"{one} {two}", "Three too."]
    assert texts(f"{one} {two} Three.", 10) == [one, f"{two} Three."]


def test_a_short_end_that_cannot_be_evened_stays() -> None:
    ten = "One two three four five six seven eight nine ten."
    assert texts(f"{ten} End.", 10) == [ten, "End."]


def test_evening_does_not_leave_a_heading_after() -> None:
    nine = "One two three four five six seven eight nine."
    assert texts(f"{nine}\n\nHead.\n\nZero {nine} End.", 20) == [nine, f"Head.\n\nZero {nine} End."]


@pytest.mark.parametrize("sentence", ["北京是首都。", "Où est-ce ? ", "é\n", "一行\n\n"])
def test_the_sentence_splitter_gets_bounded_parts(sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time grows by the square of what it gets; where parts are cut, a sentence ends anyway."""
    given, find = [], split.get_sentence_boundaries
    monkeypatch.setattr(split, "get_sentence_boundaries", lambda lang, text: given.append(text) or find(lang, text))
    text = "字" + sentence * (9000 // len(sentence))
    document = Document("d", "T", text)
    windowed = split_document(document)
    assert "".join(given) == text
    assert len(given) > 1
    assert max(map(len, given)) <= split.WINDOW
    monkeypatch.setattr(split, "WINDOW", len(text))
    assert windowed == split_document(document)


def test_a_paragraph_s_end_is_where_the_splitter_s_part_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "WINDOW", 33)
    assert texts("é first.\n\nWe met Dr. Smith at noon today.", 7) == ["é first.", "We met Dr. Smith at noon today."]


def test_plain_english_is_never_cut_for_the_splitter(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Dr. No met Mr. X. " * 9
    expected = split_document(Document("d", "T", text), max_words=7)
    monkeypatch.setattr(split, "WINDOW", 10)
    assert split_document(Document("d", "T", text), max_words=7) == expected


def test_max_words_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_words must be at least 1, not 0"):
        split_document(Document("d", "T", "x"), max_words=0)


pieces = st.sampled_from(
    ["a", "word", "Heading.", ". ", "? ", "\n", "\n\n", " ", "\r\n", "\u3000", "\u2028", "é", "e\u0301", "🎉",
     "👨\u200d👩\u200d👧", "日本語", "。", "，", "ภาษาไทย ", "http://example.org/a-long-address", "Dr. ",
     "“", "”", "\u00a0", "W", ".", "\x00", "\ufeff", "\u200b", "नमस्ते। ", "؟ "]
)  # fmt: skip
any_text = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200),
    st.lists(pieces, max_size=60).map("".join),
)


@given(text=any_text, max_words=st.integers(1, 12), window=st.sampled_from([split.WINDOW, 1, 7]))
@example(text="x" * 45 + " y. " + "日" * 31, max_words=3, window=split.WINDOW)
@example(
    text="Walter W\u00a0. Wood\u2009. X\u3000. End", max_words=3, window=split.WINDOW
)  # sentencex panics on "W\u00a0."
@settings(max_examples=300, deadline=None, derandomize=True)
def test_passages_cover_the_text_in_order_and_are_bounded(text: str, max_words: int, window: int) -> None:
    document = Document("d", "T", text, url="u")
    with mock.patch.object(split, "WINDOW", window):
        passages = split_document(document, max_words=max_words)
    at = 0
    for ordinal, passage in enumerate(passages):
        assert (passage.id, passage.document_id, passage.title, passage.url) == (
            f"d:{ordinal}",
            "d",
            "T",
            "u",
        )
        assert not text[at : passage.start].strip()  # only spaces lie between passages
        assert passage.start >= at
        assert passage.text == text[passage.start : passage.end] == passage.text.strip() != ""
        assert count_words(passage.text) <= max_words
        at = passage.end
    assert not text[at:].strip()
