"""A store read through a cache that is damaged, full, shared or too small: the right bytes, or a clear error."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks.faulty_proxy import Proxy
from memstore.errors import ConfigError
from memstore.store import Memories, Store, mirror
from memstore.store.mirror import Mirror, mirror_of
from memstore.store.uploading import push
from tests.store.conftest import TinyStore, write

STORE = Path("s3://wiki/cached")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, proxy: Proxy) -> TinyStore:
    made = write(tmp_path_factory.mktemp("local") / "store")
    folder = Path(shutil.copytree(made.path, tmp_path_factory.mktemp("work") / "store"))
    push(Mirror(folder, "s3://wiki/cached"), tag=None)
    return made


def read(store: Store) -> tuple[list[str], Memories]:
    found = store.at(range(len(store)), to_load=True)
    return [one.passage.text for one in found], store.load(found, dtype=torch.float32)


def require_right(local: TinyStore, store: Store) -> None:
    mine = Store.open(local.path)
    (texts, memories), (same, expected) = read(store), read(mine)
    assert texts == same
    assert torch.equal(memories.states, expected.states)
    assert torch.equal(memories.token_ids, expected.token_ids)
    mine.close()


def of_cache(folder: Path, kind: str) -> list[Path]:
    return [path for path in (folder / kind).rglob("*") if path.is_file()]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [flipped, lambda path: os.truncate(path, 3), lambda path: os.truncate(path, 0)])
def test_damaged_ranges_are_read_again(
    local: TinyStore, proxy: Proxy, empty_cache: Path, damage: Callable[[Path], None]
) -> None:
    store = Store.open(STORE)
    require_right(local, store)
    before = len(proxy.requests)
    blocks = of_cache(empty_cache, "blocks")
    for path in blocks:
        damage(path)
    require_right(local, store)
    assert len(proxy.requests) > before
    before = len(proxy.requests)
    require_right(local, store)  # they were mended
    assert len(proxy.requests) == before
    store.close()


@pytest.mark.parametrize("damage", [flipped, lambda path: os.truncate(path, 3)])
def test_damaged_files_are_fetched_again(
    local: TinyStore, proxy: Proxy, empty_cache: Path, damage: Callable[[Path], None]
) -> None:
    Store.open(STORE).close()
    found = mirror_of(STORE)
    assert found is not None
    shutil.rmtree(found.folder)
    for path in of_cache(empty_cache, "files"):
        damage(path)
    store = Store.open(STORE)
    require_right(local, store)
    store.close()


def test_files_in_use_that_were_cut_short_are_fetched_again(local: TinyStore, empty_cache: Path, proxy: Proxy) -> None:
    Store.open(STORE).close()
    found = mirror_of(STORE)
    assert found is not None
    for path in found.folder.rglob("passages.*.npy"):
        os.truncate(path, 3)
    store = Store.open(STORE)
    require_right(local, store)
    store.close()


def test_a_full_disk_slows_questions_down_and_fails_none(
    local: TinyStore, proxy: Proxy, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(STORE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        require_right(local, store)
        assert [path for path in of_cache(empty_cache, "blocks") if path.name.startswith(".tmp-")] == []
    store.close()


def test_a_disk_too_full_to_open_a_store_is_an_error_and_the_next_try_works(
    local: TinyStore, proxy: Proxy, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("memstore.storage.bucket.sync", full)
        with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\): .*MEMSTORE_CACHE_DIR"):
            Store.open(STORE)
    assert of_cache(empty_cache, "files") == []
    store = Store.open(STORE)
    require_right(local, store)
    store.close()


def test_two_servers_with_one_cache_that_is_too_small_for_either(
    local: TinyStore, proxy: Proxy, empty_cache: Path
) -> None:
    """Each removes what the other has just read."""
    opened = []
    for _ in range(2):
        mirror._shared_bucket.cache_clear()  # as another process has its own
        opened.append(Store.open(STORE))
        opened[-1].open_segments()
        found = mirror_of(STORE)
        assert found is not None
        found.bucket.blocks.limit = 3000
    with ThreadPoolExecutor(2) as servers:
        for _ in range(3):
            list(servers.map(lambda store: require_right(local, store), opened))
    for store in opened:
        store.close()
    mirror._shared_bucket.cache_clear()
    assert sum(path.stat().st_size for path in of_cache(empty_cache, "blocks")) < 20_000
