"""The routes that change a store: who may use them, what they take, and a real store changed through the client."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from memstore.answer import Answerer
from memstore.errors import ConfigError, DiskSpaceError, NotWritable, StoreUnreachable
from memstore.store.history import forget
from memstore.store.holding import only_writer
from memstore_builders.change import delete
from memstore_client import AsyncClient, BadRequest, Conflict, NotFound, PassageInput, Unauthorized
from memstore_server import journal, logs, problems
from memstore_server.app import create_app
from memstore_server.changes import NotOurJob
from memstore_server.editing import Documents
from memstore_server.process import run
from memstore_server.settings import Settings
from tests import tiny
from tests.builders.changing import Bench, texts
from tests.server.fakes import PATIENCE, FakeEngine

pytestmark = pytest.mark.anyio
KEY = "a-key-of-this-very-test"
BEARER = {"Authorization": f"Bearer {KEY}"}
LONG = 180.0  # seconds; a change starts a Python of the lowest priority, which imports torch
KEYED = [
    ("PUT", "/documents", {"documents": [{"id": "a", "text": "b"}]}),
    ("DELETE", "/documents", {"ids": ["a"]}),
    ("GET", "/documents/a", None),
    ("GET", "/jobs/a", None),
    ("DELETE", "/jobs/a", None),
    ("GET", "/generations", None),
    ("POST", "/admin/rollback", {}),
    ("POST", "/admin/reload", None),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("writing"), texts(8))


@pytest.fixture
def bench(built: Bench, tmp_path: Path) -> Bench:
    shutil.copytree(built.path, tmp_path / "store")
    own = Bench.__new__(Bench)
    vars(own).update(vars(built))
    own.path = tmp_path / "store"
    return own


@asynccontextmanager
async def serving(bench: Bench, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A client with the key, of an app over the store."""
    given = {"model": str(bench.model), "write_key": KEY, "drain_seconds": PATIENCE, **settings}
    opened = Answerer.open(bench.path, model=str(bench.model))
    app = create_app(opened, Settings.load(store=bench.path, **given))
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(asyncio.wrap_future(app.state.service.warm_up), PATIENCE)
        async with AsyncClient("http://m", write_key=KEY, transport=httpx.ASGITransport(app), retries=0) as client:
            yield client


async def send(http: httpx.AsyncClient, verb: str, path: str, body: object, **headers: str) -> httpx.Response:
    return await http.request(verb, path, json=body, headers=headers) if body is not None else await http.request(
        verb, path, headers=headers
    )  # fmt: skip


async def test_without_a_key_there_are_no_such_routes(engine: FakeEngine, serving_fake) -> None:
    async with serving_fake() as http:
        for verb, path, body in KEYED[:-1]:
            response = await send(http, verb, path, body, **BEARER)
            assert (response.status_code, path) == (404, path)
        assert (await http.post("/admin/reload")).status_code == 200
        assert not [path for path in (await http.get("/openapi.json")).json()["paths"] if "documents" in path]


@pytest.mark.parametrize("given", [None, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ", "Bearer é"])
async def test_a_wrong_key_is_refused_before_the_body_is_read(serving_fake, tmp_path: Path, given: str | None) -> None:
    async with serving_fake(write_key=KEY, store=tmp_path) as http:
        for verb, path, _ in KEYED:
            headers = {} if given is None else {"Authorization": given.encode("utf-8")}
            response = await http.request(verb, path, content=b"{no JSON", headers=headers)
            assert response.status_code == 401, path
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["type"] == "urn:memstore:problem:unauthorized"
            assert KEY not in response.text
        assert (await http.post("/answer", json={"question": "why?"})).status_code == 200
    assert not (tmp_path / ".jobs").exists()


async def test_the_key_may_be_in_a_file(serving_fake, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    async with serving_fake(write_key_file=tmp_path / "key", store=tmp_path) as http:
        assert (await http.post("/admin/reload")).status_code == 401
        assert (await http.post("/admin/reload", headers=BEARER)).status_code == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"write_key": "short"}, "at least 16 printable ASCII characters"),
        ({"write_key": "with spaces in its middle"}, "no space"),
        ({"write_key_file": Path("nowhere")}, "the write key cannot be read from nowhere"),
        ({"write_key": KEY, "write_key_file": Path("nowhere")}, "two places for one key"),
    ],
)
def test_a_key_that_is_none_stops_the_start(engine: FakeEngine, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        create_app(engine, Settings.load(store="s", **settings))
    assert str(settings.get("write_key")) not in str(caught.value)


def test_a_store_that_cannot_be_written_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda **style: None)
    with pytest.raises(ConfigError, match="nowhere cannot be written, which changing it over HTTP needs"):
        run(Settings.load(store=tmp_path / "nowhere", write_key=KEY, port=0))


