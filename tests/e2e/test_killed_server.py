"""A server that is killed while it changes its store, as processes: the change is not lost, and never half made."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memstore.store.check import check_generation
from memstore_client import Client
from tests import tiny

KEY = "a-key-of-this-very-test"
PATIENCE = 240.0  # seconds; each change starts a Python that imports torch, behind everybody else
DOCUMENTS = 400


@contextmanager
def serving(store: Path, key_file: Path) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    command = [sys.executable, "-m", "memstore", "serve", "--store", str(store), "--port", "0",
               "--write-key-file", str(key_file), "--write-nice", "0", "--log-level", "warning"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("memstore: serving on "), process.stderr.read()
            with Client(line.split()[-1], write_key=KEY, timeout=PATIENCE) as client:
                yield process, client
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_change_outlives_its_server(tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    rows = [{"id": f"a{i}", "text": p.text} for i, p in enumerate(tiny.passages(20))]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "key").write_text(KEY)
    store = tmp_path / "store"
    built = [sys.executable, "-m", "memstore", "build", "--corpus", str(tmp_path / "corpus.jsonl"),
             "--out", str(store), "--model", str(model), "--dtype", "float32"]  # fmt: skip
    subprocess.run(built, check=True, capture_output=True)
    documents = [{"id": f"b{i}", "text": f"{p.text} {i}"} for i, p in enumerate(tiny.passages(DOCUMENTS, seed=1))]
    with serving(store, tmp_path / "key") as (process, client):
        job = client.put_documents(documents)
        second = client.delete_documents(["a0"])
        late = time.monotonic() + PATIENCE
        while not client.job(job.id).stage:  # until its process is at work
            assert time.monotonic() < late
            time.sleep(0.2)  # a real process: there is nothing to wait on
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(check_generation(store)) == []
    with serving(store, tmp_path / "key") as (_, client):
        added, deleted = (client.wait(one, timeout=PATIENCE).result for one in (job, second))
        assert added is not None
        assert deleted is not None
        assert added.added + added.unchanged == DOCUMENTS
        assert deleted.deleted == 1
        assert client.document("b0").passages
        assert client.info().store.generation == client.generations().answering == 3
    assert list(check_generation(store)) == []
    leftovers = [p for p in store.rglob("*") if p.name.startswith((".tmp-", ".change")) or p.name == "input"]
    assert leftovers == []
