"""How sure an answer must be, what is shown where it is not, and where the reader looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from memstore.passage import Passage
from tests.server.fakes import FakeEngine
from tests.server.page.test_page_access import violations
from tests.server.page.test_page_asking import answer, ask, texts

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


def sent(page: Any) -> dict[str, Any]:
    """The request of what is asked now."""
    with page.expect_request("**/answer") as asked:
        ask(page, "why?")
    expect(page.locator("#answer > .by")).to_be_visible()
    body: dict[str, Any] = asked.value.post_data_json
    return body


# --- how sure ---


def test_below_what_is_asked_for_nothing_is_said_but_why(page: Any, engine: FakeEngine) -> None:
    """The fake is 50% sure of everything."""
    expect(page.locator("label[for=min_confidence]")).to_have_text("Sure at least any")
    page.fill("#min_confidence", "75")
    expect(page.locator("label[for=min_confidence]")).to_have_text("Sure at least 75%")
    ask(page, "why?")
    expect(answer(page)).to_have_text("I do not know.")
    assert engine.questions[-1].min_confidence == 0.75
    assert texts(page, "#answer .notice") == ["Not sure enough."]
    assert texts(page, "#answer .confidence") == [
        "confidence 50% at least 75% asked for how often such answers are right"
    ]
    assert texts(page, ".passage .tag") == ["kept", "dropped"]
    assert page.locator("mark").count() == 0
    expect(page.locator("#status")).to_have_text("No answer: not sure enough. 1 passage read.")
    mark, bar = (page.locator(f".confidence {of}").bounding_box() for of in (".least", ".bar"))
    assert abs((mark["x"] + mark["width"] / 2 - bar["x"]) / bar["width"] - 0.75) < 0.02
    assert page.url.endswith("?q=why%3F&min_confidence=0.75")
    assert violations(page) == []


def test_it_can_be_answered_all_the_same(page: Any) -> None:
    page.fill("#min_confidence", "75")
    ask(page, "why?")
    page.get_by_role("button", name="Answer all the same").click()
    expect(answer(page)).to_have_text("why?!")
    expect(page.locator("#min_confidence")).to_have_value("0")
    assert page.locator("#answer .least").count() == 0
    page.go_back()
    expect(answer(page)).to_have_text("I do not know.")
    expect(page.locator("#min_confidence")).to_have_value("75")


def test_the_servers_own_limit_is_where_it_begins(
    serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine
) -> None:
    page = visitor()
    page.goto(serve(min_confidence=0.6))
    expect(page.locator("#min_confidence")).to_have_value("60")
    assert "min_confidence" not in sent(page)
    assert engine.questions[-1].min_confidence == 0.6
    assert "min_confidence" not in page.url
    page.get_by_role("button", name="Answer all the same").click()
    expect(answer(page)).to_have_text("why?!")
    assert parse_qs(urlsplit(page.url).query)["min_confidence"] == ["0"]


@pytest.mark.parametrize(
    ("named", "value"), [("0.25", "25"), ("1", "100"), ("2", "0"), ("-1", "0"), ("x", "0"), ("0.5e1", "0")]
)
def test_it_is_in_the_address(serve: Callable[..., str], visitor: Callable[..., Any], named: str, value: str) -> None:
    page = visitor()
    page.goto(f"{serve()}?q=why&min_confidence={named}")
    expect(page.locator("#answer > .by")).to_be_visible()
    expect(page.locator("#min_confidence")).to_have_value(value)


def test_without_passages_no_answer_is_no_guess(page: Any, engine: FakeEngine) -> None:
    engine.stored = ()
    page.fill("#min_confidence", "75")
    ask(page, "why?")
    expect(answer(page)).to_have_text("I do not know.")
    assert texts(page, "#answer .notice") == ["No passage was found.", "Not sure enough."]


# --- where the reader looked ---


def test_attention_is_shown_where_it_is_asked_for(page: Any, engine: FakeEngine) -> None:
    assert "attention" not in sent(page)
    assert engine.questions[-1].attention is False
    assert page.locator(".bar.attention").count() == 0
    page.check("#attention")
    assert sent(page)["attention"] is True
    assert texts(page, ".passage .scores")[0] == "rerank 1st −0.50 retrieval 1st 2.50 attention 75%"
    assert page.locator(".bar.attention").count() == 1  # what was not read got none
    expect(page.locator("#passages > .about")).to_contain_text("Attention is a passage's share")
    assert parse_qs(urlsplit(page.url).query)["attention"] == ["true"]
    assert violations(page) == []


def test_attention_has_a_place_in_the_address(serve: Callable[..., str], visitor: Callable[..., Any]) -> None:
    page = visitor()
    page.goto(f"{serve()}?q=why&attention=true")
    expect(page.locator(".bar.attention")).to_be_visible()
    expect(page.locator("#attention")).to_be_checked()
    page.uncheck("#attention")
    assert "attention" not in sent(page)


def test_the_most_looked_at_has_the_longest_bar(page: Any, engine: FakeEngine) -> None:
    engine.stored = tuple(Passage(f"{at}:0", str(at), "t", "x", "", 0, 1) for at in range(2))
    page.check("#attention")
    ask(page, "why?")
    expect(page.locator(".bar.attention")).to_be_visible()
    filled = "bar => Math.round(100 * bar.firstChild.offsetWidth / bar.offsetWidth)"
    assert page.locator(".bar.attention").evaluate(filled) == 100
    heights = {kind: page.locator(f".kept .bar.{kind}").bounding_box()["height"] for kind in ("rerank", "attention")}
    assert heights["attention"] == heights["rerank"]
