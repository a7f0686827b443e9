"""A server whose store is in object storage: it is changed over HTTP, takes up what others change, and says so."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.faulty_proxy import Proxy
from memstore.answer import Answerer
from memstore.errors import StoreBusy
from memstore.store.holding import BUSY
from memstore.store.mirror import Mirror, kept_beside, waiting_inputs
from memstore.store.uploading import LOST, push
from memstore.store.working import alone
from memstore_builders.change import delete
from memstore_builders.verify import verify
from memstore_client import AsyncClient
from memstore_server import logs
from memstore_server.app import create_app
from memstore_server.journal import Journal
from memstore_server.process import run
from memstore_server.settings import Settings
from tests.builders.changing import Bench, texts
from tests.server.fakes import PATIENCE

pytestmark = pytest.mark.anyio
KEY = "a-key-of-this-very-test"
LONG = 180.0  # seconds; a change starts a Python of the lowest priority, which imports torch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("served"), texts(8))


@pytest.fixture
def store(bench: Bench, proxy: Proxy, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    url = f"s3://wiki/served/{re.sub('[^a-z0-9_]', '-', request.node.name)}"
    push(Mirror(Path(shutil.copytree(bench.path, tmp_path / "work")), url), tag=None)
    return Path(url)


@asynccontextmanager
async def serving(bench: Bench, store: Path, **settings: Any) -> AsyncIterator[AsyncClient]:
    given = Settings.load(store=store, model=str(bench.model), drain_seconds=PATIENCE, **settings)
    app = create_app(Answerer.open(store, model=str(bench.model)), given)
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(asyncio.wrap_future(app.state.service.warm_up), PATIENCE)
        async with AsyncClient("http://m", write_key=KEY, transport=httpx.ASGITransport(app), retries=0) as client:
            yield client


async def generation(client: AsyncClient) -> int:
    return int((await client.answer("the river", max_new_tokens=1)).store.generation)


async def test_documents_are_put_and_deleted_and_rolled_back(bench: Bench, store: Path) -> None:
    """By the real command, in a process of its own."""
    async with serving(bench, store, write_key=KEY) as client:
        put = await client.put_documents([{"id": "new", "title": "Nile", "text": "xylophone river"}])
        gone = await client.delete_documents(["d1", "nobody"])
        put, gone = await client.wait(put, timeout=LONG), await client.wait(gone, timeout=LONG)
        assert (put.state, put.error, put.result.added) == ("done", None, 1)
        assert (gone.result.deleted, gone.result.not_found) == (1, 1)
        assert await generation(client) == 3
        [passage] = (await client.document("new")).passages
        assert (await client.retrieve("xylophone")).passages[0].id == passage.id
        assert [one.generation for one in (await client.generations()).generations] == [1, 2, 3]
        assert ((await client.rollback()).generation, await generation(client)) == (2, 2)
        assert (await client.document("d1")).id == "d1"
    assert waiting_inputs(store) == []


@pytest.mark.parametrize("watch", [None, 0.1])
async def test_what_another_machine_changed_is_taken_up(
    bench: Bench, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: float | None
) -> None:
    async with serving(bench, store, watch=watch) as client, asyncio.timeout(PATIENCE):
        before = await generation(client)
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("MEMSTORE_CACHE_DIR", str(tmp_path / "other machine"))
            delete(store, ["d0"])
        if watch is None:
            assert await generation(client) == before
            assert (await client.reload()).generation == before + 1
        while await generation(client) == before:
            pass


def test_a_job_that_waits_is_kept_on_this_machine(store: Path) -> None:
    left = Journal(store)
    job = left.begin("add", ["{}\n"], documents=1, options=(), now=1.0)
    assert left.input(job.id).is_relative_to(kept_beside(store))
    assert waiting_inputs(store) == [left.input(job.id)]
    found = verify(store, sample=0, absent=["d0"])
    assert str(left.input(job.id)) in {problem.where for problem in found.problems}
    left.close()
    again = Journal(store)
    assert [one.id for one in again.take_over()] == [job.id]
    again.close()
    shutil.rmtree(kept_beside(store))


def test_two_writers_are_told_what_to_do(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        alone(store),
        pytest.raises(StoreBusy, match=f"^{BUSY} s3://wiki/.* on this machine: wait for it, and try again"),
    ):
        delete(store, ["d0"])

    def after_theirs(*args: Any, **named: Any) -> None:
        monkeypatch.setattr("memstore.store.working.push", push)
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("MEMSTORE_CACHE_DIR", str(tmp_path / "other machine"))
            delete(store, ["d1"])
        push(*args, **named)

    monkeypatch.setattr("memstore.store.working.push", after_theirs)
    with pytest.raises(StoreBusy, match=f"^{LOST} s3://wiki/.* nothing of this change; run it again"):
        delete(store, ["d0"])
    assert delete(store, ["d0"]).generation == 3


def test_a_key_no_longer_stops_the_start(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda **style: None)
    monkeypatch.setattr("memstore_server.process.serve", lambda *given: True)
    assert run(Settings.load(store=store, write_key=KEY, port=0))
