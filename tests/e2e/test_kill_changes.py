"""Changes of a store killed with SIGKILL at random moments, as processes: one generation, or nothing.

MEMSTORE_KILLS sets the number of kills of each command (3 by default, so that the whole suite stays quick).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore.store.check import check_generation
from memstore.store.history import numbers
from tests import tiny

KILLS = int(os.environ.get("MEMSTORE_KILLS", "3"))


def run(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "memstore", *arguments, "--json"]


def corpus(path: Path, count: int, *, seed: int, prefix: str) -> Path:
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {prefix}{i}"}
            for i, p in enumerate(tiny.passages(count, seed=seed, prefix=prefix))]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def holds(store: Path) -> set[str]:
    """Ids that are in force, found by reading and by searching; every file is as its manifests say."""
    assert list(check_generation(store)) == []
    opened = Store.open(store)
    dead = set(opened.dead_rows().tolist())
    ids = {p.id for row, p in enumerate(opened.iter_passages()) if row not in dead}
    opened.load(sorted(ids)[:50])
    for hits in open_retriever(opened).search(["river Nile", "the capital of France"], 50):
        assert {hit.passage_id for hit in hits} <= ids
    return ids


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changes")
    model = tiny.save_checkpoint(folder / "model")
    source = corpus(folder / "passages.jsonl", 600, seed=0, prefix="a")
    command = run("build", "--corpus", str(source), "--model", str(model), "--out", str(folder / "store"),
                  "--segment-passages", "128", "--dtype", "float32")  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    corpus(folder / "more.jsonl", 600, seed=1, prefix="b")
    return folder


def kill_and_finish(command: list[str], store: Path, before: set[str], after: set[str]) -> None:
    """Kill the command until it was hit `KILLS` times, each time at another moment; then let it through."""
    rng = random.Random(KILLS)
    begun = time.monotonic()
    subprocess.run([*command, "--help"], check=True, capture_output=True)
    imports = time.monotonic() - begun
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=imports * rng.uniform(1.0, 4.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert holds(store) in (before, after)
    subprocess.run(command, check=True, capture_output=True)
    assert holds(store) == after


@pytest.mark.parametrize("named", ["add", "delete", "compact", "forget"])
def test_a_change_killed_at_random_moments_is_whole_or_nothing(built: Path, tmp_path: Path, named: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(built / "store", store)
    base = holds(store)
    few = [f"a{i}" for i in range(0, 600, 3)]
    ids = tmp_path / "ids"
    ids.write_text("\n".join(few))
    less = base - {f"{i}:0" for i in few}
    deletion = run("delete", "--store", str(store), "--ids", str(ids))
    if named in ("compact", "forget"):
        subprocess.run(deletion, check=True, capture_output=True)
        kill_and_finish(run(named, "--store", str(store)), store, less, less)
        assert len(numbers(store)) == 1
    elif named == "delete":
        kill_and_finish(deletion, store, base, less)
    else:
        more = base | {f"b{i}:0" for i in range(600)}
        kill_and_finish(run("add", "--store", str(store), "--corpus", str(built / "more.jsonl")), store, base, more)
    leftovers = [p for p in store.rglob("*") if p.name.startswith((".tmp-", ".change"))]
    assert leftovers == []
