"""An S3 server for all tests of this folder, a proxy before it, and a cache of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import faulty_proxy, object_server
from benchmarks.faulty_proxy import Proxy


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    try:
        with object_server.serving(tmp_path_factory.mktemp("s3")) as url:
            yield url
    except object_server.NoServer as error:
        pytest.skip(f"no S3 server here: {error}")


@pytest.fixture(scope="module")
def proxy(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """All of a module's requests go through it; the variables are set for the module."""
    with faulty_proxy.between(s3_server) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in object_server.environment(made.url, tmp_path_factory.mktemp("cache")).items():
            patch.setenv(name, value)
        yield made


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMSTORE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
