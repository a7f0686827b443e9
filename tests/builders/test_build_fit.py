"""A build whose codec learns: fitted once on the store's own passages, read back after a kill, never mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore.answer import Answerer
from memstore.codec import CODECS, Codec
from memstore.errors import ChecksumMismatch, CodecMismatch, MemstoreError
from memstore.store import SegmentWriter, Store, find_codec, write_tables
from memstore.store.format import codec_path
from memstore_builders import build as build_module
from memstore_builders import fit as fit_module
from memstore_builders import segments as segments_module
from memstore_builders.build import build
from memstore_builders.job import BuildOptions, prepare
from memstore_builders.plan import plan
from memstore_builders.verify import verify
from tests import tiny
from tests.store.learned_codec import NAME, LearnedCodec, fitted, same


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(150))]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def options(corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildOptions:
    """Five segments of two shards."""
    monkeypatch.setitem(CODECS, NAME, LearnedCodec)
    monkeypatch.setattr(segments_module, "SHARD_PASSAGES", (16, 16))
    return BuildOptions(
        corpus=(corpus,), out=tmp_path / "store", model=str(model), codec=NAME, dtype="float32", segment_passages=32
    )


def content(store: Path) -> dict[str, bytes]:
    """Every file of memories, texts and tables."""
    files = (p for folder in ("segments", "codecs") for p in sorted((store / folder).rglob("*")) if p.is_file())
    return {str(p.relative_to(store)): p.read_bytes() for p in files}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@contextmanager
def killed_before(owner: Any, name: str, *, call: int = 1) -> Iterator[None]:
    """Within, the builder dies as it calls `name` for the so-manieth time."""
    honest, calls = getattr(owner, name), 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return honest(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, deadly)
        patch.setattr(SegmentWriter, "discard", lambda self: None)  # a killed process cleans up nothing
        yield


def kill(options: BuildOptions, owner: Any, name: str, *, call: int = 1) -> None:
    with killed_before(owner, name, call=call), pytest.raises(Killed):
        build(options)


def test_a_store_is_built_read_and_verified_with_what_its_codec_learned(options: BuildOptions) -> None:
    report = build(options)
    assert list(report.seconds) == ["spool", "fit", "estimate", "encode", "index"]
    store = Store.open(options.out)
    [tables] = store.generation.tables
    assert [p.name for p in (options.out / "codecs").iterdir()] == [f"{tables.file}.safetensors"]
    assert {s.id.rpartition("-")[0] for s in store.generation.segments} == {tables.file}
    found = find_codec(options.out, tables.file)
    assert found is not None
    assert same(found[0].tables(), store.codec.tables())
    assert verify(options.out, sample=150).sound
    answerer = Answerer.open(options.out)
    brought = answerer._encode(store.passages(store.ids(range(20))))
    stored = store.load(store.ids(range(20)), dtype=torch.float32)
    steps = torch.from_numpy(store.codec.tables()["steps"])
    assert bool(((brought.states - stored.states).abs() <= 1.01 * steps).all())  # another batch: a step at most


def test_a_codec_is_fitted_on_a_sample_that_is_spread_over_the_store(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    class Watching(LearnedCodec):
        def fit(self, states: torch.Tensor, token_ids: torch.Tensor, *, weights: torch.Tensor | None = None) -> Codec:
            assert states.shape == (len(token_ids), 32)
            assert weights is not None
            assert torch.equal(weights, tiny.model().live.layer(0).attention_norm.weight)
            seen.append(token_ids)
            return super().fit(states, token_ids)

    monkeypatch.setitem(CODECS, NAME, Watching)
    build(options)
    [shown] = seen
    assert 400 < len(shown) < 700  # 500 are wanted
    store = Store.open(options.out)
    first, last = (store.load(store.ids([row])).token_ids for row in (0, 149))
    assert torch.equal(shown[: len(first)], first)
    assert torch.equal(shown[-len(last) :], last)
    assert store.generation.tokens > 2 * len(shown)


KILLS = {
    "before it is fitted": (fit_module, "fit", 1),
    "before the tables are written": (fit_module, "write_tables", 1),
    "as they were written": (fit_module, "find_codec", 2),
    "before the first segment": (build_module, "make_segments", 1),
    "in the first segment": (SegmentWriter, "write_shard", 2),
    "in the third segment": (SegmentWriter, "write_shard", 6),
    "before it is published": (build_module, "publish", 1),
}


def test_a_build_killed_anywhere_resumes_to_the_same_bytes(options: BuildOptions, tmp_path: Path) -> None:
    build(options)
    killed = replace(options, out=tmp_path / "killed")
    for owner, name, call in KILLS.values():
        kill(killed, owner, name, call=call)
    assert build(killed).resumed_segments == 5
    assert content(killed.out) == content(options.out)
    assert any(name.startswith("codecs/") for name in content(killed.out))
    assert verify(killed.out, sample=30).sound


@pytest.mark.parametrize("how", KILLS)
def test_a_build_killed_once_resumes_to_the_same_bytes(options: BuildOptions, tmp_path: Path, how: str) -> None:
    build(options)
    killed = replace(options, out=tmp_path / "killed")
    owner, name, call = KILLS[how]
    kill(killed, owner, name, call=call)
    build(killed)
    assert content(killed.out) == content(options.out)


DIES = """
import os, signal, sys
from memstore.store import SegmentWriter
from memstore.codec import CODECS
from memstore_builders import segments
from tests.store.learned_codec import NAME, LearnedCodec

