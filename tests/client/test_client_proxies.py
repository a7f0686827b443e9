"""Proxies that the environment names: for servers elsewhere, not for one on this machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from memstore_client import AsyncClient, Client, ConnectionFailed


class Listener(HTTPServer):
    """Says that it is alive, and notes what it is asked for: a path, or of a proxy the whole address."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Alive)
        self.asked: list[str] = []


class Alive(BaseHTTPRequestHandler):
    """The reply of `GET /health`, whatever is asked."""

    server: Listener

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "alive"}')

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)


def health(url: str, *, awaited: bool) -> None:
    async def ask() -> None:
        async with AsyncClient(url, retries=0) as client:
            await client.health()

    if awaited:
        asyncio.run(ask())
        return
    with Client(url, retries=0) as client:
        client.health()


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_asked_directly(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, host: str, awaited: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    health(f"http://{host}:{listener.server_port}", awaited=awaited)
    assert listener.asked == ["/health"]
    with pytest.raises(ConnectionFailed):
        health("http://elsewhere.invalid", awaited=awaited)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_server_elsewhere_is_asked_through_the_proxy(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.server_port}")
    health("http://elsewhere.invalid", awaited=awaited)
    assert listener.asked == ["http://elsewhere.invalid/health"]