@pytest.mark.parametrize(
    ("verb", "path", "body", "pointer"),
    [
        ("PUT", "/documents", {"documents": []}, "#/documents"),
        ("PUT", "/documents", {"documents": [{"id": "a"}]}, "#/documents/0/text"),
        ("PUT", "/documents", {"documents": [{"id": "a", "text": "b", "txt": ""}]}, "#/documents/0/txt"),
        ("PUT", "/documents", {"documents": [{"id": "a", "text": "b"}] * 2}, "#"),
        ("PUT", "/documents", {"documents": [{"id": "a\nb", "text": "b"}]}, "#/documents/0/id"),
        ("PUT", "/documents", {"documents": [{"id": "a", "text": "b"}], "on_existing": "x"}, "#/on_existing"),
        (
            "PUT",
            "/documents",
            {"documents": [{"id": "a", "text": "b", "metadata": {"x": "y" * 2_000}}]},
            "#/documents/0/metadata",
        ),
        ("DELETE", "/documents", {"ids": ["a", "a"]}, "#"),
        ("DELETE", "/documents", {"ids": [""]}, "#/ids/0"),
        ("POST", "/admin/rollback", {"to": 0}, "#/to"),
    ],
)
async def test_wrong_requests(serving_fake, tmp_path: Path, verb: str, path: str, body: dict, pointer: str) -> None:
    async with serving_fake(write_key=KEY, store=tmp_path) as http:
        response = await send(http, verb, path, body, **BEARER)
    assert response.status_code == 422
    assert [one["pointer"] for one in response.json()["errors"]] == [pointer]


async def test_a_body_may_be_as_large_as_changes_are(serving_fake, tmp_path: Path) -> None:
    body = {"documents": [{"id": "a", "text": "b" * 2_000, "wrong": 1}]}
    async with serving_fake(write_key=KEY, store=tmp_path, max_body_bytes=1_000, max_write_bytes=3_000) as http:
        assert (await http.get("/info")).json()["limits"]["write_bytes"] == 3_000
        assert (await http.put("/documents", json=body, headers=BEARER)).status_code == 422  # it was read
        body["documents"][0]["text"] *= 2
        response = await http.put("/documents", json=body, headers=BEARER)
        assert (response.status_code, response.json()["detail"]) == (413, "The body may have at most 3000 bytes.")
        assert (await http.post("/answer", json={"question": "b" * 1_900})).status_code == 413


async def test_documents_are_put_and_deleted_and_the_answers_follow(bench: Bench) -> None:
    """By the real command, in a process of its own, while questions are asked."""

    async def generation() -> int:
        return (await client.answer("the river", max_new_tokens=1)).store.generation

    async with serving(bench) as client:
        before = await client.generations()
        assert [one.change["kind"] for one in before.generations] == ["build"]
        new = {"id": "new", "title": "Nile", "text": "xylophone river", "metadata": {"lang": "en"}}
        job = await client.put_documents([new, {"id": "d0", "text": "and now this"}])
        assert (job.kind, job.state, job.documents) == ("add", "waiting", 2)
        gone = await client.delete_documents(["d1", "nobody"])
        seen = {await generation()}
        while (await client.job(job.id)).state in ("waiting", "running"):
            seen.add(await generation())
        assert seen <= {1, 2}
        put = await client.wait(job, timeout=LONG)
        assert (put.result.generation, put.result.added, put.result.replaced) == (2, 1, 1)
        assert await generation() >= 2
        deleted = await client.wait(gone, timeout=LONG)
        assert (deleted.result.deleted, deleted.result.not_found, deleted.result.missing) == (1, 1, ["nobody"])
        document = await client.document("new")
        assert (document.title, document.passages[0].text, document.store.generation) == ("Nile", "xylophone river", 3)
        assert document.metadata == document.passages[0].metadata == {"lang": "en"}
        assert (await client.retrieve("xylophone")).passages[0].id == document.passages[0].id
        with pytest.raises(NotFound, match="no document with id 'd1' in generation 3"):
            await client.document("d1")
        listed = await client.generations()
        assert [(one.generation, one.in_force) for one in listed.generations] == [(1, False), (2, False), (3, True)]
        assert listed.answering == 3
        back = await client.rollback()
        assert (back.generation, back.changed) == (2, True)
        assert (await client.document("d1")).id == "d1"
        assert (await client.rollback(to=1)).generation == await generation() == 1
        with pytest.raises(BadRequest, match="is the first: there is none to go back to"):
            await client.rollback()


async def test_looking_at_a_document_does_not_keep_its_generation(bench: Bench) -> None:
    async with serving(bench) as client:
        assert (await client.document("d0")).store.generation == 1
        delete(bench.path, ["d0"])
        assert forget(bench.path).in_use == (1,)
        assert (await client.reload()).generation == 2
        assert forget(bench.path).removed == (1,)
        assert (await client.document("d1")).store.generation == 2


