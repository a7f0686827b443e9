"""A server over a real store that changes: it answers from the new generation, and gives the former one back."""

from __future__ import annotations

import asyncio
import shutil
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from memstore.answer import Answerer
from memstore.store.format import generation_path, index_path
from memstore.store.history import forget, rollback
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_server.app import create_app
from memstore_server.settings import Settings
from tests import tiny
from tests.builders.changing import Bench, texts
from tests.server.fakes import PATIENCE

pytestmark = pytest.mark.anyio
KINDS = ["bm25", "hybrid"]
MAPS = Path("/proc/self/maps")  # files in the memory of this process, where the system says so
HAS_MAPS = MAPS.exists()


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp(request.param), texts(12), retriever=request.param)


@pytest.fixture
def bench(built: Bench, tmp_path: Path) -> Bench:
    """A store of its own for each test."""
    shutil.copytree(built.path, tmp_path / "store")
    own = Bench.__new__(Bench)
    vars(own).update(vars(built))
    own.path, own.documents = tmp_path / "store", dict(built.documents)
    return own


@asynccontextmanager
async def serving(bench: Bench) -> AsyncIterator[tuple[httpx.AsyncClient, list[weakref.ref]]]:
    """A client of an app over the store, and weak references to what it opened first."""
    opened = Answerer.open(bench.path, model=str(bench.model))
    parts = [weakref.ref(one) for one in (opened, opened.store, opened.retriever)]
    app = create_app(opened, Settings.load(store=bench.path, retrieve_k=20, drain_seconds=PATIENCE))
    del opened
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(asyncio.wrap_future(app.state.service.warm_up), PATIENCE)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://memstore") as http:
            yield http, parts


def is_mapped(folder: Path) -> bool:
    """Whether this process has a file of the folder in its memory; False where the system does not say."""
    return HAS_MAPS and str(folder) in MAPS.read_text()


async def found(http: httpx.AsyncClient, question: str) -> tuple[int, set[str]]:
    """The generation that answered, and the documents found."""
    reply = (await http.post("/answer", json={"question": question, "max_new_tokens": 1})).json()
    retrieved = (await http.post("/retrieve", json={"question": question, "retrieve_k": 20})).json()
    assert [p["id"] for p in retrieved["passages"]]
    assert {p["id"] for p in retrieved["passages"]} == {p["id"] for p in reply["passages"]}
    return reply["store"]["generation"], {p["id"].partition(":")[0] for p in reply["passages"]}


async def test_added_and_deleted_documents_are_found_and_not_found(bench: Bench) -> None:
    async with serving(bench) as (http, _):
        bench.add({"new": ("Paris", "xylophone river")})
        before, documents = await found(http, "xylophone river")
        assert (before, "new" in documents) == (1, False)
        assert (await http.post("/admin/reload")).json()["generation"] == 2
        after, documents = await found(http, "xylophone river")
        assert (after, "new" in documents) == (2, True)
        delete(bench.path, ["new"])
        assert (await http.post("/admin/reload")).json()["generation"] == 3
        last, documents = await found(http, "xylophone river")
        assert (last, "new" in documents) == (3, False)
        rollback(bench.path, to=2)
        assert (await http.post("/admin/reload")).json()["generation"] == 2
        assert "new" in (await found(http, "xylophone river"))[1]


async def test_the_former_generation_is_given_back(bench: Bench) -> None:
    """Nothing refers to it, no file of it is mapped or open, and it can be forgotten."""
    async with serving(bench) as (http, parts):
        await found(http, "the river")
        assert is_mapped(index_path(bench.path, 1)) == HAS_MAPS
        delete(bench.path, list(bench.documents)[:3])
        compact(bench.path)  # the server's generation stays, as it is open
        assert generation_path(bench.path, 1).exists()
        assert (await http.post("/admin/reload")).json()["generation"] == 3
        assert [part() for part in parts] == [None, None, None]
        assert not is_mapped(index_path(bench.path, 1))
        forget(bench.path)
        assert not generation_path(bench.path, 1).exists()
        assert (await found(http, "the river"))[0] == 3


@pytest.mark.parametrize("part", ["index", "segments", "generations"])
async def test_a_damaged_generation_is_not_taken_up(bench: Bench, part: str) -> None:
    async with serving(bench) as (http, parts):
        bench.add({"new": ("Paris", "xylophone river")})
        match part:
            case "index":
                next((index_path(bench.path, 2) / "lexical").glob("*.store")).write_bytes(b"damaged")
            case "segments":
                next((bench.path / "segments").glob("g000002-*")).joinpath("SEALED").unlink()
            case _:
                generation_path(bench.path, 2).write_bytes(b"{}")
        refused = await http.post("/admin/reload")
        assert refused.status_code == 500
        detail = refused.json()["detail"]
        assert detail.startswith("generation 1 goes on answering: ")
        assert part in detail
        assert str(bench.path) not in detail
        assert (await found(http, "the river"))[0] == 1
        rollback(bench.path, to=1)
        assert (await http.post("/admin/reload")).json()["changed"] is False
        assert parts[0]() is not None


async def test_a_store_that_another_model_made_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other", texts(4, seed=3), model=tiny.save_checkpoint(tmp_path / "model", seed=5))
    async with serving(bench) as (http, _):
        shutil.rmtree(bench.path)
        shutil.copytree(other.path, bench.path)
        refused = (await http.post("/admin/reload")).json()
        assert "encoder" in refused["detail"]
        assert refused["type"] == "urn:memstore:problem:not-reloaded"
