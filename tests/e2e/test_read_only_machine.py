"""A machine that writes nothing, not even temporary files, answers and verifies; and what that asks of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny

COMMANDS = """
import errno, sys, tempfile

def none():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

tempfile._get_default_tempdir = none  # as on a disk that is read-only, /tmp and all
from memstore.cli import main

for command in (["ask", "which river", "--store"], ["verify"]):
    sys.argv = ["memstore", *command, sys.argv[-1]]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
assert "torch._dynamo" not in sys.modules, "torch's compiler costs over a second, and wants a temporary folder"
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs shared memory")
def test_answers_and_verifies_without_a_temporary_folder(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "title": "Nile", "text": "The Nile is a river in Africa."}\n', encoding="utf-8")
    model = tiny.save_checkpoint(tmp_path / "model")
    build(BuildOptions(corpus=(corpus,), out=tmp_path / "store", model=str(model), dtype="float32"))
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "answer: " in done.stdout
    assert "sound: 1 passages" in done.stdout
