"""The blocks of the README and of docs/ run: ```bash and ```python as they are, in order, beside a wiki.jsonl.

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

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))]
OUTSIDE = {
    "make": "the suite's own wrapping",
    "docker": "needs a container engine",
    "MEMSTORE_CORPUS=~/wiki": "docker, too",
    "MEMSTORE_REPLICAS=3": "docker, too",
    "OTEL_EXPORTER_OTLP_ENDPOINT=": "needs a collector",
    "memstore convert": "needs the hub",
    "memstore add --store store/ --corpus more.jsonl\ncurl": "asks a server: tests/server/test_reloading.py",
    "memstore serve --store wiki=": "asks a server of two stores: tests/server/test_collections_stores.py",
    "memstore keys add": "asks a server that wants keys: tests/server/test_keys.py",
    "openssl rand": "asks a server that can be changed: tests/server/test_writing.py",
    'memstore ask "Who discovered radium?" --store store/ --filter': "the sample has no metadata",
    "memstore mcp": "serves until it is stopped: tests/server/test_mcp_process.py",
    "pip install openai": "the same requests: tests/server/test_known_doors.py",
    "memstore calibrate": "needs more questions than the sample has: tests/evaluate/test_evaluate_confidence.py",
    "memstore label": "needs a model that reads more than the sample: tests/train/data/test_label.py",
    "memstore prepare-asker": "needs a model that asks: tests/train/data/test_asker.py",
    "memstore build --corpus wiki.jsonl --out s3:": "needs a bucket: tests/storage/test_s3_stores.py",
    "python -m benchmarks budgets": "takes minutes: tests/contracts/test_benchmarks.py",
    "memstore compare": "of a file that no page shows; recipes/compare has two",
}
"""How ```sh blocks begin that do not run here, and why."""


def blocks(language: str, *pages: str) -> list[str]:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def runnable(*pages: str) -> list[str]:
    return [block for block in blocks("sh", *pages) if not block.startswith(tuple(OUTSIDE))]


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


@pytest.mark.parametrize(
    "pages", [["README.md"], ["docs/corpora.md", "docs/serving.md", "docs/integrations.md"]], ids=" ".join
)
def test_the_blocks_run(pages: list[str], tmp_path: Path) -> None:
    write_corpus(tmp_path)
    port = free_port()
    building, *serving = blocks("bash", *pages)
    done = run(building, tmp_path)
    assert done.returncode == 0, done.stderr
    for expected in ("a build would make", "built store", "sound:", "generation", "answer:"):
        assert expected in done.stdout, expected
    assert "UNTRAINED" not in done.stdout

    serve, *asking = "".join(serving).replace("8080", str(port)).splitlines()
    assert serve.endswith(" &")
    server = subprocess.Popen(
        serve.removesuffix(" &").split(), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        wait_until_ready(port, server)
        done = run("\n".join(asking).replace("curl -s", "curl -sf"), tmp_path)
        assert done.returncode == 0, done.stderr
        assert '"request_id"' in done.stdout
        for python in blocks("python", *pages):
            (tmp_path / "example.py").write_text(python.replace("8080", str(port)))
            command = [sys.executable, "-W", "error", "example.py"]
            done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip()
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


def test_no_block_goes_unnoticed() -> None:
    """A page's blocks are run by one of the tests here, or `OUTSIDE`; the README's are explained in docs/."""
    assert {Path(page).stem for page in PAGES} == {
        "README", "changing", "cluster", "codecs", "corpora", "evaluating", "integrations", "serving", "sharding",
        "storage", "training",
    }  # fmt: skip
    assert set(runnable("README.md")) <= set(runnable("docs/evaluating.md", "docs/training.md"))
    assert blocks("sh|bash|python", "docs/codecs.md") == []
    assert runnable("docs/corpora.md", "docs/serving.md", "docs/integrations.md") == []
    assert blocks("bash|python", "docs/changing.md", "docs/evaluating.md", "docs/training.md") == []
    fences = [line for page in PAGES for line in (ROOT / page).read_text().splitlines() if line.startswith("```")]
    assert set(fences) <= {"```", *(f"```{language}" for language in ("bash", "json", "python", "sh", "toml"))}


def test_the_block_of_changing_stores_runs(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    lines = sample_corpus().read_text().splitlines(keepends=True)
    (tmp_path / "more.jsonl").write_text("".join(lines[38:42]))
    (tmp_path / "gone.txt").write_text("sample-005\n")
    (changing,) = runnable("docs/changing.md")
    done = run(f"memstore build --corpus wiki.jsonl --out store/\n{changing}", tmp_path)
    assert done.returncode == 0, done.stderr
    for expected in (
        "documents: 2 added, 2 unchanged", "documents: 2 deleted", "documents: 1 deleted", "* 4", "add of 1: 2 added",
        "generation 3 is in force", "generation 5, ", "nothing is left of: sample-001",
    ):  # fmt: skip
        assert expected in done.stdout, (expected, done.stdout)


def test_the_block_of_shards_runs(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (sharding,) = runnable("docs/sharding.md")
    done = run(sharding, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "wiki").glob("shard-00?")} == {f"shard-00{n}" for n in range(4)}


@pytest.mark.slow
def test_the_blocks_of_training_and_scoring_run(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    questions = sample_corpus().with_name("questions.jsonl").read_text().splitlines(keepends=True)
    for name, lines in {"nq.train": questions[:6], "nq.dev": questions[6:8], "fever.dev": questions[8:10]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (config,) = blocks("toml", "docs/training.md")
    (tmp_path / "run.toml").write_text(
        config.replace("steps = 1000", "steps = 1").replace("questions = 8", "questions = 2")
    )
    train, make = runnable("docs/training.md")
    score, evaluate, flops = runnable("docs/evaluating.md")
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
