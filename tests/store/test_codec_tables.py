"""What a codec learned: kept once per store, checked, and each segment read with its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from memstore.codec import CODECS, Codec, codec_from, get_codec
from memstore.errors import ChecksumMismatch, CodecMismatch, ConfigError, MemstoreError, MissingData, StoreFormatError
from memstore.passage import Passage
from memstore.store import (
    Generation,
    SegmentWriter,
    Store,
    check_generation,
    find_codec,
    publish,
    sealed_segment,
    write_tables,
)
from memstore.store.check import check_segment
from memstore.store.codec_tables import open_codec, read_tables
from memstore.store.describe import inspect
from memstore.store.format import SegmentRef, codec_path, render, tables_ref
from tests.store.conftest import FINGERPRINT, TinyStore
from tests.store.learned_codec import NAME, LearnedCodec, fitted, same

IDS = torch.arange(40)
STATES = torch.randn(40, 6, generator=torch.Generator().manual_seed(5)) + IDS[:, None] % 3


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, NAME, LearnedCodec)


def segment(store: Path, name: str, codec: Codec, tables: str, *, rows: range) -> None:
    """One passage per row, of four tokens each."""
    reference = write_tables(store, tables, codec)
    writer = SegmentWriter(
        store, segment_id=name, codec=codec, tables=reference, d_model=6, max_tokens=9, vocab_size=50,
        num_passages=len(rows), shard_passages=3,
    )  # fmt: skip
    for first in range(rows.start, rows.stop, 3):
        chosen = range(first, min(first + 3, rows.stop))
        passages = [Passage(f"p{row}", f"d{row}", "", "text") for row in chosen]
        parts = [slice(4 * row, 4 * row + 4) for row in chosen]
        writer.write_shard(passages, [IDS[p].numpy() for p in parts], [STATES[p] for p in parts])
    writer.seal()


def sealed(store: Path, name: str) -> SegmentRef:
    ref = sealed_segment(store, name)
    assert ref is not None
    return ref


def published(path: Path, fits: dict[str, Codec]) -> Store:
    """A store of one segment of five passages for each fit."""
    for number, (name, codec) in enumerate(fits.items()):
        segment(path, f"s{number}", codec, name, rows=range(5 * number, 5 * number + 5))
    segments = tuple(sealed(path, f"s{number}") for number in range(len(fits)))
    codec = next(iter(fits.values()))
    publish(path, Generation(
        number=1, fingerprint=FINGERPRINT, codec=codec.name, vocab_size=50, settings={}, segments=segments,
        passages=5 * len(fits), tokens=20 * len(fits), retriever="bm25",
    ))  # fmt: skip
    return Store.open(path)


def expected(codec: Codec, rows: range) -> torch.Tensor:
    part = slice(4 * rows.start, 4 * rows.stop)
    arrays = codec.encode(STATES[part], IDS[part])
    return codec.decode(arrays, IDS[part], dtype=torch.float32, device="cpu")


# --- a round trip ---------------------------------------------------------------------------------------------------


def test_tables_come_back_with_the_codec_that_learned_them(tmp_path: Path) -> None:
    codec = fitted(1)
    ref = write_tables(tmp_path, "one", codec)
    assert ref is not None
    assert (ref.file, ref.size) == ("one", codec_path(tmp_path, "one").stat().st_size)
    assert same(read_tables(tmp_path, ref), codec.tables())
    assert same(open_codec(tmp_path, codec.attributes(), ref).tables(), codec.tables())
    found = find_codec(tmp_path, "one")
    assert found is not None
    assert same(found[0].tables(), codec.tables())
    assert found[1] == ref
    assert find_codec(tmp_path, "two") is None


def test_the_same_tables_are_the_same_bytes(tmp_path: Path) -> None:
    refs = [write_tables(tmp_path, name, fitted(1)) for name in ("a", "b")]
    assert [p.name for p in sorted((tmp_path / "codecs").iterdir())] == ["a.safetensors", "b.safetensors"]
    assert codec_path(tmp_path, "a").read_bytes() == codec_path(tmp_path, "b").read_bytes()
    assert {ref.sha256 for ref in refs if ref is not None} != {write_tables(tmp_path, "a", fitted(2)).sha256}  # type: ignore[union-attr]


def test_a_store_is_written_and_read_with_what_was_learned(tmp_path: Path) -> None:
    codec = fitted(1)
    store = published(tmp_path, {"fit": codec})
    ids = ["p3", "p0", "p4"]
    wanted = expected(codec, range(5)).view(5, 4, 6)[[3, 0, 4]].flatten(0, 1)
    memories = store.load(ids, dtype=torch.float32)
    assert torch.equal(memories.states, wanted)
    assert float((memories.states - STATES.view(10, 4, 6)[[3, 0, 4]].flatten(0, 1)).abs().max()) < 0.05
    assert torch.equal(store.load(ids, dtype=torch.bfloat16).states, wanted.to(torch.bfloat16))
    assert store.generation.tables[0].file == "fit"
    assert list(check_generation(tmp_path)) == []
    assert inspect(tmp_path)["codec_bytes"] == codec_path(tmp_path, "fit").stat().st_size


@pytest.mark.parametrize("shard_reader", ["direct", "tensorstore"])
def test_each_segment_is_read_with_its_own_codec(tmp_path: Path, shard_reader: str) -> None:
    fits = {"one": fitted(1), "two": fitted(2)}
    published(tmp_path, fits)
    store = Store.open(tmp_path, shard_reader=shard_reader)  # type: ignore[arg-type]
    apart = [expected(codec, range(5 * i, 5 * i + 5)).view(5, 4, 6) for i, codec in enumerate(fits.values())]
    rows = torch.cat(apart)
    order = [7, 0, 9, 9, 3, 5]
    memories = store.load([f"p{row}" for row in order], dtype=torch.float32)
    assert torch.equal(memories.states.view(6, 4, 6), rows[order])
    assert torch.equal(memories.token_ids.view(6, 4), IDS.view(10, 4)[order])
    assert memories.lengths.tolist() == [4] * 6
    assert memories.bytes_read == 6 * 4 * (2 * 6 + 2)
    assert not torch.equal(apart[0], expected(fits["two"], range(5)).view(5, 4, 6))
    assert [same(store.codec_of(p).tables(), fits[f].tables()) for p, f in (("p0", "one"), ("p5", "two"))] == [True] * 2
    assert [ref.file for ref in store.generation.tables] == ["one", "two"]
    assert list(check_generation(tmp_path)) == []


def test_segments_of_one_fit_share_one_codec(tmp_path: Path) -> None:
    codec = fitted(1)
    store = published(tmp_path, {"same": codec})
    segment(tmp_path, "again", codec, "same", rows=range(5, 10))
    assert len(store.generation.tables) == 1
    refs = (*store.generation.segments, sealed(tmp_path, "again"))
    two = dataclasses.replace(store.generation, number=2, ids=None, segments=refs, passages=10, tokens=40)
    publish(tmp_path, two)
    both = Store.open(tmp_path)
    assert both.codec_of("p0") is both.codec_of("p7")


# --- without tables, nothing changes --------------------------------------------------------------------------------


def test_a_store_without_tables_has_the_bytes_it_always_had(tiny: TinyStore) -> None:
    """What published codecs write is what earlier versions wrote and read: no key, no file, no folder more."""
    generation = json.loads((tiny.path / "generations" / "000001.json").read_text())
    assert not {"tables", "change", "ids_passages"} & generation.keys()
    assert all("dead" not in segment for segment in generation["segments"])
    group = json.loads((tiny.path / "segments" / "000000" / "memory.zarr" / "zarr.json").read_text())
    assert group["attributes"] == {"codec": {"name": "int8", "version": 1}}
    assert sorted(p.name for p in tiny.path.iterdir()) == ["CURRENT", "generations", "lookups", "segments"]
    assert write_tables(tiny.path, "none", get_codec("bf16")) is None
    assert inspect(tiny.path)["codec_bytes"] == 0


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_a_codec_that_learns_nothing_has_no_tables(name: str) -> None:
    codec = get_codec(name)
    assert codec.sample_tokens == 0
    assert codec.fit(STATES, IDS) is codec
    assert codec.tables() == {}
    assert codec.with_tables({}) is codec
    with pytest.raises(CodecMismatch, match=f"not of the codec '{name}': this codec has no tables, not means"):
        codec_from(codec.attributes(), {"means": np.zeros(1)})


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_codec_that_was_not_fitted_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fit it before anything is written"):
        write_tables(tmp_path, "one", LearnedCodec())
    for codec in (LearnedCodec(), fitted(1)):
        with pytest.raises(ConfigError, match="fit it and write them before the first segment"):
            SegmentWriter(tmp_path, segment_id="s", codec=codec, d_model=6, max_tokens=9, vocab_size=50,
                          num_passages=1, shard_passages=1)  # fmt: skip
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_tables_have_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name of a codec's tables"):
        write_tables(tmp_path, name, fitted(1))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(bytes(data))


def of_another_codec(path: Path) -> None:
    """Sound, but the tables of something else."""
    other = path.parent / "other"
    write_tables(other, path.stem, dataclasses.replace(fitted(1), name="other"))  # type: ignore[type-var]
    shutil.move(codec_path(other, path.stem), path)


DAMAGE: dict[str, tuple[Callable[[Path], object], type[MemstoreError], str]] = {
    "absent": (lambda p: p.unlink(), MissingData, "is missing: the tables that the codec decodes by"),
    "a flipped bit": (flip, ChecksumMismatch, "is damaged"),
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:-1]), ChecksumMismatch, "is damaged"),
    "empty": (lambda p: p.write_bytes(b""), ChecksumMismatch, "is damaged"),
    "no header of ours": (lambda p: p.write_bytes(save({"means": np.zeros(3)})), ChecksumMismatch, "is damaged"),
    "another fit": (
        lambda p: write_tables(p.parents[1], p.stem, fitted(2)), CodecMismatch, "tables of another fit of"
    ),
    "another codec": (of_another_codec, CodecMismatch, "tables of another fit of the codec 'other'"),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_tables_that_are_not_those_written_are_reported_by_name(tmp_path: Path, how: str) -> None:
    damage, error, message = DAMAGE[how]
    published(tmp_path, {"fit": fitted(1)})
    path = codec_path(tmp_path, "fit")
    damage(path)
    with pytest.raises(error) as raised:
        Store.open(tmp_path).load(["p0"])
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    [problem] = check_generation(tmp_path)
    assert (problem.kind, problem.where) == (error.__name__, "codecs/fit.safetensors")
    assert message in problem.message


def test_any_flipped_bit_of_the_tables_is_reported(tmp_path: Path) -> None:
    published(tmp_path, {"fit": fitted(1)})
    path = codec_path(tmp_path, "fit")
    sound = path.read_bytes()
    for place in range(0, len(sound), 5):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :])
        [fault] = check_generation(tmp_path)
        assert fault.where == "codecs/fit.safetensors"
        assert fault.kind in ("ChecksumMismatch", "CodecMismatch")


def test_a_generation_that_does_not_name_a_segments_tables_is_reported(tmp_path: Path) -> None:
    store = published(tmp_path, {"fit": fitted(1)})
    [problem] = check_segment(tmp_path, store.generation.segments[0], tables=())
    assert (problem.kind, problem.where) == ("CodecMismatch", "segments/s0")
    assert "decodes by tables 'fit', which its generation does not name" in problem.message


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: write_tables(p.parents[1], p.stem, fitted(2))])
def test_nothing_is_published_over_tables_that_are_not_there(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    segment(tmp_path, "s0", fitted(1), "fit", rows=range(5))
    damage(codec_path(tmp_path, "fit"))
    generation = Generation(
        number=1, fingerprint=FINGERPRINT, codec=NAME, vocab_size=50, settings={}, segments=(sealed(tmp_path, "s0"),),
        passages=5, tokens=20, retriever="bm25",
    )  # fmt: skip
    with pytest.raises((MissingData, CodecMismatch), match=r"fit\.safetensors"):
        publish(tmp_path, generation)
    assert not (tmp_path / "CURRENT").exists()


GOOD = {"file": "fit", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({**GOOD, "size": "1"}, "size must be int"),
        ({**GOOD, "more": 1}, "unknown key"),
        ({"file": "fit"}, "missing key"),
        ("fit", "must be an object"),
    ],
)
def test_a_generation_with_another_kind_of_reference_is_refused(
    tmp_path: Path, reference: object, message: str
) -> None:
    store = published(tmp_path, {"fit": fitted(1)})
    values = json.loads(store.generation.to_bytes()) | {"tables": [reference]}
    with pytest.raises(StoreFormatError, match=message):
        Generation.from_bytes(render(values), path=tmp_path / "g.json")


def test_a_reference_cannot_lead_out_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError, match="name of a codec's tables"):
        read_tables(tmp_path, tables_ref({**GOOD, "file": "../fit"}, tmp_path))


def test_a_codec_that_needs_tables_is_not_made_without() -> None:
    with pytest.raises(CodecMismatch, match="decodes by tables that it learned, and none are named"):
        codec_from(fitted(1).attributes())
    with pytest.raises(CodecMismatch, match="not of the codec 'learned': means and steps are wanted, not scales"):
        codec_from(fitted(1).attributes(), {"scales": np.zeros(3)})
    with pytest.raises(StoreFormatError, match="does not know"):
        codec_from(fitted(1).attributes() | {"classes": 4}, fitted(1).tables())
