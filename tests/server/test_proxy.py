"""Compose's replicas behind a proxy: its configuration, and the proxy itself over two servers, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from memstore_server.addresses import bound_socket
from tests.server.fakes import PATIENCE, FakeEngine
from tests.server.live import live_server

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "docker" / "proxy" / "haproxy.cfg"


def test_compose_has_replicas_and_a_proxy_that_knows_their_name() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    replica, proxy = services["replica"], services["proxy"]
    assert replica["profiles"] == proxy["profiles"] == ["replicas"]
    assert "ports" not in replica
    (mounted,) = proxy["volumes"]
    assert (ROOT / mounted.partition(":")[0]).samefile(CONFIGURATION)
    text = CONFIGURATION.read_text(encoding="utf-8")
    assert re.search(r"server-template replica \d+ replica:8080", text)
    (port,) = (given.rpartition(":")[2] for given in proxy["ports"])
    assert f"bind :{port}\n" in text


def free_port() -> int:
    with bound_socket("127.0.0.1", 0) as found:
        return int(found.getsockname()[1])


@contextmanager
def proxied(tmp_path: Path, servers: list[str]) -> Iterator[str]:
    """The address of the proxy over these servers instead of compose's."""
    if (program := shutil.which("haproxy")) is None:
        pytest.skip("no haproxy here: on Debian, apt-get install haproxy")
    port = free_port()
    text = CONFIGURATION.read_text(encoding="utf-8").replace("bind :8080", f"bind 127.0.0.1:{port}")
    text, templates = re.subn(
        r"  server-template .*\n",
        "".join(f"  server s{n} {url.removeprefix('http://')}\n" for n, url in enumerate(servers)),
        text.replace("check inter 2s", "check inter 100ms"),
    )
    assert templates == 1
    (tmp_path / "haproxy.cfg").write_text(text)
    with subprocess.Popen([program, "-f", str(tmp_path / "haproxy.cfg"), "-db"], stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def asked(url: str) -> int:
    return httpx.post(f"{url}/answer", json={"question": "why?"}, timeout=PATIENCE).status_code


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def test_losing_a_replica_loses_no_question(tmp_path: Path) -> None:
    engines = [FakeEngine(), FakeEngine()]
    with ExitStack() as stack:
        lives = [ExitStack(), ExitStack()]
        urls = [stack.enter_context(live).enter_context(live_server(e)) for live, e in zip(lives, engines, strict=True)]
        url = stack.enter_context(proxied(tmp_path, urls))
        late = time.monotonic() + PATIENCE
        while not ready(url):
            assert time.monotonic() < late
            time.sleep(0.05)
        for engine in engines:
            engine.questions.clear()
        assert [asked(url) for _ in range(8)] == [200] * 8
        assert all(engine.questions for engine in engines)
        lives[0].close()  # the server stops: the proxy has yet to see it
        assert [asked(url) for _ in range(8)] == [200] * 8
        assert len(engines[1].questions) >= 8
