"""What streams over HTTP is what does not, from a real model: alone, in batches, with beams, after a failed batch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from memstore.answer import Answerer
from memstore_server.app import create_app
from memstore_server.settings import Settings
from tests.e2e.small_store import built
from tests.server.fakes import PATIENCE
from tests.server.sse import events, text

pytestmark = pytest.mark.anyio
ASKED: list[dict[str, Any]] = [
    {"question": "the river", "retrieve_k": 9, "keep_k": 3},
    {"question": "a tower and a city", "retrieve_k": 7, "keep_k": 2},
    {"question": "the river", "num_beams": 3},
    {"question": "a harbour", "max_new_tokens": 3},
    {"question": "which city?", "passages": [{"text": "A city by the river."}]},
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("streamed"))


async def ask(store: Path, asked: list[dict[str, Any]], *, max_batch: int) -> list[httpx.Response]:
    """All at once, of a server that answers so many together."""
    app = create_app(Answerer.open(store), Settings.load(store=store, max_batch=max_batch, max_wait_ms=200))
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(asyncio.wrap_future(app.state.service.warm_up), PATIENCE)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://memstore") as http:
            return list(await asyncio.gather(*(http.post("/answer", json=one) for one in asked)))


@pytest.mark.parametrize("max_batch", [1, 8])
async def test_what_streams_is_what_does_not(store: Path, max_batch: int) -> None:
    plain = [response.json() for response in await ask(store, ASKED, max_batch=max_batch)]
    streams = [{**one, "stream": True} for one in ASKED]
    read = [events(response.text) for response in await ask(store, streams, max_batch=max_batch)]
    for asked, reply, heard in zip(ASKED, plain, read, strict=True):
        names = [name for name, _ in heard]
        tokens = names.count("token")
        assert names == ["retrieved", "ranked", *["token"] * tokens, "done"]
        assert (tokens == 1) == ("num_beams" in asked)  # beams know their text at the end
        done = heard[-1][1]
        assert text(heard) == done["answer"] == reply["answer"]
        assert heard[1][1]["passages"] == done["passages"]
        assert [p["id"] for p in done["passages"]] == [p["id"] for p in reply["passages"]]
        assert {p["id"] for p in heard[0][1]["passages"]} == {p["id"] for p in reply["passages"]}
        assert done["score"] == pytest.approx(reply["score"], abs=1e-3)


async def test_one_bad_question_of_a_batch_disturbs_no_other(store: Path) -> None:
    bad = {"question": "the river", "task": "juggling"}
    (alone,) = await ask(store, [ASKED[0]], max_batch=1)
    streams = [{**one, "stream": True} for one in (ASKED[0], bad, ASKED[1])]
    replies = await ask(store, streams, max_batch=8)
    first, third = events(replies[0].text), events(replies[2].text)
    assert [name for name, _ in first].count("retrieved") == 1
    assert text(first) == first[-1][1]["answer"] == alone.json()["answer"]
    assert text(third) == third[-1][1]["answer"]
    assert replies[1].status_code == 422
    assert replies[1].json()["type"] == "urn:memstore:problem:impossible-request"


async def test_info_says_what_an_answer_comes_in(store: Path) -> None:
    assert Answerer.open(store).info()["model"]["streams"] == "tokens"  # type: ignore[index]
