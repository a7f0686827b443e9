"""The collections of a server, beside the sliders: which one is asked, and what changes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memstore.passage import Passage
from tests.server.fakes import FakeEngine

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = sync_api.expect


@pytest.fixture
def news() -> FakeEngine:
    """Another collection, of another generation, with metadata, and read by another model that knows no tasks."""
    made = FakeEngine()
    made.stored = (Passage("9:0", "9", "Radium", "Radium shines.", "", 0, 14),)
    made.generation = made.newest = 9
    reported = made.info()
    reported["model"] |= {"name": "other", "tasks": []}  # type: ignore[operator]
    reported["store"] |= {"passages": 7, "metadata": {"lang": ["string"]}}  # type: ignore[operator]
    made.info = lambda: reported  # type: ignore[method-assign]
    return made


@pytest.fixture
def come(serve: Callable[..., str], visitor: Callable[..., Any], news: FakeEngine) -> Callable[..., Any]:
    """A visitor of a server with two collections, at an address."""

    def come(address: str = "") -> Any:
        page = visitor()
        page.goto(f"{serve(others={'news': news})}{address}")
        expect(page.locator("#options")).to_be_visible()
        return page

    return come


def answered(page: Any, text: str) -> None:
    expect(page.locator("#answer > .text")).to_have_text(text)


def test_one_store_is_no_choice(page: Any) -> None:
    assert page.locator("#collection").count() == 0
    page.fill("#question", "why?")
    page.click("#submit")
    answered(page, "why?!")
    assert page.url.endswith("?q=why%3F")


def test_the_first_is_asked_unless_another_is_chosen(
    come: Callable[..., Any], engine: FakeEngine, news: FakeEngine
) -> None:
    page = come()
    expect(page.locator("#served")).to_have_text("2 passages, read by fake")
    expect(page.locator("#examples button").first).to_have_text("Otter …")
    assert (page.locator("#task").count(), page.locator(".filter").count()) == (1, 0)
    page.select_option("#collection", "news")
    expect(page.locator("#served")).to_have_text("7 passages, read by other")
    expect(page.locator("#examples button").first).to_have_text("Radium …")
    assert (page.locator("#task").count(), page.locator(".filter").count()) == (0, 1)
    page.fill("#question", "why?")
    page.click("#submit")
    answered(page, "why?!")
    assert (len(engine.questions), len(news.questions)) == (0, 1)
    expect(page.locator("#answer .by")).to_contain_text("news, generation 9, 7 passages")
    assert page.url.endswith("?q=why%3F&collection=news")
    page.select_option("#collection", "first")
    page.click("#submit")
    expect(page.locator("#answer .by")).to_contain_text("first, generation 4, 2 passages")
    assert page.url.endswith("?q=why%3F")
    page.go_back()
    expect(page.locator("#answer .by")).to_contain_text("generation 9")
    expect(page.locator("#collection")).to_have_value("news")
    expect(page.locator("#served")).to_have_text("7 passages, read by other")


def test_an_address_names_a_collection(come: Callable[..., Any], news: FakeEngine) -> None:
    page = come("?q=why%3F&collection=news&filter=%7B%22lang%22%3A%7B%22in%22%3A%5B%22en%22%5D%7D%7D")
    answered(page, "why?!")
    expect(page.locator("#collection")).to_have_value("news")
    expect(page.locator("#filter-value")).to_have_value("en")
    assert len(news.questions) == 1


def test_a_collection_that_is_gone_is_not_silently_another(
    come: Callable[..., Any], engine: FakeEngine, news: FakeEngine
) -> None:
    page = come("?q=why%3F&collection=gone")
    expect(page.locator("#problem .headline")).to_have_text('There is no collection "gone" here.')
    expect(page.locator("#problem")).to_contain_text("There are: first, news.")
    assert engine.questions == news.questions == []
    page.select_option("#collection", "news")
    page.click("#problem button")
    answered(page, "why?!")
    assert len(news.questions) == 1


def test_axe_finds_nothing(come: Callable[..., Any]) -> None:
    page = come()
    page.locator("#examples li").first.wait_for()
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
