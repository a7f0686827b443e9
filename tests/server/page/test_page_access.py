"""For everybody: axe finds nothing in any state, all works by keyboard, and all fits any width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memstore.passage import Passage
from tests.server.fakes import FakeEngine

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = sync_api.expect

SHOWN = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}},
}


def violations(page: Any) -> list[str]:
    """What axe finds, in words."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_axe_finds_nothing(
    serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine, shown: dict[str, Any]
) -> None:
    engine.stored = tuple(
        Passage(f"{at}:0", str(at), f"Otter {at}", "They hold hands.", "https://example.org", 0, 4, {"year": 1})
        for at in range(3)
    )
    engine.trained = False
    page = visitor(reduced_motion="reduce", **shown)
    page.goto(serve())
    page.locator("#examples li").first.wait_for()
    assert violations(page) == []  # empty
    page.route("**/answer", lambda _route: None)  # no reply; the engine would not be kept waiting so long
    page.fill("#question", "hold hands")
    page.click("#submit")
    page.locator("#waiting").wait_for()
    assert violations(page) == []  # answering
    page.unroute("**/answer")
    page.click("#submit")
    page.locator("#answer > .text").wait_for()
    page.click(".dropped summary >> nth=0")
    assert violations(page) == []  # answered
    page.check("#attention")
    page.fill("#min_confidence", "75")
    page.click("#submit")
    page.locator("#answer > .unknown").wait_for()
    assert violations(page) == []  # not known
    page.fill("#question", "impossible")
    page.click("#submit")
    page.locator("#problem .headline").wait_for()
    assert violations(page) == []  # in trouble


def test_all_by_keyboard(page: Any, engine: FakeEngine) -> None:
    press = page.keyboard.press
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("hold")
    press("Shift+Enter")
    page.keyboard.type("hands")
    expect(page.locator("#question")).to_have_value("hold\nhands")
    press("Tab")
    expect(page.locator("#submit")).to_be_focused()
    press("Tab")
    press("ArrowLeft")
    expect(page.locator("#retrieve_k")).to_have_value("39")
    press("Tab")
    press("Home")
    expect(page.locator("#keep_k")).to_have_value("1")
    press("Tab")
    press("ArrowRight")
    press("ArrowLeft")
    expect(page.locator("#min_confidence")).to_be_focused()
    press("Tab")
    expect(page.locator("#task")).to_be_focused()
    press("Tab")
    press("Space")
    expect(page.locator("#attention")).to_be_checked()
    for _ in range(5):
        press("Shift+Tab")
    press("Enter")
    page.locator("#answer > .text").wait_for()
    assert (engine.questions[0].text, engine.questions[0].retrieve_k) == ("hold\nhands", 39)
    page.locator("#attention").focus()
    press("Tab")
    expect(page.locator("#answer .sources a")).to_be_focused()
    press("Tab")
    expect(page.locator(".passage.kept .origin a")).to_be_focused()
    press("Tab")
    expect(page.locator(".passage.dropped summary")).to_be_focused()
    press("Enter")
    expect(page.get_by_text("An id with a slash.")).to_be_visible()


def test_enter_that_picks_a_word_of_an_input_method_asks_nothing(page: Any, engine: FakeEngine) -> None:
    page.fill("#question", "にほん")
    script = "box => box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    page.locator("#question").evaluate(script)
    expect(page.locator("#waiting")).to_be_hidden()
    assert engine.questions == []


def test_what_is_read_out(page: Any, engine: FakeEngine) -> None:
    """Landmarks, headings, and names of what can be used."""
    engine.stored = (*engine.stored, Passage("c:0", "c", "Third", "text", "", 0, 4))
    page.fill("#question", "why?")
    page.press("#question", "Enter")
    page.locator("#answer > .text").wait_for()
    headings = [" ".join(h.inner_text().split()) for h in page.get_by_role("heading").all()]
    assert headings == ["memstore", "why?", "What it cost", "Passages, reranked", "Otter",
                        "Dropped: 2, scored but not read"]  # fmt: skip
    for role, name in [("search", None), ("textbox", "Your question"), ("slider", "Passages found"),
                       ("slider", "Passages read"), ("slider", "Sure at least"), ("combobox", "Task"),
                       ("checkbox", "Show where the reader looks"), ("button", "Ask"), ("link", "API"),
                       ("region", "What it cost"), ("region", "Passages, reranked")]:  # fmt: skip
        expect(page.get_by_role(role, name=name, exact=True)).to_have_count(1)
    expect(page.get_by_role("row", name="score passages 1.5 ms 10 FLOP")).to_have_count(1)


def test_nothing_is_wider_than_the_window(page: Any) -> None:
    page.fill("#question", "why?")
    page.press("#question", "Enter")
    page.locator("#answer > .text").wait_for()
    widths, taken = [320, 390, 720, 1024, 2560], []
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        taken.append(page.evaluate("document.documentElement.scrollWidth"))
    assert taken == widths


def test_colours_follow_the_visitors_preference(serve: Callable[..., str], visitor: Callable[..., Any]) -> None:
    address, grounds = serve(), []
    for scheme in ("light", "dark"):
        page = visitor(color_scheme=scheme)
        page.goto(address)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_what_moves_can_be_still(serve: Callable[..., str], visitor: Callable[..., Any]) -> None:
    page = visitor(reduced_motion="reduce")
    page.goto(serve())
    page.locator("#examples li").first.wait_for()
    page.route("**/answer", lambda _route: None)
    page.fill("#question", "why?")
    page.press("#question", "Enter")
    page.locator("#waiting").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
