"""A build killed with SIGKILL at random moments, as a process, equals one that was not.

Equal to the byte: batches are planned from the lengths of passages, so both builds compute the same shapes.
MEMSTORE_KILLS sets the number of kills (3 by default, so that the whole suite stays quick).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore_builders.verify import verify
from tests import tiny

KILLS = int(os.environ.get("MEMSTORE_KILLS", "3"))
SEARCHES = 200
SEGMENT_PASSAGES = 256


def command(corpus: Path, model: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "memstore", "build", "--corpus", str(corpus), "--model", str(model),
            "--out", str(out), "--segment-passages", str(SEGMENT_PASSAGES), "--dtype", "float32", "--json"]  # fmt: skip


def seals(store: Path) -> dict[str, str]:
    """The sha256 of each segment's SEALED, which holds the sha256 of every file of memories and passages."""
    return {s.id: s.seal for s in Store.open(store).generation.segments}


def results(store: Path) -> list[list[tuple[str, float]]]:
    rng = random.Random(1)
    questions = [" ".join(rng.choices(tiny.WORDS[:31], k=rng.randint(1, 5))) for _ in range(SEARCHES)]
    found = open_retriever(Store.open(store)).search(questions, 20)
    return [[(hit.passage_id, hit.score) for hit in hits] for hits in found]


def test_a_build_killed_at_random_moments_equals_one_that_was_not(tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    corpus = tmp_path / "passages.jsonl"
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(3000))]  # fmt: skip
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    begun = time.monotonic()
    subprocess.run(command(corpus, model, whole), check=True, capture_output=True)
    lasted = time.monotonic() - begun

    rng = random.Random(KILLS)
    killed = 0
    for _ in range(KILLS * 20):
        if killed == KILLS:
            break
        process = subprocess.Popen(command(corpus, model, cut), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:  # imports take the first share of a short build; the rest is where it writes
            process.wait(timeout=lasted * rng.uniform(0.4, 1.0))
            # It got through: begin a new one, so that every kill hits a build under way.
            assert seals(cut) == seals(whole)
            cut = tmp_path / f"cut-{killed}-{rng.random()}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed == KILLS
    subprocess.run(command(corpus, model, cut), check=True, capture_output=True)
    assert len(seals(whole)) == -(-3000 // SEGMENT_PASSAGES)
    assert seals(cut) == seals(whole)
    assert results(cut) == results(whole)
    assert verify(cut, sample=100).sound
