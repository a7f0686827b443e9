"""Two real stores in one server: one model in memory, each answers from its own passages; what does not fit is refused
by its name.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from memstore.answer import Answerer
from memstore.cli import app as cli
from memstore.errors import ConfigError, FingerprintMismatch, StoreNotFound
from memstore.store import read_generation
from memstore_client import AsyncClient, Client, NotFound
from memstore_server.app import create_app
from memstore_server.collection import open_all
from memstore_server.settings import Settings
from tests import tiny
from tests.builders.changing import Bench, texts
from tests.server.fakes import PATIENCE
from tests.server.test_serve_process import SERVE, served

pytestmark = pytest.mark.anyio
KEY = "a-key-of-this-very-test"
LONG = 180.0  # seconds; a change starts a Python of its own, which imports torch


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """Two of one model, one of them hybrid, and one of another model."""
    folder = tmp_path_factory.mktemp("collections")
    other = tiny.save_checkpoint(folder / "other-model", seed=5)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "c").mkdir()
    first = Bench(folder / "a", texts(6) | {"here": ("Nile", "xylophone river")})
    return {
        "a": first,
        "b": Bench(folder / "b", texts(5, seed=3) | {"there": ("Rhine", "xylophone lake")}, retriever="hybrid"),
        "c": Bench(folder / "c", texts(4, seed=4), model=other),
    }


def settings_of(benches: dict[str, Bench], *names: str, **more: Any) -> Settings:
    return Settings.load(store=[f"{name}={benches[name].path}" for name in names], **more)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[AsyncClient]:
    app = create_app(open_all(settings), settings)
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(asyncio.wrap_future(app.state.service.warm_up), PATIENCE)
        async with AsyncClient("http://m", write_key=KEY, transport=httpx.ASGITransport(app), retries=0) as client:
            yield client


def test_one_model_is_in_memory_for_all_of_them(benches: dict[str, Bench]) -> None:
    opened = open_all(settings_of(benches, "a", "b", model=str(benches["a"].model)))
    first, second = opened["a"], opened["b"]
    assert isinstance(first, Answerer)
    assert isinstance(second, Answerer)
    assert second.model is first.model
    assert second.prepared is first.prepared
    assert second.store.path != first.store.path
    for one in opened.values():
        one.close()


async def test_each_answers_from_its_own_store_as_a_server_of_it_alone(benches: dict[str, Bench]) -> None:
    model = str(benches["a"].model)
    question = "xylophone"
    async with serving(settings_of(benches, "a", "b", model=model)) as client:
        for name, document in (("a", "here"), ("b", "there"), (None, "here")):
            found = await client.retrieve(question, retrieve_k=1, collection=name)
            assert [one.id.partition(":")[0] for one in found.passages] == [document]
            reply = await client.answer(question, max_new_tokens=4, collection=name)
            async with serving(Settings.load(store=benches[name or "a"].path, model=model)) as alone:
                expected = await alone.answer(question, max_new_tokens=4)
            assert reply.answer == expected.answer
            assert [p.id for p in reply.passages] == [p.id for p in expected.passages]
            assert reply.score == pytest.approx(expected.score, rel=1e-4)
            assert reply.store.collection == (name or "a")
        await client.passage("there:0", collection="b")
        with pytest.raises(NotFound):
            await client.passage("there:0")
        info = await client.info()
        assert [(one.collection, one.retriever, one.model.name) for one in info.collections] == [
            ("a", "bm25", "tiny"), ("b", "hybrid", "tiny")
        ]  # fmt: skip


def test_a_store_of_another_model_is_refused_by_name(benches: dict[str, Bench]) -> None:
    settings = settings_of(benches, "a", "c", model=str(benches["a"].model))
    with pytest.raises(ConfigError, match=r"collection c, .*encoder.*--model c=PATH") as caught:
        open_all(settings)
    assert isinstance(caught.value.__cause__, FingerprintMismatch)


async def test_it_may_have_a_model_of_its_own(benches: dict[str, Bench]) -> None:
    models = [str(benches["a"].model), f"c={benches['c'].model}"]
    async with serving(settings_of(benches, "a", "c", model=models)) as client:
        replies = [await client.answer("river", max_new_tokens=2, collection=name) for name in ("a", "c")]
        assert [reply.store.collection for reply in replies] == ["a", "c"]
        prints = [(await client.info(collection=name)).model.fingerprint for name in ("a", "c")]
        assert len(set(prints)) == 2


def test_two_names_for_one_folder_and_a_folder_that_is_not_there(benches: dict[str, Bench], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(benches["a"].path)
    twice = Settings.load(store=[f"a={benches['a'].path}", f"b={tmp_path / 'link'}"])
    with pytest.raises(ConfigError, match="the collections a and b are the same folder"):
        open_all(twice)
    with pytest.raises(StoreNotFound, match="nowhere"):
        open_all(Settings.load(store=[f"a={benches['a'].path}", "b=nowhere"], model=str(benches["a"].model)))


async def test_a_change_over_http_is_of_one_collection(benches: dict[str, Bench], tmp_path: Path) -> None:
    own = {}
    for name in ("a", "b"):
        shutil.copytree(benches[name].path, tmp_path / name)
        own[name] = f"{name}={tmp_path / name}"
    settings = Settings.load(store=list(own.values()), model=str(benches["a"].model), write_key=KEY)
    async with serving(settings) as client:
        job = await client.wait(await client.delete_documents(["there"], collection="b"), timeout=LONG)
        assert (job.state, job.collection) == ("done", "b")
        assert [read_generation(tmp_path / name).number for name in own] == [1, 2]
        assert [(await client.generations(collection=name)).answering for name in own] == [1, 2]
        with pytest.raises(NotFound):
            await client.document("there", collection="b")
        assert (await client.document("here")).store.collection == "a"
        back = await client.rollback(collection="b")
        assert (back.collection, back.generation) == ("b", 1)
        assert (await client.document("there", collection="b")).title == "Rhine"


def test_the_command_line_asks_the_collection_that_it_names(benches: dict[str, Bench], monkeypatch) -> None:
    asked = []

    class Asked:
        def __init__(self, _url: str, **_: object) -> None: ...

        def __enter__(self) -> Asked:
            return self

        def __exit__(self, *_: object) -> None: ...

        def answer(self, question: str, **options: Any) -> None:
            asked.append((question, options))
            raise ConfigError("enough")

    monkeypatch.setattr("memstore_client.Client", Asked)
    runner = CliRunner()
    runner.invoke(cli, ["ask", "why?", "--url", "http://m", "--collection", "b"])
    runner.invoke(cli, ["ask", "why?", "--url", "http://m"])
    assert asked == [("why?", {"collection": "b"}), ("why?", {})]
    refused = runner.invoke(cli, ["ask", "why?", "--store", str(benches["a"].path), "--collection", "b"])
    assert "--collection is for --url" in str(refused.exception)


def test_a_hangup_has_all_of_them_reloaded() -> None:
    script = SERVE.replace('store="store"', 'store=["a=x", "b=y"]').replace(
        "create_app(engine,", "create_app(engines,"
    ).replace(
        "def load(progress):\n", "def load(progress):\n    engines = {'a': engine, 'b': FakeEngine()}\n"
        "    for one in engines.values():\n        one.newest = 5\n",
    )  # fmt: skip
    with served(script=script) as process:
        try:
            with Client(process.stdout.readline().split()[-1]) as client:
                process.send_signal(signal.SIGHUP)
                late = time.monotonic() + PATIENCE
                while [one.generation for one in client.info().collections] != [5, 5]:
                    assert time.monotonic() < late
        finally:
            process.send_signal(signal.SIGTERM)
            _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert all(f"collection {name}: generation 5 answers after 4" in logged for name in "ab")
