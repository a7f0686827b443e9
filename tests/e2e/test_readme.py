"""The README's blocks run: ```bash and ```python as they stand, in order, in a folder with a wiki.jsonl.

```sh blocks are make, docker and hub commands: the suite's own wrapping, and what has no network here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from memstore_builders.corpus import sample_corpus

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)  # a real process: there is nothing to wait on but its port
    raise AssertionError("the server did not become ready")


def test_the_blocks_run(tmp_path: Path) -> None:
    lines = sample_corpus().read_text().splitlines(keepends=True)
    (tmp_path / "wiki.jsonl").write_text("".join(lines[:40]))  # the README's commands, on a little corpus
    port = free_port()
    bash = blocks("bash")
    assert len(bash) == 2
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = run(bash[0])
    assert done.returncode == 0, done.stderr
    for expected in ("a build would make", "built store", "sound:", "generation", "answer:"):
        assert expected in done.stdout, expected
    assert "UNTRAINED" not in done.stdout

    serve, *asking = bash[1].replace("8080", str(port)).splitlines()
    assert serve.endswith(" &")
    server = subprocess.Popen(
        serve.removesuffix(" &").split(), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        wait_until_ready(port, server)
        done = run("\n".join(asking).replace("curl -s", "curl -sf"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"request_id"') >= 2
        (python,) = blocks("python")
        (tmp_path / "example.py").write_text(python.replace("8080", str(port)))
        command = [sys.executable, "-W", "error", "example.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "True" in done.stdout  # the model says that it is trained
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
