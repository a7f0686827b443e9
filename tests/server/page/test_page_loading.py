"""The page of a server that still loads: how far it is, and then, by itself, the page as it always is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.fakes import FakeEngine
from tests.server.test_loading import Slow

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.mark.parametrize("question", ["", "?q=why%3F"])
def test_it_shows_how_far_it_is_and_goes_on_by_itself(engine: FakeEngine, visitor: Any, question: str) -> None:
    slow = Slow(engine)
    with slow.serving() as (_, http):
        page = visitor()
        page.goto(f"{http.base_url}/{question}")
        expect(page.locator("#loading-step")).to_have_text("The server is loading: step 2 of 4, opening wiki.")
        assert page.locator("#loading-bar").evaluate("bar => [bar.value, bar.max]") == [1, 4]
        expect(page.locator("#problem")).to_be_empty()
        slow.go_on.set()
        expect(page.locator("#served")).to_contain_text("2 passages")
        expect(page.locator("#loading")).to_be_hidden()
        expect(page.locator("#answer > .text" if question else "#examples")).to_be_visible()
