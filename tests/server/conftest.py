from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from memstore_server.app import create_app
from memstore_server.costs import CostModel
from memstore_server.settings import Settings
from tests.server.batching_cases import Threads
from tests.server.fakes import PATIENCE, FakeEngine

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def threads(engine: FakeEngine) -> Iterator[Threads]:
    made = Threads(engine)
    yield made
    engine.gate.set()
    assert all(thread.close(timeout=PATIENCE) for thread in made.made)


@pytest.fixture
def serving(engine: FakeEngine) -> Serving:
    """`async with serving(max_batch=2) as http:` an app over the fake engine, or over several, warmed up."""

    @asynccontextmanager
    async def serve(
        *, wait: bool = True, engines: dict[str, FakeEngine] | None = None, **settings: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        given = {"store": Path("store"), "drain_seconds": PATIENCE, **settings}
        app = create_app(engines or engine, Settings.load(**given))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app):
            if wait:
                await asyncio.wait_for(asyncio.wrap_future(app.state.service.warm_up), PATIENCE)
                for one in (engines or {"": engine}).values():
                    one.begun.acquire(timeout=PATIENCE)
                    one.batches.clear()
                # nothing is refused for the time that this machine takes, unless a test says what things take
                app.state.service._thread._admission.costs = CostModel()
            async with httpx.AsyncClient(transport=transport, base_url="http://memstore") as http:
                try:
                    yield http
                finally:
                    engine.gate.set()

    return serve


@pytest.fixture
def serving_fake(serving: Serving) -> Serving:
    """`serving`, for tests that have another one of their own."""
    return serving
