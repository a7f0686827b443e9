"""A server that wants a key: the page asks for it, shows it with each request, and forgets it with the tab."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memstore.answer import Lowered
from memstore_server.keyring import add_key
from tests.server.fakes import FakeEngine
from tests.server.page.test_page_access import SHOWN, violations
from tests.server.page.test_page_asking import answer, ask, texts

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "keys.json", "visitor")


@pytest.fixture
def keyed(serve: Callable[..., str], key: str, tmp_path: Path) -> str:
    """The address of a server that knows one key."""
    return serve(keys_file=tmp_path / "keys.json")


def test_the_key_is_asked_for_and_then_shown_with_each_request(
    keyed: str, key: str, visitor: Callable[..., Any]
) -> None:
    page = visitor()
    page.goto(keyed)
    expect(page.locator("#problem .headline")).to_have_text("The server wants to know who asks.")
    expect(page.locator("#forget")).to_be_hidden()
    page.fill("#key", "not-a-key")
    page.press("#key", "Enter")
    expect(page.locator("label[for=key]")).to_have_text("Another key (that one is not known here)")
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.locator("#examples li").first.wait_for()
    assert page.locator("#problem").inner_text() == ""
    ask(page, "why?")
    expect(answer(page)).to_have_text("why?!")
    assert key not in page.url
    page.reload()
    expect(answer(page)).to_have_text("why?!")
    page.click("#forget")
    page.locator("#key").wait_for()


def test_a_question_in_the_address_is_answered_once_the_key_is_there(
    keyed: str, key: str, visitor: Callable[..., Any]
) -> None:
    page = visitor()
    page.goto(f"{keyed}?q=why%3F")
    page.fill("#key", key)
    page.click(".key button")
    expect(answer(page)).to_have_text("why?!")
    assert "Forget the key" in page.locator("header").inner_text()


def test_another_visitor_has_no_key(keyed: str, key: str, visitor: Callable[..., Any]) -> None:
    first, second = visitor(), visitor()
    first.goto(keyed)
    first.fill("#key", key)
    first.press("#key", "Enter")
    first.locator("#examples li").first.wait_for()
    second.goto(keyed)
    second.locator("#key").wait_for()


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_axe_finds_nothing_where_a_key_is_wanted(
    keyed: str, visitor: Callable[..., Any], shown: dict[str, Any]
) -> None:
    page = visitor(reduced_motion="reduce", **shown)
    page.goto(keyed)
    page.locator("#key").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_what_was_cut_or_lowered_is_said(page: Any, engine: FakeEngine) -> None:
    given = engine.answer

    def less(questions: Any, listeners: Any = ()) -> Any:
        lowered = Lowered(retrieve_k=40, keep_k=10, reasons=("load", "deadline_ms"))
        return [dataclasses.replace(one, cut=True, lowered=lowered) for one in given(questions, listeners)]

    engine.answer = less  # type: ignore[method-assign]
    ask(page, "why?")
    expect(answer(page)).to_have_text("why?!")
    assert texts(page, "#answer .notice") == [
        "The answer was cut off at its length limit.",
        "2 passages were found and 1 read, not 40 and 10: "
        "the server has much to do, and more would have come too late.",
    ]
