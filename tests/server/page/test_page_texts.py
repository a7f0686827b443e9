"""Texts of any kind stay texts, and fit; where an answer's words stand in them."""

from __future__ import annotations

from typing import Any

import pytest

from memstore.passage import Passage
from tests.server.fakes import FakeEngine

expect = pytest.importorskip("playwright.sync_api").expect

HOSTILE = (
    "<script>window.owned = 1</script>",
    '<img src=x onerror="window.owned = 1">',
    '"><svg onload=window.owned=1>',
    "</p></li></ol></main><h1>Sign in</h1>",
    "<b>&amp; {{1+1}} ${window.owned = 1}",
)


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")
    expect(page.locator("#answer > .text")).to_have_text(f"{question}!")


def test_markup_stays_text(page: Any, engine: FakeEngine) -> None:
    for text in HOSTILE:
        metadata = {text: text, "tags": [text]}
        engine.stored = tuple(
            Passage(f"{text}{at}", "d", text, f"{text} {text}", text, 0, 4, metadata) for at in range(2)
        )
        ask(page, text)
        assert page.locator(".passage .title").all_text_contents() == [text, text]
        assert page.locator(".passage .body > .text").all_text_contents() == [f"{text} {text}"] * 2
        assert page.locator(".passage.kept .origin > *").all_text_contents() == [
            f"{text}0", text, f"{text}: {text}", f"tags: {text}",
        ]  # fmt: skip
        page.reload()  # the question is in the address now
        expect(page.locator("#answer > .text")).to_have_text(f"{text}!")
        assert page.evaluate("window.owned") is None
        assert page.locator("main script, main img, main svg, main h1").count() == 0


def test_hostile_titles_among_the_examples(serve: Any, visitor: Any, engine: FakeEngine) -> None:
    engine.stored = tuple(Passage(f"{text}:0", "d", text, "text", "", 0, 4) for text in HOSTILE)
    page = visitor()
    page.goto(serve())
    page.locator("#examples li").first.wait_for()
    assert page.locator("#examples button").all_text_contents() == [f"{text} …" for text in HOSTILE]
    assert page.evaluate("window.owned") is None


ADDRESSES = {
    "https://example.org/a": "https://example.org/a",
    "http://example.org": "http://example.org/",
    "javascript:window.owned=1": None,
    " JavaScript:alert(1)": None,
    "data:text/html,<script>1</script>": None,
    "wiki/Otter": None,
    "//example.org": None,
}


def test_only_addresses_of_the_web_are_links(page: Any, engine: FakeEngine) -> None:
    engine.stored = tuple(Passage(url, url, "Otter", "text", url, 0, 4) for url in ADDRESSES)
    ask(page, "why?")
    script = "shown => shown.map(one => one.querySelector('a') && one.querySelector('a').href)"
    assert page.locator(".passage .origin").evaluate_all(script) == list(ADDRESSES.values())
    relations = "links => links.map(link => link.rel)"
    assert page.locator(".passage .origin a").evaluate_all(relations) == ["noopener noreferrer"] * 2


LONG = ("w" * 3000, "שלום עולם " * 60, "🦦👩🏽‍🚀" * 200, "東京は日本の首都です。" * 40, "one\n\n\ntwo " * 40)


def test_long_texts_fit_a_phone(page: Any, engine: FakeEngine) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for text in LONG:
        some, metadata = text[:300], {text[:200]: text[:300]}
        engine.stored = tuple(Passage(f"{some}{at}", "d", some, text, text, 0, 4, metadata) for at in range(2))
        ask(page, some.strip())
        page.click(".dropped summary")
        assert page.evaluate("document.documentElement.scrollWidth") == 390, some


def test_texts_run_as_their_script_does(page: Any, engine: FakeEngine) -> None:
    engine.stored = (Passage("a:0", "a", "שלום", "שלום עולם", "", 0, 4),)
    ask(page, "Why שלום")
    directions = "elements => elements.map(element => getComputedStyle(element).direction)"
    assert page.locator(".passage .title, .passage .body > .text").evaluate_all(directions) == ["rtl", "rtl"]
    assert page.locator("#answer > .text").evaluate_all(directions) == ["ltr"]


MARKED = [
    # text, answer, what is marked, whether as a whole
    ("In Paris, in 1903.", "Paris", ["Paris"], True),
    ("In Paris, in PARIS.", "paris", ["Paris", "PARIS"], True),
    ("Comparison of Parisians", "Paris", [], None),
    ("Marie and Pierre Curie", "Marie Curie", ["Marie", "Curie"], False),
    ("Marie  Curie, Marie-Curie", "Marie Curie", ["Marie  Curie", "Marie-Curie"], True),
    ("Maria Skłodowska, Café", "cafe", ["Café"], True),
    ("Cafe\u0301 noir", "café", ["Cafe\u0301"], True),
    ("the year 1,903 or 1903", "1903", ["1903"], True),
    ("東京は日本の首都です", "日本", ["日本"], True),
    ("שלום עולם", "עולם", ["עולם"], True),
    ("a 🦦 swims", "🦦", [], None),
    ("it is and it was", "yes", [], None),
    ("no, it is not", "no", [], None),
    ("The Who were a band", "The Who", [], None),
    ("of the Rings, of", "Lord of the Rings", ["Rings"], False),
    ("", "x", [], None),
    ("x", "", [], None),
    ("x x", " ?! ", [], None),
    ("ﬁre", "fire", ["ﬁre"], True),
    ("a" * 50, "a a", [], None),
]


def test_where_an_answers_words_stand(page: Any) -> None:
    script = """async (cases) => {
        const { marksOf, pieces } = await import(new URL("page/marks.js", document.baseURI));
        return cases.map(([text, answer]) => {
            const cut = pieces(text, marksOf(text, answer));
            const marks = cut.filter((piece) => piece.mark);
            return [cut.map((piece) => piece.text).join(""), marks.map((piece) => piece.text),
                    marks.length ? marks[0].mark.whole : null];
        });
    }"""
    found = page.evaluate(script, [[text, answer] for text, answer, _, _ in MARKED])
    assert found == [[text, marked, whole] for text, _, marked, whole in MARKED]
