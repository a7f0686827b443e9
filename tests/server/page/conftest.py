"""The page in Debian's Chromium, over the fake engine: one browser a file, a fresh visitor a test."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn

from memstore_server.addresses import bound_socket, url_of
from memstore_server.app import create_app
from memstore_server.settings import Settings
from tests.server.fakes import PATIENCE, FakeEngine

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_PATIENCE = 30.0  # seconds, as Playwright has it for what a visitor does
FAILED_LOADS = "Failed to load resource"  # what Chromium notes for each reply of 400 and more

Serve = Callable[..., str]


@contextmanager
def served(
    engine: FakeEngine, *, below: str = "", others: dict[str, FakeEngine] | None = None, **settings: Any
) -> Iterator[str]:
    """The address of an app over the engine, warmed up; below a path that a proxy strips without saying so. With
    others, the engine is the collection `first`.
    """
    engines = {"first": engine, **others} if others else {"default": engine}
    stores = [f"{name}={name}" for name in engines]
    app = create_app(engines, Settings.load(store=stores, drain_seconds=PATIENCE, **settings))

    async def stripped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(below), f"{scope['path']} is none of the proxy's addresses for us"
            scope = {**scope, "path": scope["path"].removeprefix(below)}
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(stripped, http="h11", log_config=None, timeout_graceful_shutdown=1))
    with bound_socket("127.0.0.1", 0) as listener:
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        try:
            app.state.service.warm_up.result(PATIENCE)
            for one in engines.values():
                one.begun.acquire(timeout=PATIENCE)
                one.batches.clear()
                one.questions.clear()
            yield f"{url_of(listener)}{below}/"
        finally:
            engine.gate.set()
            server.should_exit = True
            running.join(PATIENCE)


@pytest.fixture
def serve(engine: FakeEngine) -> Iterator[Serve]:
    """`serve(max_retrieve_k=50)`: the address of the page over `engine`."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(served(engine, **settings))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it is in `dev`")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: on Debian, apt-get install chromium")
    sync_api.expect.set_options(timeout=BROWSER_PATIENCE * 1000)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # for root, as in CI
        yield chromium
        chromium.close()


@pytest.fixture
def visitor(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visitor(color_scheme="dark")`: a page of a fresh visitor. Nothing may go wrong in it unnoticed."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def come(**settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        contexts.append(context)
        return page

    yield come
    for context in contexts:
        context.close()
    assert [said for said in wrong if FAILED_LOADS not in said] == []


@pytest.fixture
def page(serve: Serve, visitor: Callable[..., Any]) -> Any:
    """The page at `/`, its controls and examples there."""
    page = visitor()
    page.goto(serve())
    page.locator("#examples li").first.wait_for()
    return page
