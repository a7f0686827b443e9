"""`python -m benchmarks codecs`: every codec in one table, which the exact one heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from memstore.codec import CODEC_NAMES
from memstore_builders.build import build
from memstore_builders.corpus import sample_corpus
from memstore_builders.job import BuildOptions
from tests import tiny


def store(folder: Path, codec: str) -> Path:
    model = tiny.save_checkpoint(folder / "model")
    build(BuildOptions(corpus=(sample_corpus(),), out=folder / codec, model=str(model), codec=codec, limit=30))
    return folder / codec


def test_every_codec_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "tune_allocator", lambda: False)
    written = tmp_path / "figures.json"
    assert command.main(["codecs", "--quick", "--store", str(store(tmp_path, "bf16")), "--json", str(written)]) == 0
    [report] = json.loads(written.read_text())["benchmarks"]
    rows = {row["codec"]: row for row in report["rows"]}
    assert tuple(rows) == CODEC_NAMES
    assert (rows["bf16"]["error, %"], rows["bf16"]["as bf16, %"]) == (0, 100)
    assert [rows[name]["bytes"] for name in ("bf16", "int8", "int8-fitted", "pq", "pq16")] == [64, 36, 36, 6, 4]
    assert all(row["bytes on disk"] > 0 and row["load, ms"] > 0 for row in rows.values())
    assert 0 < rows["int8-fitted"]["error, %"] < rows["int8"]["error, %"] < rows["pq"]["error, %"]


def test_a_store_that_is_not_exact_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["codecs", "--quick", "--store", str(store(tmp_path, "int8")), "--json", str(tmp_path / "f.json")])
    assert "keeps memories as int8, not bf16" in capsys.readouterr().err
