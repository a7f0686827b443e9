"""`memstore demo`, as `make demo` runs it: builds, serves, asks, says that the model is untrained, stops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from memstore.demo import QUESTIONS
from memstore_builders.build import BuildOptions, build
from memstore_builders.corpus import sample_corpus
from tests import tiny


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "memstore", "demo", "--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demo_answers_its_questions_and_leaves_the_command_to_ask_more(tmp_path: Path) -> None:
    """Also over a store that another model has left there, which it builds anew."""
    model = tiny.save_checkpoint(tmp_path / "model")
    out = tmp_path / "demo-store"
    build(BuildOptions(corpus=(sample_corpus(),), out=out, model=str(model), dtype="float32", limit=20))
    done = demo(out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("UNTRAINED") == len(QUESTIONS) == 5
    for question in QUESTIONS:
        assert question in done.stdout
    assert done.stdout.count("answer:") == 5
    assert done.stdout.count("times fewer operations than FiD") == 5
    assert f"memstore ask '...' --store {out}" in done.stdout


def test_the_demo_removes_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    corpus = tmp_path / "mine.jsonl"
    corpus.write_text('{"id": "a", "title": "t", "text": "the river"}\n')
    out = tmp_path / "demo-store"
    build(BuildOptions(corpus=(corpus,), out=out, model=str(model), dtype="float32"))
    done = demo(out)
    assert done.returncode == 2
    assert "holds a finished store built otherwise" in done.stderr
    assert (out / "CURRENT").exists()
