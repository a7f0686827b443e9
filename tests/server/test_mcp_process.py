"""`memstore mcp` as a process: over stdio and over streamable HTTP, beside a store and beside a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

from memstore_server.keyring import add_key
from tests.server.fakes import FakeEngine
from tests.server.live import live_server
from tests.server.test_serve_process import ROOT, served

pytestmark = pytest.mark.anyio
BESIDE_A_STORE = """
import sys
from memstore import cli
from memstore.answer import Answerer
from memstore_server.keyring import add_key
from tests.server.fakes import FakeEngine

Answerer.open = lambda *_, **__: print("on standard output") or FakeEngine()
sys.argv = ["memstore", "mcp", *sys.argv[1:]]
cli.main()
"""
BESIDE_A_SERVER = """
import sys
sys.modules["torch"] = sys.modules["fastapi"] = None  # neither is needed
sys.argv = ["memstore", "mcp", *sys.argv[1:]]
from memstore import cli
cli.main()
"""


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the last word of what it prints first: its address."""
    with served(*arguments, script=BESIDE_A_STORE) as process:
        try:
            assert process.stdout is not None
            yield process, next(line for line in process.stdout if line.startswith("memstore: ")).split()[-1]
        finally:
            process.kill()
            process.communicate(timeout=30)


def over_stdio(script: str, *arguments: str, **variables: str) -> Client:
    command = ["-W", "error", "-c", script, *arguments]
    env = {**os.environ, **variables} if variables else None
    return Client(stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env=env)))


async def asked(client: Client) -> str:
    async with client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"answer", "search"}
        result = await client.call_tool("answer", {"question": "why?"})
        assert result.structured_content is not None, result
        return str(result.structured_content["answer"])


async def test_over_stdio_beside_a_store() -> None:
    assert await asked(over_stdio(BESIDE_A_STORE, "--store", "store")) == "why?!"


async def test_over_stdio_beside_a_server() -> None:
    with live_server(FakeEngine()) as url:
        assert await asked(over_stdio(BESIDE_A_SERVER, "--url", url)) == "why?!"


async def test_the_servers_key_is_in_the_variable_or_in_a_file(tmp_path: Path) -> None:
    key, place = add_key(tmp_path / "keys.json", "agent"), tmp_path / "key"
    place.write_text(f"{key}\n")
    with live_server(FakeEngine(), keys_file=tmp_path / "keys.json") as url:
        assert await asked(over_stdio(BESIDE_A_SERVER, "--url", url, MEMSTORE_API_KEY=key)) == "why?!"
        assert await asked(over_stdio(BESIDE_A_SERVER, "--url", url, "--api-key-file", str(place))) == "why?!"


async def test_over_http_with_keys_of_its_own(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "agent", per_minute=100)
    with running("--store", "store", "--http", "--port", "0", "--keys-file", str(tmp_path / "keys.json")) as (
        _,
        address,
    ):
        for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": f"Basic {key}"}):
            async with httpx.AsyncClient(headers=headers) as http:
                refused = await http.post(address, json={})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "key" in refused.json()["error"]
        async with create_mcp_http_client(headers={"Authorization": f"Bearer {key}"}) as http:
            assert await asked(Client(streamable_http_client(address, http_client=http))) == "why?!"


async def test_over_http_until_asked_to_stop() -> None:
    with running("--store", "store", "--http", "--port", "0") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert address.endswith("/mcp")
        assert await asked(Client(address)) == "why?!"
        async with httpx.AsyncClient() as http:  # as a page of another site would whose name was bent to this machine
            foreign = await http.post(address, json={}, headers={"Host": "memstore.example"})
        assert foreign.status_code == 421
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=30)
        assert process.returncode == 0, logged
        assert "Traceback" not in logged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name either a store to read (--store DIR) or a server to ask (--url URL)"),
        (("--store", "a", "--url", "http://b"), "name either"),
        (("--url", "b"), "--url: b is no address that can be asked"),
        (("--url", "http://b", "--model", "c"), "--model and --device are for --store"),
        (("--store", "a", "--api-key-file", "key"), "--api-key-file is for --url: a store asks for no key"),
        (("--url", "http://b", "--keys-file", "keys.json"), "--keys-file is for --http"),
        (("--url", "http://b", "--log-level", "loud"), "--log-level loud is none of debug, info, warning, error"),
        (("--url", "http://b", "--http", "--host", "a..b"), "is no address to listen on"),
    ],
)
def test_mistakes_are_said_in_a_line(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memstore import cli

    monkeypatch.setattr("sys.argv", ["memstore", "mcp", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