CODECS[NAME] = LearnedCodec
segments.SHARD_PASSAGES = (16, 16)
seal, calls = SegmentWriter.seal, []

def deadly(self, *rest):
    calls.append(self)
    if len(calls) == 4:  # the first one is the estimate's
        os.kill(os.getpid(), signal.SIGKILL)
    return seal(self, *rest)

SegmentWriter.seal = deadly
from memstore.cli import main
main()
"""


def test_a_process_killed_in_its_third_segment_resumes_to_the_same_bytes(options: BuildOptions, tmp_path: Path) -> None:
    build(options)
    killed = replace(options, out=tmp_path / "killed")
    arguments = ["build", "--corpus", str(options.corpus[0]), "--out", str(killed.out), "--model", options.model,
                 "--codec", NAME, "--dtype", "float32", "--segment-passages", "32"]  # fmt: skip
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DIES, *arguments], check=False, capture_output=True, cwd=root, env=os.environ
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert build(killed).resumed_segments == 2
    assert content(killed.out) == content(options.out)


def test_what_was_learned_is_not_learned_again(options: BuildOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(options, SegmentWriter, "write_shard", call=4)
    monkeypatch.setattr(fit_module, "fit", lambda *_: pytest.fail("fitted again"))
    build(options)


def learn_otherwise(path: Path) -> None:
    write_tables(path.parents[1], path.stem, fitted(3, d_model=32))


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (flip, ChecksumMismatch, "is damaged: the tables"),
        (learn_otherwise, CodecMismatch, r"tables of another fit than segment '\w+-00000' was written with"),
    ],
)
def test_segments_are_not_added_to_those_of_another_fit(
    options: BuildOptions, damage: Any, error: type[MemstoreError], message: str
) -> None:
    kill(options, SegmentWriter, "write_shard", call=4)
    [path] = (options.out / "codecs").iterdir()
    damage(path)
    with pytest.raises(error, match=message) as raised:
        build(options)
    assert str(path) in str(raised.value)
    assert not (options.out / "CURRENT").exists()


def test_tables_that_were_lost_are_learned_again_from_the_same_sample(options: BuildOptions, tmp_path: Path) -> None:
    build(options)
    killed = replace(options, out=tmp_path / "killed")
    kill(killed, SegmentWriter, "write_shard", call=4)
    [path] = (killed.out / "codecs").iterdir()
    path.unlink()
    build(killed)
    assert content(killed.out) == content(options.out)


@pytest.mark.parametrize("changes", [{"codec": "int8"}, {"limit": 40}])
def test_what_a_build_with_other_settings_learned_is_removed(options: BuildOptions, changes: dict[str, Any]) -> None:
    kill(options, build_module, "make_segments")
    before = {p.name for p in (options.out / "codecs").iterdir()}
    assert len(before) == 1
    other = replace(options, **changes)
    build(other)
    tables = Store.open(other.out).generation.tables
    left = {p.name for p in (other.out / "codecs").glob("*")}
    assert left == {codec_path(other.out, ref.file).name for ref in tables}
    assert not left & before
    assert (other.out / "codecs").exists() == bool(tables)


def test_tables_of_another_codec_under_the_builds_name_are_refused(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(options, build_module, "make_segments")

    class Other(LearnedCodec):
        name = "other"

    monkeypatch.setitem(CODECS, "other", lambda: replace(LearnedCodec(), name="other"))
    path = codec_path(options.out, prepare(options).prefix)
    path.write_bytes(path.read_bytes().replace(b'"name\\": \\"learned', b'"name\\": \\"int8\\", '))
    with pytest.raises(MemstoreError, match=path.name):
        build(options)


def test_a_plan_fits_the_codec_and_writes_nothing(options: BuildOptions) -> None:
    predicted = plan(options)
    assert not options.out.exists()
    assert predicted.passages == 150
    built = build(options)
    assert predicted.memory_bytes == pytest.approx(
        sum(s.bytes for s in Store.open(options.out).generation.segments), rel=0.2
    )
    assert built.predicted_bytes == predicted.store_bytes
