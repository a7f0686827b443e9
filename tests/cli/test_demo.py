"""`memstore demo`, as `make demo` runs it: builds, serves, asks, answers with a trained model, stops."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memstore.cli import demo as page
from memstore.cli.demo import QUESTIONS
from memstore.errors import MemstoreError
from memstore.questions.metrics import exact_match
from memstore_builders.build import build
from memstore_builders.corpus import sample_corpus
from memstore_builders.job import BuildOptions
from tests import tiny


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "memstore", "demo", "--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demo_answers_its_questions_and_leaves_the_command_to_ask_more(tmp_path: Path) -> None:
    """Also over a store that another model has left there, which it builds again."""
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


def interrupt(*_: object, **__: object) -> Any:
    """What control-C does to whatever runs."""
    raise KeyboardInterrupt


class FakeServer:
    """A process that has said nothing, or its address; notes what is done to it."""

    def __init__(self, *said: str, wait: Callable[..., Any] = lambda **_: 0) -> None:
        self.stdout, self.done = self._lines(said), []
        self._wait = wait

    @staticmethod
    def _lines(said: tuple[str, ...]) -> Iterator[str]:
        yield from said
        interrupt()

    def terminate(self) -> None:
        self.done.append("terminated")

    def wait(self, **limit: float) -> Any:
        return self._wait(**limit)


def test_control_c_before_the_server_is_ready_stops_it_and_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    process = FakeServer("loading\n")
    monkeypatch.setattr(page.subprocess, "Popen", lambda *_, **__: process)
    with pytest.raises(KeyboardInterrupt), page._server(["serve"]):
        pass
    assert process.done == ["terminated"]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def serve(_command: list[str]) -> Iterator[tuple[FakeServer, str]]:
        yield FakeServer(wait=interrupt), "http://m"

    monkeypatch.setattr(page, "_build", lambda *_: None)
    monkeypatch.setattr(page, "_server", serve)


@pytest.mark.usefixtures("served")
def test_control_c_among_the_questions_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        page.run(tmp_path, keep_serving=False, ask=interrupt)


@pytest.mark.usefixtures("served")
def test_control_c_is_how_a_kept_server_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "show_answer", lambda *_, **__: None)
    page.run(tmp_path, keep_serving=True, ask=lambda *_: {"answer": "?"})
    printed = capsys.readouterr().out
    assert "Still serving on http://m" in printed
    assert printed.count("in a browser") == 2  # while it serves, and how to later
    assert f"memstore ask '...' --store {tmp_path}" in printed
    assert printed.endswith(f"memstore serve --store {tmp_path}\n")


def test_a_store_that_cannot_be_built_again_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "_is_sample", lambda _: True)
    command = [sys.executable, "-c", "raise SystemExit(2)"]
    with pytest.raises(MemstoreError, match="again failed, see above"):
        page._build(command, tmp_path)


@pytest.mark.parametrize("among", ["notes.txt", None])
def test_a_sample_store_is_removed_only_where_nothing_else_is(tmp_path: Path, among: str | None) -> None:
    """A link is somebody's doing too, and cannot be removed as a folder."""
    model = tiny.save_checkpoint(tmp_path / "model")
    folder = tmp_path / "folder"
    build(BuildOptions(corpus=(sample_corpus(),), out=folder, model=str(model), dtype="float32", limit=2))
    assert page._is_sample(folder)
    out = tmp_path / "link" if among is None else folder
    if among is None:
        out.symlink_to(folder)
    else:
        (folder / among).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MemstoreError, match="failed, see above"):
        page._build([sys.executable, "-c", "raise SystemExit(2)"], out)
    assert sorted(tmp_path.rglob("*")) == before
