"""Manifests: what is written comes back, and nothing else is accepted."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from memstore.errors import ChecksumMismatch, ConfigError, FingerprintMismatch, StoreFormatError
from memstore.store.format import (
    Current,
    FileRef,
    Generation,
    IndexRef,
    Seal,
    SegmentRef,
    generation_path,
    hash_folder,
    ids_path,
    index_path,
    segment_path,
)
from memstore.store.manifest import parse, render

PATH = Path("manifest")
FILE = FileRef(size=3, sha256="aa")
SEAL = Seal(segment="s", codec="int8", d_model=4, max_tokens=8, shard_passages=2, embedding_dim=0, passages=2,
            tokens=9, files={"a/b": FILE})  # fmt: skip
CURRENT = Current(generation=3, sha256="bb")


@pytest.fixture
def generation(fingerprint):
    return Generation(
        number=3, fingerprint=fingerprint, codec="int8", vocab_size=50, settings={"model": {"name": "é"}},
        segments=(SegmentRef(id="s", passages=2, tokens=9, bytes=100, seal="cc"),), deleted=("a", "b"),
        passages=2, tokens=9, retriever="hybrid", made_by={"torch": "2"}, ids=FILE,
        index=IndexRef(kind="hybrid", parts={"dense": {"dim": 4}}, files={"lexical/x": "dd"}),
    )  # fmt: skip


def test_manifests_come_back(generation):
    assert Seal.from_bytes(SEAL.to_bytes(), path=PATH) == SEAL
    assert Current.from_bytes(CURRENT.to_bytes(), path=PATH) == CURRENT
    back = dataclasses.replace(CURRENT, highest=5)
    assert Current.from_bytes(back.to_bytes(), path=PATH) == back
    assert (CURRENT.last, back.last) == (3, 5)
    assert Generation.from_bytes(generation.to_bytes(), path=PATH) == generation
    bare = dataclasses.replace(generation, index=None, ids=None, deleted=())
    assert Generation.from_bytes(bare.to_bytes(), path=PATH) == bare


def test_current_is_exactly_this():
    unsigned = b'{\n "format_version": 1,\n "generation": 3,\n "sha256": "bb"\n}\n'
    assert CURRENT.to_bytes().decode().splitlines() == [
        "{",
        ' "checksum": "' + hashlib.sha256(unsigned).hexdigest() + '",',
        ' "format_version": 1,',
        ' "generation": 3,',
        ' "sha256": "bb"',
        "}",
    ]


@pytest.mark.parametrize("kind", [Seal, Current])
def test_every_flipped_bit_of_a_manifest_is_reported(kind):
    data = (SEAL if kind is Seal else CURRENT).to_bytes()
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises(ChecksumMismatch, match=r"manifest is damaged"):
                kind.from_bytes(bytes(damaged), path=PATH)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}\n", b"\xff", CURRENT.to_bytes()[:-1]])
def test_cut_or_foreign_manifests_are_reported(data):
    with pytest.raises(ChecksumMismatch):
        Current.from_bytes(data, path=PATH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"manifest: unknown key\(s\) colour in Generation"),
        ({"fingerprint": {"encoder": "e"}}, r"missing key\(s\) d_model, .* in Fingerprint"),
        ({"segments": [{"id": "s"}]}, r"missing key\(s\) .* in SegmentRef"),
        ({"segments": ["s"]}, "SegmentRef must be an object, not str"),
        (
            {"index": {"kind": "bm25", "parts": {}, "files": {}, "more": 1}},
            "key.* more in IndexRef",
        ),
        ({"passages": "2"}, "Generation.passages must be int, not '2'"),
        ({"passages": True}, "Generation.passages must be int, not True"),
        ({"format_version": 2}, "is of store format 2; this memstore reads format 1"),
    ],
)
def test_manifests_of_other_makers_are_refused(generation, change, message):
    values = parse(generation.to_bytes(), path=PATH) | change
    with pytest.raises(StoreFormatError, match=message):
        Generation.from_bytes(render(values), path=PATH)


def test_missing_keys_are_named(generation):
    values = parse(generation.to_bytes(), path=PATH)
    del values["codec"]
    with pytest.raises(StoreFormatError, match=r"missing key\(s\) codec in Generation"):
        Generation.from_bytes(render(values), path=PATH)


def test_a_manifest_is_plain_json(generation):
    assert json.loads(generation.to_bytes())["settings"] == {"model": {"name": "é"}}


def test_fingerprint_says_which_parts_differ(fingerprint):
    other = dataclasses.replace(fingerprint, memory_layers=4, dtype="bfloat16")
    fingerprint.require(dataclasses.replace(fingerprint))
    assert fingerprint.differences(other) == {"memory_layers": (2, 4), "dtype": ("float32", "bfloat16")}
    with pytest.raises(FingerprintMismatch) as caught:
        fingerprint.require(other)
    assert caught.value.differences == fingerprint.differences(other)
    assert "memory_layers: store has 2, model has 4; dtype: store has 'float32', model has 'bfloat16'" in str(
        caught.value
    )


def test_paths():
    store = Path("s")
    assert generation_path(store, 7) == Path("s/generations/000007.json")
    assert ids_path(store, 7) == Path("s/generations/000007.ids.npy")
    assert index_path(store, 7) == Path("s/index/000007")
    assert segment_path(store, "000001-ab.c_d") == Path("s/segments/000001-ab.c_d")


@pytest.mark.parametrize("name", ["", "..", ".tmp-x", "a/b", "/a", "a b", "é"])
def test_segment_ids_are_plain_names(name):
    with pytest.raises(ConfigError, match="segment id"):
        segment_path(Path("s"), name)


def test_hash_folder_leaves_locks_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"")
    (tmp_path / ".meta.lock").write_bytes(b"")
    assert hash_folder(tmp_path) == {"a/x": hashlib.sha256().hexdigest()}
