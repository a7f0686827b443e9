"""Files of results: what is no place to write is reported before the work, and a full disk in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memstore import cli, files
from memstore.errors import ConfigError, MemstoreError, OutputUnwritable
from memstore.evaluate.run import EvaluateOptions, evaluate
from memstore.files import check_outputs, temporary_name, write_text, writing_whole
from tests import tiny

Run = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that is a user's mistake; gives what it says."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["memstore", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr().err
        assert stop.value.code == 2, said
        return said

    return run


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes every file's name, and is found to be full when it is to keep the bytes."""

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputUnwritable, match="pipe is a device or a pipe, which cannot be replaced: name a file"):
        check_outputs([pipe], inputs=[])
    assert pipe.is_fifo()


def test_what_leads_from_the_devices_to_a_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /dev/stdout does where a shell writes to a file: the superuser's link would be gone."""
    monkeypatch.setattr(files, "_DEVICES", tmp_path / "dev")
    (tmp_path / "dev").mkdir()
    (tmp_path / "log").touch()
    (tmp_path / "dev" / "stdout").symlink_to(tmp_path / "log")
    with pytest.raises(OutputUnwritable, match="which cannot be replaced"):
        check_outputs([tmp_path / "dev" / "stdout"], inputs=[])


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the superuser, who may write everywhere, would not see: the system's answer is put in its mouth."""
    (tmp_path / "kept").write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "kept")
    with pytest.raises(
        OutputUnwritable, match="kept cannot be written: it is there, and write-protected; name another"
    ):
        check_outputs([tmp_path / "kept"], inputs=[])


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "data").mkdir()
    if there:
        (tmp_path / "data" / "out").write_text("old")
    (tmp_path / "link").symlink_to(Path("data") / "out")
    check_outputs([tmp_path / "link"], inputs=[])
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").readlink() == Path("data") / "out"
    assert [p.read_text() for p in (tmp_path / "data").iterdir()] == ["new"]


def test_links_in_a_circle_are_reported(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(OutputUnwritable, match="cannot be written: Too many levels"):
        check_outputs([tmp_path / "circle" / "out"], inputs=[])


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "read").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "read")
    with pytest.raises(ConfigError, match=r"out lies in .*read, which is read from in this run: name a file elsewhere"):
        check_outputs([tmp_path / "link" / "out"], inputs=[tmp_path / "read"])
    check_outputs([tmp_path / "out"], inputs=[tmp_path / "read"])


@pytest.mark.parametrize("name", ["CURRENT", "generations/000001.json", "segments/x", "model.safetensors"])
def test_an_evaluation_does_not_write_over_its_store_or_its_model(tmp_path: Path, name: str) -> None:
    for folder in ("generations", "segments"):
        (tmp_path / folder).mkdir()
    data = tmp_path / "q.jsonl"
    data.write_text('{"id": "1", "input": "who", "output": [{"answer": "x"}]}\n')
    options = EvaluateOptions(
        store=tmp_path, model=str(tmp_path), data={"q": data}, predictions=tmp_path / name, retrieve_k=10
    )
    with pytest.raises(ConfigError, match="is read from in this run"):
        evaluate(options)


@pytest.mark.usefixtures("full")
def test_a_full_disk_is_reported_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(OutputUnwritable, match="out cannot be written: No space left on device"):
        write_text(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_other_errors_while_a_file_is_written_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(MemstoreError, match=r"^mine$"), writing_whole(tmp_path / "out"):
        raise OutputUnwritable("mine")


# --- commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "title": "Nile", "text": "The Nile was crossed in 1898 by Marie Curie of Paris."}\n')
    return path


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("out", ["q.jsonl", "q.jsonl.gz"])
def test_questions_tell_a_full_disk(refused: Run, corpus: Path, out: str) -> None:
    said = refused("questions", "--corpus", corpus, "--out", corpus.parent / out)
    assert f"{out} cannot be written: No space left on device" in said
    assert [p.name for p in corpus.parent.iterdir()] == ["corpus.jsonl"]


@pytest.mark.usefixtures("full")
def test_a_tokenizer_says_a_full_disk(refused: Run, corpus: Path) -> None:
    said = refused("tokenizer", "--corpus", corpus, "--vocab-size", 512, "--out", corpus.parent / "new")
    assert "tokenizer.json cannot be written: No space left on device" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_result_that_cannot_be_printed_is_reported(tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "gold.jsonl").write_text('{"id": "1", "input": "who", "output": [{"answer": "x"}]}\n')
    command = [sys.executable, "-m", "memstore", "score", "gold.jsonl", "gold.jsonl", *form]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("memstore: the result cannot be printed: No space left on device. Make room")
    assert len(done.stderr.splitlines()) == 1


def test_a_tokenizer_in_a_closed_folder_is_reported(
    refused: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it can be written is seen first: of what is in it, the system tells nothing."""

    def refuse(folder: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr("memstore.checkpoint.files.has_weights", refuse)
    temporary_name(tmp_path / "in" / "tokenizer.json").mkdir(parents=True)  # nor can the superuser write a file there
    said = refused("tokenizer", "--corpus", corpus, "--vocab-size", 512, "--out", tmp_path / "in")
    assert "tokenizer.json cannot be written: Is a directory" in said


def test_a_tokenizer_does_not_replace_a_trained_models(refused: Run, corpus: Path, tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    before = (model / "tokenizer.json").read_bytes()
    said = refused("tokenizer", "--corpus", corpus, "--vocab-size", 512, "--out", model)
    assert "holds a trained model, which a new tokenizer would make useless: name another folder" in said
    assert (model / "tokenizer.json").read_bytes() == before
