"""A store is where its path says, whatever its folders are called."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore.errors import ConfigError
from memstore.names import accepted
from memstore.store import Store
from memstore.store.check import check_generation
from tests.store.conftest import TinyStore, write

NAMES = [
    "../store",
    "link/../store",
    "a/../../store",
    "x.__lock",
    ".__lock/store",
    "a\\b",
    "C:\\",
    "caf\udce9",
    "\udcff.__lock",
]
SHARD_READERS = ["direct", "tensorstore"]


def open_folders() -> int:
    return sum(p.is_dir() for p in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [False, True], ids=["relative", "absolute"])
def test_a_store_of_any_name_is_written_and_read(
    name: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (tmp_path / "far" / "away").mkdir(parents=True)
    (here / "a").mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "far" / "away")  # link/.. is far, not here
    monkeypatch.chdir(here)
    path = (here if whole else Path()) / name
    made = write(path)
    meant = {
        "link/../store": tmp_path / "far/store",
        "../store": tmp_path / "store",
        "a/../../store": tmp_path / "store",
    }
    assert sorted(p.name for p in meant.get(name, path).iterdir()) == ["CURRENT", "generations", "lookups", "segments"]
    assert list(check_generation(path)) == []
    for shard_reader in SHARD_READERS:
        store = Store.open(path, shard_reader=shard_reader)  # type: ignore[arg-type]
        ids = store.ids(range(len(store)))
        loaded = store.load(ids, dtype=torch.float32)
        assert loaded.token_ids.tolist() == [t for row in made.token_ids for t in row.tolist()]
        assert torch.cat([torch.from_numpy(v) for v in store.iter_embeddings()]).equal(
            torch.from_numpy(made.embeddings)
        )


def test_the_folders_held_open_are_few_and_closed_again(make_store: Callable[..., Any]) -> None:
    gc.collect()
    before = open_folders()
    store = Store.open(make_store("a\\b/c.__lock/d").path, shard_reader="tensorstore")
    store.load(store.ids(range(len(store))))
    assert open_folders() == before + 1  # for both segments and all their arrays
    del store
    gc.collect()
    assert open_folders() == before


def test_a_folder_that_was_replaced_is_another(make_store: Callable[..., TinyStore], tmp_path: Path) -> None:
    first = Store.open(make_store("a\\b").path)
    first.load(first.ids(range(len(first))))
    (tmp_path / "a\\b").rename(tmp_path / "a\\c")
    second = Store.open(make_store("a\\b", lengths=((1, 2),)).path)
    assert len(second.load(second.ids([0, 1])).token_ids) == 3
    assert len(list(first.iter_embeddings())) == 5  # it reads where it was opened


def test_where_a_name_cannot_be_helped_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a\\b").mkdir()
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: not path.is_relative_to("/proc") and exists(path))
    with pytest.raises(ConfigError, match=r"without /proc on this system no store can be in a folder of this name"):
        accepted(tmp_path / "a\\b" / "states")
    assert accepted(tmp_path / "a b" / "states") == (str(tmp_path / "a b" / "states"), None)
