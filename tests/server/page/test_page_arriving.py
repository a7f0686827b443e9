"""An answer is seen arriving: its passages as they are found and ranked, then its text, then the whole reply."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.server.fakes import FakeEngine
from tests.server.page.test_page_asking import answer, ask, texts

expect = pytest.importorskip("playwright.sync_api").expect

STREAM = "text/event-stream; charset=utf-8"
FOUND = 'event: retrieved\ndata: {"passages": []}\n\n'


class Steps:
    """In the place of an engine's pause: `go()` lets one piece of text through."""

    def __init__(self) -> None:
        self._let = threading.Semaphore(0)

    def wait(self, timeout: float) -> bool:
        return self._let.acquire(timeout=timeout)

    def go(self, pieces: int = 1) -> None:
        self._let.release(pieces)


@pytest.fixture
def steps(engine: FakeEngine, page: Any) -> Steps:
    engine.pause = steps = Steps()  # type: ignore[assignment]
    return steps


def test_passages_then_the_text_then_the_rest(page: Any, engine: FakeEngine, steps: Steps) -> None:
    about = page.locator("#passages > .about")
    engine.scoring.clear()
    ask(page, "what do they hold")
    expect(about).to_contain_text("2 passages found, scored now.")
    assert texts(page, "#passages-title") == ["Passages, as retrieved"]
    assert texts(page, ".passage .tag") == ["found", "found"]
    expect(page.get_by_text("Otters hold hands.")).to_have_count(0)  # titles are enough to see what was found
    assert texts(page, "#answer-title") == ["what do they hold"]
    below = page.locator("#passages").bounding_box()["y"] - page.locator("#answer").bounding_box()["y"]
    assert below > 0  # and not beside the answer, where it has no room
    expect(page.locator("#waiting-for")).to_be_hidden()

    engine.scoring.set()
    expect(about).to_contain_text("2 passages found, the best 1 read now.")
    assert texts(page, "#passages-title") == ["Passages, reranked"]
    assert texts(page, ".passage .tag") == ["kept", "dropped"]

    for pieces, arrived in [(2, "what do"), (1, "what do they")]:
        steps.go(pieces)
        expect(page.locator("#arriving")).to_have_text(arrived)
        expect(page.locator("#waiting")).to_be_visible()
        expect(page.locator("#cost")).to_be_hidden()
        expect(page.locator("#reply")).to_have_attribute("aria-busy", "true")
        expect(page.locator("#status")).to_have_text("Answering")  # said once, not word by word

    steps.go()
    expect(answer(page)).to_have_text("what do they hold!")
    expect(page.locator("#arriving")).to_have_count(0)
    expect(page.locator("#cost")).to_be_visible()
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator("#reply")).to_have_attribute("aria-busy", "false")
    expect(about).to_contain_text("the best 1 kept and read.")


def test_stopped_in_the_middle_half_an_answer_is_not_left(page: Any, engine: FakeEngine, steps: Steps) -> None:
    ask(page, "one two three")
    steps.go()
    expect(page.locator("#arriving")).to_have_text("one")
    page.click("#stop")
    expect(page.locator("#reply")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Stopped")
    steps.go(9)
    ask(page, "again")
    expect(answer(page)).to_have_text("again!")


def test_another_question_in_the_middle(page: Any, engine: FakeEngine, steps: Steps) -> None:
    ask(page, "one two three")
    steps.go()
    expect(page.locator("#arriving")).to_have_text("one")
    ask(page, "another")
    steps.go(9)
    expect(answer(page)).to_have_text("another!")


def test_what_goes_wrong_in_the_middle(page: Any, engine: FakeEngine) -> None:
    ask(page, "halfway there")
    expect(page.locator("#problem .headline")).to_have_text("The server failed.")
    expect(page.locator("#reply")).to_be_hidden()
    expect(page.locator("#waiting")).to_be_hidden()


@pytest.mark.parametrize(
    ("body", "headline"),
    [
        (FOUND, "The answer broke off."),
        (FOUND + "event: token", "The answer broke off."),
        (FOUND + "event: done\ndata: {\n\n", "The reply is not memstore's."),
    ],
)
def test_streams_that_end_early(page: Any, body: str, headline: str) -> None:
    page.route("**/answer", lambda route: route.fulfill(status=200, content_type=STREAM, body=body))
    ask(page, "why?")
    expect(page.locator("#problem .headline")).to_have_text(headline)
    page.unroute("**/answer")
    page.get_by_role("button", name="Ask again").click()
    expect(answer(page)).to_have_text("why?!")


def test_what_a_later_release_sends_is_left_out(page: Any) -> None:
    done = page.evaluate("() => fetch('answer', {method: 'POST', headers: {'Content-Type': 'application/json'},"
                         " body: JSON.stringify({question: 'why?'})}).then(reply => reply.text())")  # fmt: skip
    body = f": ping\n\nevent: thought\ndata: {{}}\n\nid: 7\nevent: done\ndata: {done}\n\n"
    page.route("**/answer", lambda route: route.fulfill(status=200, content_type=STREAM, body=body))
    ask(page, "why?")
    expect(answer(page)).to_have_text("why?!")
