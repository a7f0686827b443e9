"""Building on a Ray cluster: the store of a local build; lost workers and a lost driver lose nothing."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memstore.errors import ConfigError
from memstore.store import read_generation
from memstore_builders import cluster as cluster_module
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_builders.progress import Silent
from tests import tiny
from tests.builders.test_build import content, searches

# Ray leaves files and processes of its own to the garbage collector, and speaks of its future
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROOT = Path(__file__).parents[2]
PASSAGES = 320


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of this test: two CPUs, so two workers of one thread."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'memstore[ray]'")
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
            runtime_env={"env_vars": environment},
        )  # fmt: skip
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> BuildOptions:
    folder = tmp_path_factory.mktemp("ray")
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(PASSAGES))]  # fmt: skip
    corpus = folder / "passages.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"id": "again:0"}]), encoding="utf-8")
    model = tiny.save_checkpoint(folder / "model", embedding_dim=8)
    return BuildOptions(corpus=(corpus,), out=folder / "local", model=str(model), segment_passages=32)


@pytest.fixture(scope="module")
def local(options: BuildOptions) -> Path:
    """The same store, built without Ray."""
    build(options)
    return options.out


def same(store: Path, local: Path) -> None:
    """Memories, texts and manifest to the byte; the index, whose files Tantivy names at random, by its answers."""
    assert content(store) == content(local)
    there, here = read_generation(store), read_generation(local)
    assert replace(there, index=here.index) == here
    assert searches(store) == searches(local)
    assert not (store / ".build").exists()


@pytest.mark.parametrize("seen", [True, False], ids=["shared folder", "files fetched"])
def test_the_store_is_that_of_a_local_build(
    ray: Any, options: BuildOptions, local: Path, tmp_path: Path, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not seen:  # as on another machine: the mark is not where the worker looks for it
        monkeypatch.setattr(cluster_module, "_mark", lambda place: "elsewhere")
    report = build(replace(options, out=tmp_path / "store", ray="auto"))
    assert (report.segments, report.resumed_segments) == (10, 0)
    same(tmp_path / "store", local)


class Striking(Silent):
    """Strikes once, as soon as the driver has so many segments."""

    def __init__(self, after: int, strike: Any) -> None:
        self._left, self._strike, self._encoding = after, strike, False

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        self._encoding = stage == "encode"

    def advance(self, count: int) -> None:
        if self._encoding:
            self._left -= 1
            if self._left == 0:
                self._strike()


def test_segments_of_killed_workers_are_given_to_others(
    ray: Any, options: BuildOptions, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crews: list[Any] = []
    hired: list[object] = []
    begin, hire = cluster_module._Crew.encode, cluster_module._Crew._hire
    monkeypatch.setattr(cluster_module._Crew, "_hire", lambda crew: (hired.append(crew), hire(crew)))
    monkeypatch.setattr(cluster_module._Crew, "encode", lambda crew, *rest: (crews.append(crew), begin(crew, *rest))[1])

    def kill_all() -> None:
        for process in ray.get([worker.ready.remote() for worker in crews[0]._workers]):
            os.kill(process, signal.SIGKILL)

    report = build(replace(options, out=tmp_path / "store", ray="auto"), Striking(3, kill_all))
    assert (report.segments, len(hired)) == (10, 4)
    same(tmp_path / "store", local)


def test_a_segment_that_kills_its_workers_ends_the_build(
    ray: Any, options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly(cluster_module.Worker):
        def encode(self, *_: Any) -> Any:
            os._exit(1)

    monkeypatch.setattr(cluster_module, "Worker", Deadly)
    monkeypatch.setattr(cluster_module, "MAX_LOSSES", 2)
    with pytest.raises(ConfigError, match=r"2 workers of the cluster were lost at segment \w+-00000"):
        build(replace(options, out=tmp_path / "store", ray="auto", ray_workers=1))


def test_a_killed_driver_is_run_again(ray: Any, options: BuildOptions, local: Path, tmp_path: Path) -> None:
    asked = replace(options, out=tmp_path / "store", ray=ray.get_runtime_context().gcs_address)
    program = (
        "import os, pickle, signal, sys\nfrom tests.builders.test_ray import Striking, build\n"
        "asked = pickle.loads(sys.stdin.buffer.read())\n"
        "build(asked, Striking(3, lambda: os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(asked), cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    report = build(asked)
    assert (report.segments, report.resumed_segments) == (10, 3)
    same(tmp_path / "store", local)


def test_more_workers_than_the_cluster_holds_are_refused(ray: Any, options: BuildOptions, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="room for 1 workers of 2 threads on cpu, not for 2"):
        build(replace(options, out=tmp_path / "store", ray="auto", ray_threads=2, ray_workers=2))
    assert not (tmp_path / "store").exists()


def test_without_ray_the_extra_is_named(options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'memstore\[ray\]'"):
        build(replace(options, out=tmp_path / "store", ray="auto"))


def test_an_address_without_a_cluster_is_an_error(
    options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'memstore[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127\.0\.0\.1:1': start one with `ray start"):
        build(replace(options, out=tmp_path / "store", ray="127.0.0.1:1"))
