"""`memstore demo`, as `make demo` runs it: builds, serves, asks, answers with a trained model, stops."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from memstore.demo import QUESTIONS
from memstore.evaluate.metrics import exact_match
from memstore_builders.build import build
from memstore_builders.corpus import sample_corpus
from memstore_builders.job import BuildOptions
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
    assert "UNTRAINED" not in done.stdout
    assert len(QUESTIONS) == 5
    for question in QUESTIONS:
        assert question in done.stdout
    answers = re.findall(r"^answer: *(.+?)(?: {2,}.*)?$", done.stdout, re.MULTILINE)
    assert len(answers) == 5
    right = [int(exact_match(given, [wanted])) for given, wanted in zip(answers, QUESTIONS.values(), strict=True)]
    assert sum(right) >= 3, answers  # what the small model that ships gets right; four are the aim
    assert f"{sum(right)} of 5 right" in done.stdout
    assert done.stdout.count("wrong: the answer is ") == 5 - sum(right)
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
