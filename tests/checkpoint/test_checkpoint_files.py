"""The files of checkpoints: what cannot be read is reported as what it is, and writing leaves all or what was there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from memstore import checkpoint
from memstore.checkpoint import files as checkpoint_files
from memstore.checkpoint.files import check_folder
from memstore.cli import app
from memstore.errors import (
    CheckpointError,
    CheckpointMismatch,
    CheckpointNotFound,
    ConfigError,
    MemstoreError,
    OutputUnwritable,
)
from tests import tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 290544\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save_checkpoint(tmp_path / "model")


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    return tiny.save_stock_t5(tmp_path / "t5")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "somewhere")


# --- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_reported(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is only Git LFS's pointer to the file: run `git lfs pull`"):
        checkpoint.load(folder)


def test_a_pointer_in_place_of_a_sentencepiece_model_is_reported(stock: Path) -> None:
    (stock / "tokenizer.json").unlink()
    (stock / "spiece.model").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"spiece.model is only Git LFS's pointer"):
        checkpoint.from_t5(stock)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_without_permission_is_not_missing(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: Permission denied$"):
        checkpoint.load(folder)


def test_a_folder_that_may_not_be_looked_for_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", denied)  # some versions of Python say no instead
    with pytest.raises(CheckpointError, match=r"model cannot be read: Permission denied$"):
        checkpoint.load(folder)
    with pytest.raises(OutputUnwritable, match=r"model cannot be written: Permission denied$"):
        check_folder(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.from_t5])
def test_quantised_parameters_are_refused(
    folder: Path, stock: Path, read: Callable[[Path], object], dtype: torch.dtype
) -> None:
    source = folder if read is checkpoint.load else stock
    tensors = load_file(source / "model.safetensors")
    for name in ("decoder.norm.weight", "decoder.final_layer_norm.weight", "shared.weight", "embedding.weight"):
        if name in tensors:
            tensors[name] = tensors[name].to(dtype)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"2 parameter\(s\) that are quantised, decoder.*norm.weight to {dtype}"):
        read(source)


@pytest.mark.parametrize("files", [None, ["model"], {"scorer.weight": 1}, {"scorer.weight": "../part.safetensors"}])
def test_an_index_that_names_no_files_of_its_folder_is_broken(folder: Path, files: object) -> None:
    (folder / "model.safetensors").rename(folder.parent / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match=r"index.json is broken: it has no weight_map of names to files"):
        checkpoint.load(folder)


def test_what_an_index_promises_has_to_be_there(folder: Path) -> None:
    part = (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": dict.fromkeys([*load_file(part), "more"], part.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointMismatch, match=r"missing: more$"):
        checkpoint.load(folder)


# --- writing ----------------------------------------------------------------------------------------


def test_all_files_may_be_read_by_whom_the_umask_lets(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"] == modes["tokenizer.json"]


def full(*_: object, **__: object) -> None:
    raise checkpoint_files.SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("failure", "reason"), [(full, "No space left on device"), (denied, "Permission denied$")], ids=["full", "denied"]
)
def test_a_failure_to_write_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., None], reason: str
) -> None:
    before = contents(folder)
    other = tiny.model(seed=5, name="other")
    monkeypatch.setattr(checkpoint_files, "save_file", failure)
    (tmp_path / "empty").mkdir()
    for target in (folder, tmp_path / "empty", tmp_path / "new"):
        with pytest.raises(OutputUnwritable, match=f"{target.name} cannot be written: .*{reason}"):
            checkpoint.save(target, other, tiny.text_tokenizer())
    assert contents(folder) == before
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "a" / "b")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # without it, transformers refuses a file


def test_the_config_gets_its_name_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    replace = Path.replace

    def note(path: Path, target: Path) -> Path:
        named.append(Path(target).name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", note)
    checkpoint.save(folder, tiny.model(), tiny.text_tokenizer())
    assert named == ["model.safetensors", "tokenizer.json", "config.json"]


def test_a_folder_to_write_is_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(tmp_path / "a" / "b", inputs=[tmp_path / "c", "owner/name"])
    check_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    check_folder(Path("a/b"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for below in ("config.json", "config.json/model"):
        with pytest.raises(OutputUnwritable, match=r"config.json is a file; name a folder"):
            check_folder(folder / below)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path or not mode & os.W_OK)
    check_folder(folder)
    with pytest.raises(OutputUnwritable, match=f"no permission to write to {tmp_path}$"):
        check_folder(tmp_path / "new" / "model")


def run(*arguments: str | Path) -> MemstoreError | None:
    """The error of a command, if it was one of ours."""
    error = CliRunner().invoke(app, [str(a) for a in arguments]).exception
    assert error is None or isinstance(error, MemstoreError), error
    return error


def test_convert_writes_over_no_stock_checkpoint(stock: Path, tmp_path: Path) -> None:
    other = tiny.save_stock_t5(tmp_path / "other")
    before = contents(stock)
    assert isinstance(error := run("convert", stock, "--out", stock), ConfigError)
    assert "is read from, and would be written over" in str(error)
    assert isinstance(error := run("convert", other, "--out", stock), ConfigError)
    assert "holds a stock checkpoint, which would be written over" in str(error)
    assert contents(stock) == before
    assert run("convert", stock, "--out", tmp_path / "ours") is None
    assert run("convert", stock, "--out", tmp_path / "ours", "--system", "fid") is None
    assert checkpoint.load(tmp_path / "ours")[0].config.system == "fid"


def test_options_of_convert_are_settings_of_the_model(stock: Path, tmp_path: Path) -> None:
    options = ["--alpha", "0.5", "--beta", "0.75", "--copy-head", "--embedding-dim", "8"]
    assert run("convert", stock, "--out", tmp_path / "ours", *options) is None
    c = checkpoint.load(tmp_path / "ours")[0].config
    assert (c.alpha, c.beta, c.copy_head, c.embedding_dim) == (0.5, 0.75, True, 8)


def test_new_writes_over_no_trained_model(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    command = ("new", "--config", folder / "config.json", "--tokenizer", folder, "--out")
    assert isinstance(error := run(*command, folder), ConfigError)
    assert "holds a trained model" in str(error)
    assert contents(folder) == before
    for seed in ("1", "2"):
        assert run(*command, tmp_path / "new", "--seed", seed) is None
    assert not checkpoint.load(tmp_path / "new")[0].config.trained
    (tmp_path / "new" / "config.json").unlink()  # as a killed process leaves it
    assert run(*command, tmp_path / "new") is None


def test_new_names_the_file_that_is_wrong(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(values | {"alpha": 2.0}))
    error = run("new", "--config", tmp_path / "mine.json", "--tokenizer", folder, "--out", tmp_path / "new")
    assert str(error).startswith(f"{tmp_path / 'mine.json'}: alpha and beta must be in")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--config", "nowhere.json"], "nowhere.json' does not exist"),
        (["--tokenizer", "config.json"], "config.json' is a file"),
        (["--seed", str(2**64)], "Invalid value for '--seed'"),
    ],
)
def test_new_refuses_options_that_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch, option: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    refused = CliRunner().invoke(app, ["new", "--config", "config.json", "--tokenizer", ".", "--out", "new", *option])
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())
    assert not (folder / "new").exists()


def test_a_missing_config_is_missing_and_a_stock_one_is_reported(folder: Path, stock: Path) -> None:
    assert checkpoint.read_config(folder).name == "tiny"
    with pytest.raises(CheckpointError, match="is a stock checkpoint"):
        checkpoint.read_config(stock)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointNotFound, match=r"has no config.json"):
        checkpoint.read_config(folder)