async def test_what_stands_in_the_way_of_going_back(bench: Bench, tmp_path: Path) -> None:
    async with serving(bench) as client:
        delete(bench.path, ["d0"])
        with pytest.raises(NotFound, match="no generation 7; it has 1, 2") as missing:
            await client.rollback(to=7)
        assert missing.value.problem.type == "urn:memstore:problem:generation-not-found"
        with only_writer(bench.path), pytest.raises(Conflict, match="Another change is under way") as busy:
            await client.rollback(to=1)
        assert busy.value.problem.type == "urn:memstore:problem:store-busy"
        other = Bench(tmp_path / "other", texts(4, seed=3), model=tiny.save_checkpoint(tmp_path / "model", seed=5))
        shutil.copy(other.path / "generations" / "000001.json", bench.path / "generations" / "000001.json")
        with pytest.raises(Conflict, match=r"generation 1 is not of this server's model.*encoder"):
            await client.rollback(to=1)
        assert (await client.generations()).answering == 1  # from before the deletion


async def test_jobs_are_known_and_cancelled_over_http(bench: Bench) -> None:
    async with serving(bench, max_changes=1) as client:
        with only_writer(bench.path):  # so that none begins
            first = await client.delete_documents(["d0"])
            while (await client.job(first.id)).state == "waiting":
                pass
            second = await client.delete_documents(["d1"])
            http = client._http
            refused = await http.request("DELETE", "/documents", json={"ids": ["d2"]}, headers=BEARER)
            assert (refused.status_code, refused.json()["type"]) == (429, "urn:memstore:problem:too-many-changes")
            assert refused.headers["retry-after"] == "5"
            assert (await client.cancel(second.id)).state == "cancelled"
            accepted = await http.request("DELETE", "/documents", json={"ids": ["d2"]}, headers=BEARER)
            assert accepted.status_code == 202
            assert accepted.headers["location"] == f"/jobs/{accepted.json()['id']}"
            assert (await client.cancel(accepted.json()["id"])).state == "cancelled"
            assert (await client.cancel(first.id)).state == "cancelled"
        with pytest.raises(NotFound, match="there is no job 'nothing'"):
            await client.job("nothing")
    assert not list(bench.path.glob(".jobs/*/input"))


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        (DiskSpaceError("no room is left in /srv/store"), problems.NO_ROOM, None),
        (NotOurJob("job 1f is another server's: cancel it there"), problems.OTHER_SERVER, None),
        (StoreUnreachable("s3://wiki/srv could not be had in 30 s"), problems.STORE_UNREACHABLE, "10"),
        (NotWritable("/srv/store cannot be changed"), problems.STORE_READ_ONLY, None),
    ],
)
def test_what_is_said_of_rare_refusals(error: Exception, kind: problems.Kind, retry: str | None) -> None:
    trouble = problems.describe(error)
    assert trouble.kind == kind
    assert "/srv" not in trouble.detail
    assert trouble.headers.get("Retry-After") == retry


@pytest.mark.parametrize(("verb", "name", "one"), [("PUT", "documents", {"id": 1}), ("DELETE", "ids", 1)])
async def test_too_many_documents_are_refused_before_any_is_checked(
    serving_fake, tmp_path: Path, verb: str, name: str, one: object
) -> None:
    """Each of them is wrong too, of which nothing is said."""
    async with serving_fake(write_key=KEY, store=tmp_path) as http:
        response = await send(http, verb, "/documents", {name: [one] * 20_001}, **BEARER)
    said = "20001 are more than 20000, the most in one request: send several requests"
    assert response.status_code == 422
    assert response.json()["errors"] == [{"pointer": f"#/{name}", "detail": said}]


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.EPERM])
async def test_a_store_that_became_read_only_says_so(
    serving_fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: int
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    async with serving_fake(write_key=KEY, store=tmp_path) as http:
        monkeypatch.setattr(journal, "sync", refused)
        response = await send(http, "PUT", "/documents", {"documents": [{"id": "a", "text": "b"}]}, **BEARER)
    assert (response.status_code, response.json()["type"]) == (507, "urn:memstore:problem:store-read-only")
    assert "make it writable" in response.json()["detail"]
    (logged,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert str(tmp_path) in logged.message
    assert logged.exc_info is None
    assert not journal.Journal(tmp_path).take_over()


async def test_a_key_of_another_server(bench: Bench) -> None:
    async with serving(bench) as client:
        stranger = AsyncClient("http://m", write_key="another-key-than-that", transport=client._http._transport)
        with pytest.raises(Unauthorized, match="this is not the server's write key"):
            await stranger.generations()
        assert (await stranger.rerank("a", [PassageInput(text="b")])).passages


def test_a_documents_passages_are_whole_though_another_document_says_the_same(tmp_path: Path) -> None:
    same = ("Paris", "one two three four. five six seven eight.")
    bench = Bench(tmp_path, {"a": same, "b": ("Paris", f"{same[1]} nine ten eleven."), "c": ("Nile", "twelve")})
    documents = Documents(bench.path)
    found = documents.passages("b", generation=1)
    assert [p.text for p in found] == ["one two three four.", "five six seven eight.", "nine ten eleven."]
    assert {p.document_id for p in found} == {"b"}
    delete(bench.path, ["a"])  # its passages come to life as b's
    after = documents.passages("b", generation=2)
    assert [(p.id, p.text) for p in after] == [(p.id, p.text) for p in found]
    documents.close()
