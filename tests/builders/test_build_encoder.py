"""A store of a sentence encoder's vectors: where it opens from, and what `verify` says of an encoder that is gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memstore import cli
from memstore.errors import CheckpointError, CheckpointNotFound, ConfigError
from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore_builders import job as job_module
from memstore_builders import verify as verify_module
from memstore_builders.build import build
from memstore_builders.job import BuildOptions, prepare
from memstore_builders.verify import verify
from tests import tiny
from tests.retrieve.sentence_checkpoint import save_sentence_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store built from within this folder, all its paths relative, the encoder among them."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny.save_checkpoint(folder / "model")
    save_sentence_encoder(folder)
    rows = [{"id": p.id, "title": p.title, "text": f"{p.text} {i}."} for i, p in enumerate(tiny.passages(12))]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build(options())
    return folder


def options() -> BuildOptions:
    return BuildOptions(
        corpus=(Path("docs.jsonl"),), out=Path("store"), model="model", dtype="float32", retriever="dense",
        encoder="encoder",
    )  # fmt: skip


def test_a_store_of_a_relative_encoder_folder_opens_from_everywhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(folder / "store")
    assert store.generation.settings["encoder"] == str(folder / "encoder")
    [hits] = open_retriever(store).search(["river"], 3)
    assert len(hits) == 3
    assert verify(folder / "store", sample=4).sound


def test_a_hub_id_stays_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        dim = 16

        def __init__(self, name: str) -> None:
            assert name == "someone/encoder"

    monkeypatch.chdir(folder)
    monkeypatch.setattr(job_module, "SentenceEncoder", Hub)
    assert prepare(replace(options(), encoder="someone/encoder")).settings["encoder"] == "someone/encoder"


def test_an_encoder_that_is_gone_is_no_damage_to_the_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = (folder / "encoder").rename(folder / "elsewhere")
    try:
        with pytest.raises(CheckpointNotFound, match="no sentence encoder"):
            verify(folder / "store")
        monkeypatch.setattr("sys.argv", ["memstore", "verify", str(folder / "store")])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        assert "no sentence encoder" in capsys.readouterr().err
    finally:
        gone.rename(folder / "encoder")


@pytest.mark.parametrize("error", [CheckpointNotFound, CheckpointError, ConfigError])
def test_what_the_retriever_needs_is_not_what_the_store_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error("the encoder cannot be had")

    monkeypatch.setattr(verify_module, "open_retriever", fails)
    with pytest.raises(error, match="cannot be had"):
        verify(folder / "store")


def test_a_damaged_index_still_is(folder: Path) -> None:
    index = next(p for p in (folder / "store" / "index").rglob("*") if p.is_file())
    whole = index.read_bytes()
    index.write_bytes(whole[:-1])
    try:
        assert CliRunner().invoke(cli.app, ["verify", str(folder / "store")]).exit_code == 1
    finally:
        index.write_bytes(whole)
