"""The README's blocks run: ```bash and ```python as they stand, in order, in a folder with a wiki.jsonl.

Of the ```sh blocks those of training and scoring run too, with fewer steps; the others are `OUTSIDE`.
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
import pytest

from memstore_builders.corpus import sample_corpus

README = Path(__file__).parents[2] / "README.md"
OUTSIDE = {
    "make": "the suite's own wrapping",
    "docker": "needs a container engine",
    "MEMSTORE_CORPUS=~/wiki": "docker, too",
    "memstore convert": "needs the hub",
    "memstore compare": "of a file that the README does not show; recipes/compare has two",
    ".venv/bin/python": "benchmarks, on a GPU",
}
"""How ```sh blocks begin that do not run here, and why."""


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


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def write_corpus(folder: Path) -> None:
    """The README's wiki.jsonl: a little one."""
    lines = sample_corpus().read_text().splitlines(keepends=True)
    (folder / "wiki.jsonl").write_text("".join(lines[:40]))


def test_the_blocks_run(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    port = free_port()
    bash = blocks("bash")
    assert len(bash) == 2
    done = run(bash[0], tmp_path)
    assert done.returncode == 0, done.stderr
    for expected in ("a build would make", "built store", "sound:", "generation", "answer:"):
        assert expected in done.stdout, expected
    assert "UNTRAINED" not in done.stdout

    serve, *asking = bash[1].replace("8080", str(port)).splitlines()
    assert serve.endswith(" &")
    server = subprocess.Popen(
        serve.removesuffix(" &").split(), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        wait_until_ready(port, server)
        done = run("\n".join(asking).replace("curl -s", "curl -sf"), tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"request_id"') >= 2
        (python,) = blocks("python")
        (tmp_path / "example.py").write_text(python.replace("8080", str(port)))
        command = [sys.executable, "-W", "error", "example.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "True" in done.stdout  # the model says that it is trained
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


@pytest.mark.slow
def test_the_blocks_of_training_and_scoring_run(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    questions = sample_corpus().with_name("questions.jsonl").read_text().splitlines(keepends=True)
    for name, lines in {"nq.train": questions[:6], "nq.dev": questions[6:8], "fever.dev": questions[8:10]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (config,) = blocks("toml")
    (tmp_path / "run.toml").write_text(
        config.replace("steps = 1000", "steps = 1").replace("questions = 8", "questions = 2")
    )
    runnable = [block for block in blocks("sh") if not block.startswith(tuple(OUTSIDE))]
    train, make, flops, score, evaluate = runnable
    assert train.startswith("memstore prepare ")
    assert score == "memstore score gold.jsonl predictions.jsonl\n"
    done = run(
        "memstore build --corpus wiki.jsonl --out store/\n"
        f"{train}{make}{flops.replace('my-model', 'run/last')}{evaluate}"
        f"cp nq.dev.jsonl gold.jsonl\ncp out.nq.jsonl predictions.jsonl\n{score}",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for expected in ("trained run", "built new-store", "made.train", "GLIMMER 40 to 10", "wrong.md", "KILT-em"):
        assert expected in done.stdout, expected
