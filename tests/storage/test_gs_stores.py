"""A store at gs://, against a server in memory that speaks the XML API; and places that stores cannot be in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from memstore.errors import ConfigError, StoreBusy, StoreNotFound
from memstore.storage import Bucket, Limits, as_url
from memstore.storage.blocks import Blocks
from memstore.store import Store, read_generation
from memstore.store.mirror import Mirror
from memstore.store.uploading import push
from memstore.store.working import forget
from memstore_builders.verify import verify
from tests.storage.fake_gcs import Gcs, serving
from tests.store.conftest import TinyStore, write


@pytest.fixture
def gcs(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    with serving() as server:
        monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "a token")
        yield server


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return write(tmp_path_factory.mktemp("local") / "store")


def pushed(local: TinyStore, folder: Path, url: str, *, tag: str | None = None) -> Path:
    push(Mirror(Path(shutil.copytree(local.path, folder)), url), tag=tag)
    return Path(url)


def test_it_holds_what_the_folder_does(gcs: Gcs, local: TinyStore, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no store at gs://wiki/tiny"):
        Store.open("gs://wiki/tiny")
    store = pushed(local, tmp_path / "work", "gs://wiki/tiny")
    opened, mine = Store.open(store), Store.open(local.path)
    assert list(opened.iter_passages()) == list(mine.iter_passages())
    theirs, ours = (one.load(local.ids, dtype=torch.float32) for one in (opened, mine))
    assert torch.equal(theirs.states, ours.states)
    opened.close()
    mine.close()
    assert {problem.kind for problem in verify(store, sample=0).problems} == {"IndexCorrupt"}  # this store has none
    assert forget(store, hours=0).removed == ()


def test_current_is_put_on_the_condition_that_its_generation_is_the_one_known(
    gcs: Gcs, local: TinyStore, tmp_path: Path
) -> None:
    store = pushed(local, tmp_path / "first", "gs://wiki/raced")
    assert read_generation(store).number == 1
    gcs.objects["wiki/raced/CURRENT"] = (77, b"another writer's")
    with pytest.raises(StoreBusy, match="another writer changed gs://wiki/raced meanwhile"):
        pushed(local, tmp_path / "second", "gs://wiki/raced", tag="999")
    conditions = [condition for method, path, condition in gcs.requests if method == "PUT" and path.endswith("CURRENT")]
    assert conditions == ["0", "999"]  # at first it is not there
    assert gcs.objects["wiki/raced/CURRENT"] == (77, b"another writer's")


def test_of_many_who_replace_an_object_at_once_one_does(gcs: Gcs, tmp_path: Path) -> None:
    mine, tag = Bucket("gs://wiki/raced", Blocks(tmp_path / "b", limit=10**6), Limits(seconds=20)), None
    for turn in range(3):
        values = [f"{turn} {i}".encode() for i in range(8)]
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda value, tag=tag: mine.put_if("CURRENT", value, tag=tag), values))
        found = mine.get("CURRENT", lambda _: True)
        assert found is not None
        assert [v for v, w in zip(values, won, strict=True) if w] == [found.data]
        tag = found.tag


@pytest.mark.parametrize(
    "place", ["az://container/wiki", Path("az://container/wiki"), "abfss://c@a/wiki", "https://a/b"]
)
def test_places_that_stores_cannot_be_in_are_refused(place: Path | str) -> None:
    with pytest.raises(ConfigError, match=r"a store is a folder, or in object storage at s3://BUCKET/PREFIX or gs://"):
        as_url(place)


@pytest.mark.parametrize("place", ["wiki", "./az", "a:b/c", "C:/wiki", "/s3:/wiki", "az/b", "s3", "x/gs:/y"])
def test_folders_are_no_urls(place: str) -> None:
    assert as_url(place) is None
    assert as_url(Path(place)) is None


@pytest.mark.parametrize("place", ["gs://", Path("gs://"), "s3:///"])
def test_a_bucket_is_named(place: Path | str) -> None:
    with pytest.raises(ConfigError, match="names no bucket"):
        as_url(place)
