"""A real server: uvicorn on a free port, started, asked and stopped as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from memstore.answer import Answerer
from memstore.errors import ConfigError, FingerprintMismatch
from memstore_client import Client
from memstore_server import app, logs, process
from memstore_server.addresses import bound_socket, url_of
from memstore_server.loading import Progress
from memstore_server.process import run, serve
from memstore_server.settings import Settings

ROOT = Path(__file__).parents[2]
SERVE = """
import os
import sys
import threading
from memstore.errors import StoreNotFound
from memstore_server import logs
from memstore_server.addresses import bound_socket
from memstore_server.app import create_app
from memstore_server.process import serve
from memstore_server.settings import Settings
from tests.server.fakes import FakeEngine

settings = Settings.load(store="store", port=0, drain_seconds=5)
logs.configure(style=settings.log_format, level=settings.log_level)
engine = FakeEngine()
if "--broken" in sys.argv:
    engine.trained, engine.answer = False, lambda *_: (_ for _ in ()).throw(MemoryError("too large"))
if "--panic" in sys.argv:
    engine.answer = lambda *_: (_ for _ in ()).throw(type("Panic", (BaseException,), {})("out of range"))
def load(progress):
    if "--hanging" in sys.argv:
        print(listener.getsockname()[1], flush=True)
        threading.Event().wait()
    if "--absent" in sys.argv:
        raise StoreNotFound("there is no store")
    return create_app(engine, settings)
with bound_socket(settings.host, settings.port) as listener:
    if not serve(load, settings, listener):
        os._exit(0)
"""


SERVE_HEAVY = """
import sys
import torch
import typer
from memstore import cli
from memstore.answer import Answerer
from tests.server.fakes import FakeEngine

class HeavyEngine(FakeEngine):
    def answer(self, questions, listeners=()):
        if questions[0].text == "heavy":
            print("computing", flush=True)
        while questions[0].text == "heavy":
            torch.ones(200, 200) @ torch.ones(200, 200)
        return super().answer(questions, listeners)

Answerer.open = lambda *_, **__: HeavyEngine()
sys.argv = ["memstore", "serve", "--store", "store", "--port", "0", "--drain-seconds", "1"]
cli.main()
"""


def served(*arguments: str, script: str = SERVE) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_it_says_where_it_serves_answers_and_stops_cleanly() -> None:
    with served() as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("memstore: serving on http://127.0.0.1:"), process.stderr.read()
            with Client(line.split()[-1]) as client:
                assert client.ready() is True
                reply = client.answer("why?")
                assert reply.answer == "why?!"
        finally:
            process.send_signal(signal.SIGTERM)
            _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"[{reply.request_id}] POST /answer 200" in logged
    assert "Traceback" not in logged


UPGRADES = {
    "h2c": "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    "websocket": "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}


def test_below_a_path_that_a_proxy_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTORE_ROOT_PATH", "/below")
    with served() as process:
        try:
            url = process.stdout.readline().split()[-1]
            assert 'href="/below/page/page.css"' in httpx.get(url).text
            assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/below"}]
            assert httpx.get(f"{url}/docs-static/swagger-ui.css").status_code == 200
        finally:
            process.terminate()
            process.communicate(timeout=30)


ONLY_H11 = """
import uvicorn.protocols.http.auto
uvicorn.protocols.http.auto.AutoHTTPProtocol = None  # what else is installed must not choose how HTTP is read
"""


def test_an_offer_to_upgrade_is_passed_over() -> None:
    """As Java's clients make it with every request. httptools would lose the body."""
    body = '{"question": "why?"}'
    head = f"POST /answer HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    replies = {}
    with served(script=ONLY_H11 + SERVE) as process:
        try:
            port = int(process.stdout.readline().rpartition(":")[2])
            for name, offer in UPGRADES.items():
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(f"{head}{offer}\r\n\r\n{body}".encode())
                    replies[name] = client.recv(4096)
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert {name: reply.partition(b"\r\n")[0] for name, reply in replies.items()} == dict.fromkeys(
        UPGRADES, b"HTTP/1.1 200 OK"
    )


def test_what_listens_imports_nothing_that_takes_long() -> None:
    """Or nobody would hear how far loading is: torch and its kin take seconds."""
    code = (
        "import memstore_server.process, sys; print([m for m in ('torch', 'tensorstore', 'faiss') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "[]\n"


def test_stopped_while_the_model_computes_it_says_the_client_and_ends_as_done() -> None:
    with served(script=SERVE_HEAVY) as process, ThreadPoolExecutor(1) as asker:
        try:
            url = process.stdout.readline().split()[-1]
            asked = {"json": {"question": "heavy"}, "headers": {"X-Request-ID": "me-6"}, "timeout": 30}
            reply = asker.submit(httpx.post, f"{url}/answer", **asked)
            assert process.stdout.readline() == "computing\n"
            process.send_signal(signal.SIGTERM)
            response = reply.result(30)
            _, logged = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    assert response.headers["x-request-id"] == response.json()["request_id"] == "me-6"
    assert process.returncode == 0
    assert "[me-6] POST /answer 503" in logged
    assert "the model did not finish within 1.0 s and is left behind" in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    ("how", "last"),
    [("--broken", "MemoryError: too large"), ("--panic", "RuntimeError: the engine was ended by Panic: out of range")],
)
def test_a_failed_warm_up_ends_the_process_with_its_error(how: str, last: str) -> None:
    with served(how) as process:
        out, logged = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert logged.strip().endswith(last)


