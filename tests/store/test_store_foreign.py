"""What systems leave in any folder is reported as foreign: it is no damage, and no build takes it for its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from memstore.cli.show import show_verification
from memstore.store import Store, check_generation, foreign_files, hash_folder, is_foreign
from memstore.store.check import check_index
from memstore.store.format import IndexRef, list_files
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_builders.verify import verify
from tests import tiny as tiny_models

LEFT = [
    ".DS_Store",
    "generations/._000001.json",
    "index/Thumbs.db",
    "segments/000000/memory.zarr/states/.DS_Store",
    "segments/000000/.nfs0000000000a1b2c3",
    "segments/000000/@eaDir/x",
    "segments/desktop.ini",
]


def leave(store: Path) -> None:
    for name in LEFT:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"left")


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        (".DS_Store", True), ("a/.ds_store", True), ("a/._b.json", True), ("__MACOSX/x/y", True), ("Thumbs.db", True),
        (".nfs00a1", True), ("lost+found", True), (".nfs", False), ("c/0/0", False), ("passages.jsonl", False),
        (".tmp-000001", False), (".DS_Store.json", False), ("notes.txt", False), (".managed.json", False),
    ],
)  # fmt: skip
def test_names(name: str, foreign: bool) -> None:
    assert is_foreign(name) is foreign


def test_in_a_store_they_are_foreign_and_no_damage(tiny: Any) -> None:
    leave(tiny.path)
    assert list(check_generation(tiny.path)) == []
    assert foreign_files(tiny.path) == sorted(LEFT)
    assert len(Store.open(tiny.path).load(tiny.ids[:3]).lengths) == 3


def test_an_index_and_a_manifest_do_not_name_them(tiny: Any) -> None:
    folder = tiny.path / "index/000001"
    (folder / "lexical").mkdir(parents=True)
    for name in ("a", ".DS_Store"):
        (folder / "lexical" / name).write_text(name)
    files = hash_folder(folder)
    assert list(files) == list_files(folder) == ["lexical/a"]
    named = files | {"lexical/Thumbs.db": "0" * 64}  # an index from before; the file is gone
    assert list(check_index(tiny.path, 1, IndexRef(kind="bm25", parts={"lexical": {}}, files=named))) == []


def test_verify_names_them_and_a_build_leaves_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "title": "Nile", "text": "A river."}) + "\n")
    out = tmp_path / "store"
    for name in (".build/.DS_Store", "segments/.DS_Store", "generations/._000001.json"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(b"left")
    model = tiny_models.save_checkpoint(tmp_path / "model")
    build(BuildOptions(corpus=(corpus,), out=out, model=str(model), dtype="float32"))
    lexical = next(out.glob("index/*/lexical"))
    (lexical / ".DS_Store").write_bytes(b"left")
    found = verify(out, sample=1)
    left = ["generations/._000001.json", f"{lexical.relative_to(out).as_posix()}/.DS_Store", "segments/.DS_Store"]
    assert (found.sound, found.foreign) == (True, tuple(left))
    show_verification(asdict(found) | {"sound": found.sound})
    printed = capsys.readouterr().out
    assert [line.split(" is no file")[0] for line in printed.splitlines()[:3]] == [f"foreign: {name}" for name in left]
    assert "sound: 1 passages" in printed
