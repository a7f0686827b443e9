"""One server, several collections: batches are of one, and each is asked, looked at, reloaded and changed by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from memstore.answer import Question
from memstore_client import AsyncClient, NotFound
from memstore_server.batching import EngineThread
from memstore_server.editing import Editors
from memstore_server.settings import Settings
from tests.server.fakes import PATIENCE, FakeEngine, admission
from tests.server.sse import events

pytestmark = pytest.mark.anyio
KEY = "a-key-of-this-very-test"
BEARER = {"Authorization": f"Bearer {KEY}"}
STORES = ["wiki=w", "news=n"]


@pytest.fixture
def engines() -> dict[str, FakeEngine]:
    """Of generations 4 and 14, which share nothing."""
    made = {"wiki": FakeEngine(), "news": FakeEngine()}
    made["news"].generation = made["news"].newest = 14
    return made


@pytest.fixture(params=[0.0])
def thread(request: pytest.FixtureRequest, engines: dict[str, FakeEngine]) -> Iterator[EngineThread]:
    made = EngineThread(engines, admission=admission(queue_size=20, max_batch=4), max_wait=request.param)
    made.start()
    yield made
    for engine in engines.values():
        engine.gate.set()
    assert made.close(timeout=PATIENCE)


def ask(thread: EngineThread, text: str, collection: str | None = None):
    (future,) = thread.ask([Question(text)], collections=[collection])
    return future


def keep_busy(thread: EngineThread, engine: FakeEngine):
    """The thread is inside a batch of the engine, until its gate opens."""
    engine.gate.clear()
    busy = thread.ask([Question(f"busy {n}") for n in range(4)])[0]
    assert engine.begun.acquire(timeout=PATIENCE)
    return busy


def by(future) -> tuple[str, int]:
    """The collection and the generation that answered."""
    by = future.result(PATIENCE).by
    return by["collection"], by["store"]["generation"]


# --- the thread --------------------------------------------------------------------------------------------------


def test_a_batch_is_of_one_collection_and_nobody_is_overtaken_by_a_later_batch(thread, engines) -> None:
    keep_busy(thread, engines["wiki"])
    asked = [ask(thread, f"{name} {n}", name) for n in range(3) for name in ("news", "wiki")]
    engines["wiki"].gate.set()
    assert [by(future)[0] for future in asked] == ["news", "wiki"] * 3
    assert engines["news"].batches == [["news 0", "news 1", "news 2"]]
    assert engines["wiki"].batches[1:] == [["wiki 0", "wiki 1", "wiki 2"]]


@pytest.mark.parametrize("thread", [2 * PATIENCE], indirect=True)
def test_nobody_is_held_back_for_company_while_another_collection_waits(thread, engines) -> None:
    """The hold is longer than anybody would wait for: with it, the first answer would not come."""
    keep_busy(thread, engines["wiki"])
    first = ask(thread, "alone", "news")
    second = [ask(thread, f"w {n}", "wiki") for n in range(4)]
    engines["wiki"].gate.set()
    assert by(first) == ("news", 14)
    assert by(second[0]) == ("wiki", 4)


def test_a_change_of_one_collection_parts_its_own_questions_alone(thread, engines) -> None:
    keep_busy(thread, engines["wiki"])
    other = engines["news"].__class__()
    other.generation = 15
    before = [ask(thread, "n1", "news"), ask(thread, "w1", "wiki")]
    replaced = thread.replace(other, collection="news")
    after = [ask(thread, "n2", "news"), ask(thread, "w2", "wiki")]
    engines["wiki"].gate.set()
    assert [by(one) for one in (*before, *after)] == [("news", 14), ("wiki", 4), ("news", 15), ("wiki", 4)]
    assert replaced.result(PATIENCE).value is engines["news"]
    assert engines["wiki"].batches[1:] == [["w1", "w2"]]
    assert thread.info_of("news")["store"]["generation"] == 15
    assert thread.info_of()["store"]["generation"] == 4


def test_questions_of_several_collections_are_admitted_together_or_not_at_all(thread, engines) -> None:
    asked = thread.ask([Question("a"), Question("b")], collections=["news", None])
    assert [by(one)[0] for one in asked] == ["news", "wiki"]
    with pytest.raises(ValueError, match="zip"):
        thread.ask([Question("a"), Question("b")], collections=["news"])


# --- over HTTP ---------------------------------------------------------------------------------------------------


async def test_each_is_warmed_up_and_the_first_is_the_default(serving, engines) -> None:
    async with serving(engines=engines, store=STORES, queue_size=1) as http:
        for named, generation in ((None, 4), ("wiki", 4), ("news", 14)):
            body = {"question": "why?"} | ({} if named is None else {"collection": named})
            reply = (await http.post("/answer", json=body)).json()
            expected = {"collection": named or "wiki", "generation": generation, "passages": 2}
            assert reply["store"] == expected
            assert (await http.post("/retrieve", json=body)).json()["store"] == expected
            streamed = await http.post("/answer", json={**body, "stream": True})
            assert events(streamed.text)[-1][1]["store"] == expected
            info = (await http.get("/info", params={} if named is None else {"collection": named})).json()
            assert info["store"].items() >= expected.items()
            assert [(one["collection"], one["generation"]) for one in info["collections"]] == [
                ("wiki", 4), ("news", 14)
            ]  # fmt: skip
    assert [len(engine.questions) for engine in engines.values()] == [5, 3]


async def test_a_batch_may_ask_several_and_a_passage_is_one_collections(serving, engines) -> None:
    engines["news"].stored = ()
    async with serving(engines=engines, store=STORES) as http:
        asked = [{"question": "a", "collection": "news"}, {"question": "b"}, {"question": "c", "collection": "news"}]
        items = (await http.post("/answer/batch", json={"questions": asked})).json()["items"]
        assert [one["answer"]["store"]["collection"] for one in items] == ["news", "wiki", "news"]
        assert (await http.get("/passages/7:0")).status_code == 200
        assert (await http.get("/passages/7:0", params={"collection": "news"})).status_code == 404
        topics = (await http.get("/page/examples", params={"collection": "news"})).json()["topics"]
        assert (topics, (await http.get("/page/examples")).json()["topics"]) == ([], ["Otter", "Slash"])


async def test_one_that_is_not_there_is_refused_with_those_that_are(serving, engines, tmp_path: Path) -> None:
    own = [{"text": "a"}]
    stores = [f"{name}={tmp_path / name}" for name in engines]
    documents = [{"id": "a", "text": "b"}]
    asked = [
        ("POST", "/answer", {"question": "why?", "collection": "x"}),
        ("POST", "/answer", {"question": "why?", "collection": "x", "stream": True}),
        ("POST", "/answer/batch", {"questions": [{"question": "a"}, {"question": "b", "collection": "x"}]}),
        ("POST", "/retrieve", {"question": "why?", "collection": "x"}),
        ("POST", "/rerank", {"question": "why?", "passages": own, "collection": "x"}),
        ("PUT", "/documents", {"documents": documents, "collection": "x"}),
        ("DELETE", "/documents", {"ids": ["a"], "collection": "x"}),
        ("POST", "/admin/rollback", {"collection": "x"}),
        *(("GET", path, None) for path in ("/passages/7:0", "/info", "/documents/a", "/generations", "/page/examples")),
        ("POST", "/admin/reload", None),
    ]
    async with serving(engines=engines, store=stores, write_key=KEY) as http:
        for verb, path, body in asked:
            query = {"collection": "x"} if body is None else None
            refused = await http.request(verb, path, json=body, params=query, headers=BEARER)
            assert (refused.status_code, path) == (404, path)
            assert refused.json()["type"] == "urn:memstore:problem:collection-not-found"
            assert refused.json()["detail"] == "there is no collection 'x' here; there are: wiki, news"
        client = AsyncClient("http://memstore", transport=http._transport)
        with pytest.raises(NotFound, match="there are: wiki, news"):
            await client.answer("why?", collection="x")
    assert [engine.batches for engine in engines.values()] == [[], []]


async def test_each_is_reloaded_by_itself(serving, engines) -> None:
    async with serving(engines=engines, store=STORES) as http:
        engines["wiki"].newest, engines["news"].newest = 5, -1
        damaged = await http.post("/admin/reload", params={"collection": "news"})
        assert damaged.json()["detail"].startswith("generation 14 goes on answering: ")
        first = (await http.post("/admin/reload")).json()
        assert (first["collection"], first["generation"], first["changed"]) == ("wiki", 5, True)
        listed = (await http.get("/info")).json()["collections"]
        assert [(one["generation"], one["reload_error"] is None) for one in listed] == [(5, True), (14, False)]
        assert (await http.post("/answer", json={"question": "?", "collection": "news"})).json()["store"][
            "generation"
        ] == 14


async def test_each_has_the_beams_of_its_own_model(serving, engines, monkeypatch: pytest.MonkeyPatch) -> None:
    info = engines["news"].info()
    monkeypatch.setattr(engines["news"], "info", lambda: {**info, "model": {**info["model"], "num_beams": 4}})
    async with serving(engines=engines, store=STORES) as http:
        defaults = [(await http.get("/info", params={"collection": name})).json()["defaults"] for name in engines]
        assert [one["num_beams"] for one in defaults] == [1, 4]
        for name in engines:
            await http.post("/answer", json={"question": "why?", "collection": name})
    assert [[q.num_beams for q in engine.questions] for engine in engines.values()] == [[1, 1], [4, 4]]


async def test_a_change_is_of_the_collection_that_it_names(serving, engines, tmp_path: Path) -> None:
    """It fails, as its folder is no store; its job says whose it is, and is found by its id alone."""
    stores = [f"{name}={tmp_path / name}" for name in engines]
    for name in engines:
        (tmp_path / name).mkdir()
    async with serving(engines=engines, store=stores, write_key=KEY) as http:
        body = {"documents": [{"id": "a", "text": "b"}], "collection": "news"}
        begun = await http.put("/documents", json=body, headers=BEARER)
        assert (begun.status_code, begun.json()["collection"]) == (202, "news")
        editors: Editors = http._transport.app.state.editors
        async with asyncio.timeout(PATIENCE):
            while (job := (await http.get(begun.headers["Location"], headers=BEARER)).json())["ended"] is None:
                pass
        assert (job["collection"], job["state"]) == ("news", "failed")
        assert [list((tmp_path / name / ".jobs").glob("*/job.json")) == [] for name in engines] == [True, False]
        assert (await http.delete(f"/jobs/{job['id']}", headers=BEARER)).json()["collection"] == "news"
        assert (await http.get("/jobs/none", headers=BEARER)).json()["type"] == "urn:memstore:problem:job-not-found"
        assert editors.of(None) is editors.of("wiki")


@pytest.mark.parametrize(("given", "device"), [({}, "cuda"), ({"write_device": "cpu"}, "cpu")])
async def test_changes_encode_where_the_settings_say(
    serving, engines, tmp_path: Path, given: dict, device: str
) -> None:
    stores = [f"{name}={tmp_path / name}" for name in engines]
    models = ["m", "news=n"]
    async with serving(engines=engines, store=stores, model=models, write_key=KEY, device="cuda", **given) as http:
        editors: Editors = http._transport.app.state.editors
        for name, model in (("wiki", "m"), ("news", "n")):
            assert editors.of(name)._changes._encoding == ["--device", device, "--model", model]


def test_settings_give_the_only_store_a_name() -> None:
    assert list(Settings.load(store="s").stores) == ["default"]