def test_stopped_while_it_loads_it_ends_as_done() -> None:
    """Though a thread still loads; and whoever asked had a reply."""
    with served("--hanging") as process:
        try:
            port = int(process.stdout.readline())
            ready = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=30)
            process.send_signal(signal.SIGTERM)
            _, logged = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (ready.status_code, ready.json()["loading"]["step"]) == (503, 1)
    assert process.returncode == 0
    assert "Traceback" not in logged


def test_what_cannot_be_loaded_ends_the_process_with_its_error() -> None:
    with served("--absent") as process:
        out, logged = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert logged.strip().endswith("StoreNotFound: there is no store")


def test_a_taken_port_is_a_mistake_of_the_user() -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            bound_socket("127.0.0.1", port).__enter__()


def test_a_restart_finds_its_port_free_though_the_system_remembers_connections() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            served, _ = listener.accept()
            served.close()  # who closes first is remembered
            client.recv(1)
    with bound_socket(*address) as again:
        assert again.getsockname() == address


def test_a_host_that_is_none_is_a_mistake_of_the_user() -> None:
    for host in ("not an address", "a..b", "x" * 64 + ".org"):
        with pytest.raises(ConfigError, match=f"host '{host}' is no address to listen on"):
            bound_socket(host, 0).__enter__()


def test_addresses_are_reported_as_urls() -> None:
    class Bound:
        def __init__(self, *name: object) -> None:
            self.getsockname = lambda: name

    assert url_of(Bound("127.0.0.1", 80)) == "http://127.0.0.1:80"
    assert url_of(Bound("::1", 80, 0, 0)) == "http://[::1]:80"


def test_run_opens_first_and_serves_nothing_that_does_not_fit(monkeypatch, capsys) -> None:
    asked = []

    def refuse(store: Path, *, model: str | None, device: str) -> None:
        asked.append((store, model, device))
        raise FingerprintMismatch({"memory_layers": (8, 6)})

    monkeypatch.setattr(Answerer, "open", refuse)
    monkeypatch.setattr(logs, "configure", lambda **style: asked.append(style))
    with pytest.raises(FingerprintMismatch, match="memory_layers: store has 8, model has 6"):
        run(Settings.load(store="s", model="m", port=0, log_format="json", log_level="warning"))
    assert asked == [{"style": "json", "level": "warning"}, (Path("s"), "m", "cpu")]
    assert capsys.readouterr().out == ""


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is done when a server opens an answerer that is none, in order, and that it is loaded at the end."""
    done: list[object] = []
    monkeypatch.setattr(Answerer, "open", lambda *_, **__: done.append("opened"))
    monkeypatch.setattr(logs, "configure", lambda **style: None)
    monkeypatch.setattr(app, "_try", lambda *_: done.append("tried"))
    monkeypatch.setattr(app, "create_app", lambda engines, *_, **__: done.append(engines))
    monkeypatch.setattr(process, "serve", lambda load, *_: load(Progress(4)) is None)
    return done


@pytest.mark.parametrize(("threads", "set_to"), [(3, [3]), (None, [])])
def test_threads_are_set_before_the_model_is_opened(monkeypatch, opening, threads: int | None, set_to: list) -> None:
    monkeypatch.setattr(torch, "set_num_threads", opening.append)
    run(Settings.load(store="s", port=0, threads=threads))
    assert opening == [*set_to, "opened", "tried", {"default": None}]


@pytest.mark.parametrize(("drain", "whole"), [(0, 1), (7.4, 7), (60, 60)])
def test_connections_get_the_time_to_drain_and_wait_from_the_beginning_on(
    monkeypatch, drain: float, whole: int
) -> None:
    class Server:
        def __init__(self, config) -> None:
            asked.append(config.timeout_graceful_shutdown)

        def run(self, *, sockets: list[socket.socket]) -> None:
            asked.append(sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    asked: list[int | None] = []
    monkeypatch.setattr(process.uvicorn, "Server", Server)
    with bound_socket("127.0.0.1", 0) as listener:
        assert serve(lambda _: None, Settings.load(store="s", drain_seconds=drain), listener)
    assert asked == [whole, 1]


def test_the_thread_that_opens_has_ended_when_it_has_opened(monkeypatch, opening) -> None:
    """Else its OpenMP pool would stand beside the engine's, and slow it down."""
    ran_in: list[threading.Thread] = []
    monkeypatch.setattr(Answerer, "open", lambda *_, **__: ran_in.append(threading.current_thread()))
    monkeypatch.setattr(app, "_try", lambda *_: ran_in.append(threading.current_thread()))
    run(Settings.load(store="s", port=0))
    assert [thread.is_alive() for thread in ran_in] == [False, False]  # opened, and tried
    assert ran_in[0] is not threading.current_thread()
