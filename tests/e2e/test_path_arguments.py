"""Every path that a command takes may be one that the system does not even look at: told in one line, exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memstore.cli import app
from memstore.errors import MemstoreError
from tests import tiny

LONG = "x" * 300  # longer than a name may be: refused before anybody's rights count, so that root sees it too
QUESTION = '{"id": "q", "input": "which river", "output": [{"answer": "Nile"}]}\n'
# `{m}` is a checkpoint, `{c}` a corpus, `{q}` a file of questions, `{o}` a place to write to, `{t}` a training config
COMMANDS = [
    "ask river --store LONG",
    "ask river --store LONG --model {m}",
    "inspect LONG",
    "serve --store LONG --port 0",
    "flops --model LONG",
    "build --corpus LONG --out {o}",
    "build --corpus {c} --out LONG --model {m}",
    "build --corpus {c} --out {o} --model LONG",
    "build --corpus {c} --out {o} --model {m} --retriever dense --encoder LONG",
    "plan --corpus LONG --model {m}",
    "plan --corpus {c} --model LONG",
    "convert LONG --out {o}",
    "convert {m} --out LONG",
    "evaluate --store {o} --data LONG",
    "evaluate --store {o} --data nq=LONG",
    "evaluate --store {o} --data nq={q} --train-data nq=LONG",
    "evaluate --store LONG --data nq={q}",
    "evaluate --store {o} --data nq={q} --predictions LONG",
    "evaluate --store {o} --data nq={q} --errors LONG",
    "score LONG {q}",
    "score {q} LONG",
    "prepare --store LONG --out {o} --model {m} --task nq={q}",
    "prepare --store {o} --out LONG --model {m} --task nq={q}",
    "prepare --store {o} --out {o} --model LONG --task nq={q}",
    "label --cache LONG --out {o} --model {m}",
    "label --cache {o} --out LONG --model {m}",
    "label --cache {o} --out {c} --model LONG",
    "questions --corpus LONG --out {o}",
    "questions --corpus {c} --out LONG",
    "tokenizer --corpus LONG --out {o}",
    "tokenizer --corpus {c} --out LONG",
    "new --tokenizer LONG --out {o}",
    "train --config LONG",
    "train --config {t}",
    "train --config {t} --plot",
    "compare --config LONG",
    "demo --out LONG",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("paths")
    (folder / "corpus.jsonl").write_text('{"id": "1", "title": "Nile", "text": "A river."}\n')
    (folder / "q.jsonl").write_text(QUESTION)
    (folder / "train.toml").write_text(
        f'out = "{LONG}"\nsteps = 1\n[model]\nsource = "scratch"\ntokenizer = "{LONG}"\n[data]\ncache = "{LONG}"\n'
    )
    model = tiny.save_checkpoint(folder / "model")
    names = {"m": model, "c": folder / "corpus.jsonl", "q": folder / "q.jsonl", "o": folder / "o"}
    return {name: str(path) for name, path in names.items()} | {"t": str(folder / "train.toml")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_too_long(
    command: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.format(**places).replace("LONG", LONG) for word in command.split()]
    ended: Any = CliRunner().invoke(app, words)
    if isinstance(ended.exception, SystemExit):
        assert ended.exit_code == 2, ended.output
    else:
        assert isinstance(ended.exception, MemstoreError), repr(ended.exception)


def test_training_from_a_tokenizer_whose_path_is_no_path(tmp_path: Path) -> None:
    from memstore.errors import CheckpointError
    from memstore.train.config import ModelTable
    from memstore.train.initial_model import open_model

    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        open_model(ModelTable(source="scratch", tokenizer=str(tmp_path / LONG), config={}), seed=0)
