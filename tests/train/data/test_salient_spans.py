"""Sentences and salient spans, by tables."""

from __future__ import annotations

import pytest

from memstore.train.data.salient_spans import salient, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is. Two is! Three?  Four", ["One is.", "Two is!", "Three?", "Four"]),
        ('He said "no." Then J. R. of the U.S. Army left.', ['He said "no."', "Then J. R. of the U.S. Army left."]),
        ("Dr. Who vs. St. Paul. it goes on.\nNew line", ["Dr. Who vs. St. Paul. it goes on.", "New line"]),
        ("Pi is 3.14. In 1990. 7 came.", ["Pi is 3.14.", "In 1990.", "7 came."]),
        ("  \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in sentences(text)] == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Marie Curie was born in Warsaw on 7 November 1867.", ["Marie Curie", "Warsaw", "7 November 1867"]),
        ("Paris is a big city.", []),  # one capitalised word at the beginning may be any word
        ("The Beatles were from Liverpool.", ["Beatles", "Liverpool"]),
        ("In May 1968, 2.5% of 1,000,000 people left.", ["May 1968", "2.5%", "1,000,000"]),
        ("It fell on July 4, 1776 and again on 3 March.", ["July 4, 1776", "3 March"]),
        ("He met Charles de Gaulle and the Duke of York.", ["Charles de Gaulle", "Duke of York"]),
        ("A friend of J. R. R. Tolkien's wrote it.", ["J. R. R. Tolkien"]),
        ("The F16 flew over New York, and New York saw it.", ["F16"]),  # text that is repeated gives itself away
        ("In İzmir, İnönü met Kemal and later Kemal left in 1923.", ["İzmir", "İnönü", "1923"]),
        ("Later The Who played in São Paulo.", ["São Paulo"]),
        ("nothing here at all", []),
    ],
)
def test_salient(sentence: str, expected: list[str]) -> None:
    assert [sentence[a:b] for a, b in salient(sentence)] == expected
