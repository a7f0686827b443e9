"""What networks and servers do between memstore and its storage: tried again in time, or a clear error. Never a wrong
answer.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks import object_server
from benchmarks.faulty_proxy import Fault, Proxy
from memstore.errors import ChecksumMismatch, MissingData, StoreUnreachable, StoreUnreadable
from memstore.storage import Bucket, Limits, Piece
from memstore.storage.blocks import Blocks
from memstore.store import Memories, Store, read_generation
from memstore.store.mirror import Mirror, mirror_of
from memstore.store.uploading import push
from memstore_builders.verify import verify
from tests.store.conftest import TinyStore, write

STORE = Path("s3://wiki/faults")
FAULTS: list[Fault] = ["reset", "500", "503", "cut", "wrong"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return write(tmp_path_factory.mktemp("local") / "store")


@pytest.fixture(scope="module")
def remote(local: TinyStore, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(local.path, tmp_path_factory.mktemp("work") / "store"))
    push(Mirror(folder, "s3://wiki/faults"), tag=None)
    return STORE


@pytest.fixture(autouse=True)
def _well_again(proxy: Proxy, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("memstore.storage.bucket._PAUSE", 0.005)
    proxy.fault = lambda _method, _path: None
    yield
    proxy.fault = lambda _method, _path: None


def bucket(folder: Path, *, url: str = "s3://wiki/objects", seconds: float = 5.0) -> Bucket:
    return Bucket(url, Blocks(folder, limit=10**7), Limits(seconds=seconds))


def loaded(store: Path, ids: list[str]) -> Memories:
    opened = Store.open(store)
    try:
        return opened.load(ids, dtype=torch.float32)
    finally:
        opened.close()


def read_all(store: Path, ids: list[str]) -> None:
    opened = Store.open(store)
    opened.passages(ids)
    opened.load(ids)


def require_right(store: Path, local: TinyStore) -> None:
    mine, theirs = loaded(store, local.ids), loaded(local.path, local.ids)
    assert torch.equal(mine.states, theirs.states)
    assert torch.equal(mine.token_ids, theirs.token_ids)


def first_time(fault: Fault) -> Callable[[str, str], Fault | None]:
    """A fault in the first answer to each request."""
    seen: set[tuple[str, str]] = set()

    def plan(method: str, path: str) -> Fault | None:
        if (method, path) in seen:
            return None
        seen.add((method, path))
        return fault

    return plan


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_not_noticed(remote: Path, local: TinyStore, proxy: Proxy, fault: Fault) -> None:
    proxy.fault = first_time(fault)
    require_right(remote, local)


def test_faults_of_all_kinds_by_chance(remote: Path, local: TinyStore, proxy: Proxy) -> None:
    chance = random.Random(0)
    proxy.fault = lambda _method, _path: chance.choice(FAULTS) if chance.random() < 0.2 else None
    require_right(remote, local)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_an_error_in_time(remote: Path, local: TinyStore, proxy: Proxy, fault: Fault) -> None:
    store, mirror = Store.open(remote), mirror_of(remote)
    assert mirror is not None
    mirror.bucket._limits = Limits(seconds=0.4)
    proxy.fault = lambda _method, path: fault if "memory.zarr/states" in path else None
    with pytest.raises(ChecksumMismatch if fault == "wrong" else StoreUnreachable, match="s3://wiki/faults/segments/"):
        store.load(local.ids)
    proxy.fault = lambda _method, _path: None
    for reading in list(mirror.bucket._flying.values()):
        reading.exception()
    mirror.bucket._limits = Limits(seconds=20)
    assert len(store.load(local.ids).lengths) == len(local.ids)  # and the same store goes on
    store.close()


def test_a_storage_that_is_not_there_is_an_error_in_time(
    monkeypatch: pytest.MonkeyPatch, remote: Path, empty_cache: Path
) -> None:
    [port] = object_server.free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MEMSTORE_STORAGE_SECONDS", "0.3")
    with pytest.raises(StoreUnreachable, match=r"CURRENT could not be had in 0 s and \d+ tries"):
        Store.open(remote)


def test_a_wrong_key_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, remote: Path, proxy: Proxy) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    before = len(proxy.requests)
    with pytest.raises(StoreUnreadable, match=r"is refused: .*See the AWS_"):
        Store.open(remote)
    assert len(proxy.requests) - before == 1


@pytest.mark.parametrize("name", ["memory.zarr/states", "passages.jsonl", "passages.offsets.npy", "SEALED"])
def test_what_is_damaged_or_missing_where_it_is_stored_is_named(
    local: TinyStore, tmp_path: Path, proxy: Proxy, name: str
) -> None:
    store = Path(f"s3://wiki/damaged/{name}")
    folder = Path(shutil.copytree(local.path, tmp_path / "work"))
    mirror = Mirror(folder, f"s3://wiki/damaged/{name}")
    push(mirror, tag=None)
    key = next(found.key for found in mirror.bucket.list() if f"/{name}" in found.key and "zarr.json" not in found.key)
    there = mirror.bucket.get(key, lambda _: True)
    assert there is not None
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes([there.data[0] ^ 1]) + there.data[1:])
    mirror.bucket.put([(key, wrong)])
    with pytest.raises(ChecksumMismatch, match="damaged"):
        read_all(store, local.ids)
    assert {problem.kind for problem in verify(store, sample=0).problems} == {"ChecksumMismatch"}
    mirror.bucket.delete([key])
    with pytest.raises(MissingData, match="is missing"):
        read_all(store, local.ids)
    [problem, *_] = verify(store, sample=0).problems
    assert (problem.kind, name in problem.where) == ("MissingData", True)


@pytest.mark.parametrize("fault", ["reset", "500", "503"])
def test_an_upload_goes_on_after_faults(local: TinyStore, tmp_path: Path, proxy: Proxy, fault: Fault) -> None:
    """A reset comes after the storage has done what it was asked: CURRENT, too, is there by then, and it is ours."""
    url = f"s3://wiki/uploaded/{fault}"
    proxy.fault = first_time(fault)
    push(Mirror(Path(shutil.copytree(local.path, tmp_path / "work")), url), tag=None)
    assert read_generation(Path(url)).number == 1
    require_right(Path(url), local)


def test_of_many_who_replace_an_object_at_once_one_does(proxy: Proxy, tmp_path: Path) -> None:
    mine = bucket(tmp_path, seconds=60.0)  # SeaweedFS lets some of them wait for seconds
    with ThreadPoolExecutor(8) as threads:
        for tag in (None, "of the first"):
            if tag is not None:
                found = mine.get("CURRENT", lambda _: True)
                assert found is not None
                tag = found.tag
            values = [f"{tag} {i}".encode() for i in range(8)]
            won = list(threads.map(lambda v, tag=tag: mine.put_if("CURRENT", v, tag=tag), values))
            found = mine.get("CURRENT", lambda _: True)
            assert found is not None
            assert [v for v, w in zip(values, won, strict=True) if w] == [found.data]


def test_a_range_that_is_read_twice_at_once_is_asked_for_once(proxy: Proxy, tmp_path: Path) -> None:
    mine, file = bucket(tmp_path), tmp_path / "file"
    file.write_bytes(bytes(100))
    mine.put([("ranges", file)])
    proxy.delay = 0.2
    before = len(proxy.requests)
    pieces = [mine.begin(Piece("ranges", 10, 20, lambda _: True)) for _ in range(5)]
    proxy.delay = 0.0
    assert {piece.result() for piece in pieces} == {bytes(20)}
    assert len(proxy.requests) - before == 1
