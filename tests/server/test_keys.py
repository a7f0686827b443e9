"""Keys: made, listed and revoked in a file; asked for over HTTP, read and write apart, each with its limit."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from memstore import cli
from memstore.errors import ConfigError
from memstore_client import AsyncClient, Unauthorized
from memstore_server import keyring
from memstore_server.keyring import KeyRing, TooManyRequests, add_key, read_keys, revoke_key

ASKED = {"question": "why?"}
OLD = "a-key-of-sixteen"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.mark.anyio
async def test_who_shows_no_key_may_not_ask(serving, file: Path) -> None:
    key = add_key(file, "reader")
    async with serving(keys_file=file) as http:
        for headers in ({}, bearer("another"), {"Authorization": f"Basic {key}"}):
            for refused in (
                await http.post("/answer", json=ASKED, headers=headers),
                await http.get("/info", headers=headers),
                await http.get("/page/examples", headers=headers),
                await http.get("/passages/7:0", headers=headers),
            ):
                assert (refused.status_code, refused.json()["type"]) == (401, "urn:memstore:problem:unauthorized")
                assert refused.headers["www-authenticate"] == "Bearer"
                assert key not in refused.text
        for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/page/page.js"):
            assert (await http.get(path)).status_code == 200, path
        assert (await http.post("/answer", json=ASKED, headers=bearer(key))).status_code == 200


@pytest.mark.anyio
async def test_who_may_ask_may_not_change(serving, file: Path, tmp_path: Path) -> None:
    reader, writer = add_key(file, "reader"), add_key(file, "writer", writes=True)
    async with serving(keys_file=file, store=tmp_path) as http:
        refused = await http.post("/admin/reload", headers=bearer(reader))
        assert (refused.status_code, "may ask, and not change" in refused.text) == (401, True)
        assert (await http.post("/admin/reload", headers=bearer(writer))).status_code == 200
        assert (await http.post("/answer", json=ASKED, headers=bearer(writer))).status_code == 200


@pytest.mark.anyio
async def test_without_a_key_that_writes_nothing_can_be_changed(serving, file: Path) -> None:
    key = add_key(file, "reader")
    async with serving(keys_file=file) as http:
        assert (await http.put("/documents", json={"documents": []}, headers=bearer(key))).status_code == 404


@pytest.mark.anyio
async def test_the_write_key_of_old_still_does_both(serving, file: Path, tmp_path: Path) -> None:
    add_key(file, "reader")
    async with serving(keys_file=file, write_key=OLD, store=tmp_path) as http:
        assert (await http.post("/admin/reload", headers=bearer(OLD))).status_code == 200
        assert (await http.post("/answer", json=ASKED, headers=bearer(OLD))).status_code == 200


@pytest.mark.anyio
async def test_a_key_that_asks_too_often_is_told_when_to_come_back(serving, file: Path) -> None:
    limited, free = add_key(file, "limited", per_minute=1), add_key(file, "free")
    async with serving(keys_file=file) as http:
        http._transport.app.state.gate._ring._clock = lambda: 0.0
        replies = [await http.post("/answer", json=ASKED, headers=bearer(limited)) for _ in range(2)]
        assert [one.status_code for one in replies] == [200, 429]
        assert replies[1].json()["type"] == "urn:memstore:problem:too-many-requests"
        assert int(replies[1].headers["retry-after"]) >= 60
        assert (await http.post("/answer", json=ASKED, headers=bearer(free))).status_code == 200


def test_a_limit_fills_up_again_with_time(file: Path) -> None:
    now = [0.0]
    key = add_key(file, "limited", per_minute=6)
    ring = KeyRing(file, clock=lambda: now[0])
    for _ in range(6):
        ring.spend(key)
    with pytest.raises(TooManyRequests) as caught:
        ring.spend(key)
    assert caught.value.retry_after == 10
    now[0] += 10.5
    ring.spend(key)
    with pytest.raises(TooManyRequests):
        ring.spend(key)
    now[0] += 10_000.0
    for _ in range(6):
        ring.spend(key)


def test_a_revoked_key_is_refused_at_once(file: Path) -> None:
    kept, gone = add_key(file, "kept"), add_key(file, "gone")
    ring = KeyRing(file)
    ring.spend(gone)
    revoke_key(file, "gone")
    with pytest.raises(keyring.Unauthorized):
        ring.spend(gone)
    ring.spend(kept)
    file.unlink()
    with pytest.raises(keyring.Unauthorized):
        ring.spend(kept)


def test_the_file_holds_no_key(file: Path) -> None:
    key = add_key(file, "one")
    assert key not in file.read_text()
    assert len(key) > 40
    assert key != add_key(file, "two")


@pytest.mark.parametrize("name", ["one", " "])
def test_a_name_is_needed_and_taken_once(file: Path, name: str) -> None:
    add_key(file, "one")
    with pytest.raises(ConfigError, match=r"revoke it, or take another name|a key needs a name"):
        add_key(file, name)
    with pytest.raises(ConfigError, match="has no key 'nobody'; it has: one"):
        revoke_key(file, "nobody")


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{"name": "x"}]}', '{"keys": 5}'])
def test_a_file_that_holds_something_else_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json cannot be read as keys"):
        read_keys(file)


def test_a_server_does_not_start_without_any_key(file: Path) -> None:
    with pytest.raises(ConfigError, match="has no key: make one with `memstore keys add NAME --file"):
        KeyRing(file)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["keys", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_commands(file: Path) -> None:
    key = run("add", "me", "--file", str(file), "--per-minute", "60").strip()
    KeyRing(file).spend(key)
    run("add", "editor", "--file", str(file), "--write")
    lines = run("list", "--file", str(file)).splitlines()
    assert lines[0].startswith("me: asks, 60 a minute, since ")
    assert lines[1].startswith("editor: asks and changes, since ")
    assert [one["name"] for one in json.loads(run("list", "--file", str(file), "--json"))["keys"]] == ["me", "editor"]
    run("revoke", "me", "--file", str(file))
    assert [one.name for one in read_keys(file)] == ["editor"]


@pytest.mark.anyio
async def test_the_client_shows_its_key(serving, file: Path) -> None:
    key = add_key(file, "reader")
    async with serving(keys_file=file) as http:
        app = http._transport.app
        async with AsyncClient("http://m", api_key=key, transport=httpx.ASGITransport(app)) as client:
            assert (await client.answer("why?")).answer == "why?!"
        async with AsyncClient("http://m", transport=httpx.ASGITransport(app)) as client:
            with pytest.raises(Unauthorized):
                await client.answer("why?")


@pytest.mark.anyio
async def test_pages_elsewhere_may_ask_where_their_origin_is_named(serving, file: Path) -> None:
    add_key(file, "reader")
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    async with serving(keys_file=file, cors_origin=["https://example.org"]) as http:
        preflight = await http.options("/answer", headers=asks)
        refused = await http.post("/answer", json=ASKED, headers={"Origin": "https://example.org"})
        other = await http.options("/answer", headers={**asks, "Origin": "https://elsewhere.org"})
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://example.org")
    assert "access-control-allow-origin" not in other.headers
