"""Every kind of damage is reported by its own error: by the check, and by the read that touches it."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorstore

from memstore.errors import (
    ChecksumMismatch,
    CountMismatch,
    MissingData,
    SegmentNotSealed,
    StoreCorrupt,
    StoreNotFound,
    StoreUnreadable,
)
from memstore.store import IndexRef, SegmentRef, Store, check_generation, hash_folder, index_path, publish
from memstore.store.check import check_index, check_segment
from memstore.store.format import FileRef, Seal, hash_bytes, parse, render

SHARD_READERS = ["direct", "tensorstore"]
SEGMENT = "segments/000000"
ZARR = f"{SEGMENT}/memory.zarr"


def delete(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def flip_first(path):
    flip(path, 0)


def flip_last(path):
    flip(path, -1)


def refuse(path):
    """The system does not let anybody read it."""
    path.unlink()
    path.symlink_to(path)


def flip(path, place, bits=0x10):
    data = bytearray(path.read_bytes())
    data[place] ^= bits
    path.write_bytes(data)


def read_all(path, shard_reader="direct"):
    """Everything a server can ask of a store."""
    store = Store.open(path, shard_reader=shard_reader)
    ids = [f"doc{i}:é{i % 2}" for i in range(11)]
    assert all(store.contains(i) for i in ids)
    store.passages(ids)
    store.load(ids)
    list(store.iter_embeddings())
    store.contains("x")


def nest(path):
    """JSON, but deeper than any parser goes."""
    path.write_bytes(b"[" * 100_000)


DAMAGED = [truncate, empty, flip_first, flip_last]
READ_ERRORS = [
    ("CURRENT", [delete], StoreNotFound),
    ("CURRENT", [*DAMAGED, nest], ChecksumMismatch),
    *[(name, [refuse], StoreUnreadable)
      for name in ("CURRENT", "generations/000001.json", "generations/000001.ids.npy", f"{SEGMENT}/SEALED",
                   f"{SEGMENT}/passages.jsonl", f"{SEGMENT}/passages.hashes.npy", f"{ZARR}/states/zarr.json",
                   f"{ZARR}/states/c/0/0/0", f"{ZARR}/lengths/c/1")],
    ("generations/000001.json", [delete], MissingData),
    ("generations/000001.json", [*DAMAGED, nest], ChecksumMismatch),
    ("generations/000001.ids.npy", [delete], MissingData),
    ("generations/000001.ids.npy", DAMAGED, ChecksumMismatch),
    (f"{SEGMENT}/SEALED", [delete], SegmentNotSealed),
    (f"{SEGMENT}/SEALED", DAMAGED, ChecksumMismatch),
    *[(f"{SEGMENT}/{name}", [delete], MissingData)
      for name in ("passages.jsonl", "passages.offsets.npy", "passages.crc32.npy", "passages.hashes.npy")],
    *[(f"{SEGMENT}/{name}", DAMAGED, ChecksumMismatch)
      for name in ("passages.jsonl", "passages.offsets.npy", "passages.crc32.npy")],
    (f"{SEGMENT}/passages.hashes.npy", [truncate, empty, flip_first], ChecksumMismatch),
    *[(f"{ZARR}/{name}", [delete], MissingData)
      for name in ("zarr.json", "states/zarr.json", "scales/zarr.json", "token_ids/zarr.json", "lengths/zarr.json",
                   "embeddings/zarr.json", "states/c/0/0/0", "scales/c/1/0", "token_ids/c/2/0", "lengths/c/1",
                   "embeddings/c/0/0")],
    *[(f"{ZARR}/{name}", DAMAGED, ChecksumMismatch)
      for name in ("zarr.json", "states/zarr.json", "lengths/zarr.json", "states/c/0/0/0", "scales/c/1/0",
                   "token_ids/c/2/0", "lengths/c/1", "embeddings/c/0/0")],
]  # fmt: skip
CASES = [(name, damage, error) for name, damages, error in READ_ERRORS for damage in damages]


@pytest.mark.parametrize(("name", "damage", "error"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_each_damage_has_its_error(tiny, name, damage, error):
    damage(tiny.path / name)
    for shard_reader in SHARD_READERS:
        with pytest.raises(error) as caught:
            read_all(tiny.path, shard_reader)
        assert type(caught.value) is error
        assert str(tiny.path) in str(caught.value)
    if error is StoreNotFound:
        with pytest.raises(StoreNotFound):
            list(check_generation(tiny.path))
    else:
        problems = list(check_generation(tiny.path))
        assert [p.kind for p in problems] == [error.__name__]
        assert problems[0].where in ("", name)


def test_texts_truncated_under_an_open_store_are_damage_and_do_not_kill(tiny):
    store = Store.open(tiny.path)
    store.passages(tiny.ids)
    os.truncate(tiny.path / SEGMENT / "passages.jsonl", 1)  # in place: what is open becomes shorter
    with pytest.raises(ChecksumMismatch, match=r"passages\.jsonl: row \d+ is damaged"):
        store.passages(tiny.ids)


def test_a_sound_store_has_no_problem(tiny):
    read_all(tiny.path)
    assert list(check_generation(tiny.path)) == []


def test_random_flips_are_all_found(tiny, tmp_path):
    """Whatever byte of a store flips, the check reports it; and no read gives other values than were written."""
    chance = random.Random(0)
    expected = Store.open(tiny.path).load(tiny.ids).states.tolist()
    files = sorted(p for p in tiny.path.rglob("*") if p.is_file())
    for _ in range(60):
        path = chance.choice(files)
        data = path.read_bytes()
        flip(path, chance.randrange(len(data)), 1 << chance.randrange(8))
        assert list(check_generation(tiny.path)), f"{path} was flipped and the check is silent"
        try:
            store = Store.open(tiny.path)
            assert store.load(tiny.ids).states.tolist() == expected
            assert store.passages(tiny.ids) == tiny.passages
        except StoreCorrupt:
            pass  # told by the read
        path.write_bytes(data)
    assert list(check_generation(tiny.path)) == []


def test_a_missing_segment(tiny):
    shutil.rmtree(tiny.path / SEGMENT)
    with pytest.raises(MissingData, match="segment '000000' is missing"):
        read_all(tiny.path)
    assert [p.kind for p in check_generation(tiny.path)] == ["MissingData"]


@pytest.mark.parametrize("shard_reader", SHARD_READERS)
def test_a_chunk_that_was_never_written_is_missing_and_not_zeros(tiny, shard_reader):
    path = tiny.path / ZARR / "states"
    metadata = json.loads((path / "zarr.json").read_text())
    shutil.rmtree(path)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, "metadata": metadata,
            "store_data_equal_to_fill_value": True}  # fmt: skip
    array = tensorstore.open(spec, create=True).result()
    array[0].write(np.ones((9, 6), np.int8)).result()  # of the shard's 3
    zarr_json = (path / "zarr.json").read_bytes()
    reseal(tiny, {"memory.zarr/states/zarr.json": FileRef(size=len(zarr_json), sha256=hash_bytes(zarr_json))})
    store = Store.open(tiny.path, shard_reader=shard_reader)
    store.load([tiny.ids[0]])
    with pytest.raises(MissingData, match="is missing"):
        store.load([tiny.ids[2]])
    with pytest.raises(MissingData, match="is missing"):
        store.load([tiny.ids[6]])  # a shard that was not written at all


def reseal(tiny, files, **counts):
    """Seal the first segment again, as a wrong writer would, and publish that."""
    path = tiny.path / SEGMENT / "SEALED"
    values = parse(path.read_bytes(), path=path)
    values["files"] |= {k: {"size": v.size, "sha256": v.sha256} for k, v in files.items()}
    values |= counts
    path.write_bytes(render(values))
    old = tiny.generation.segments[0]
    ref = SegmentRef(id=old.id, passages=values["passages"], tokens=values["tokens"], bytes=old.bytes,
                     seal=hash_bytes(path.read_bytes()))  # fmt: skip
    republish(tiny, segments=[ref, tiny.generation.segments[1]])


def republish(tiny, **changes):
    """Put a generation in force that `publish` would refuse."""
    from memstore.store.format import Current

    path = tiny.path / "generations/000001.json"
    values = parse(path.read_bytes(), path=path)
    if "segments" in changes:
        segments = changes["segments"]
        changes["segments"] = [{f: getattr(s, f) for f in ("id", "passages", "tokens", "bytes", "seal")}
                               for s in segments]  # fmt: skip
    path.write_bytes(render(values | changes))
    (tiny.path / "CURRENT").write_bytes(Current(generation=1, sha256=hash_bytes(path.read_bytes())).to_bytes())


def test_tokens_that_the_lengths_do_not_have(tiny):
    reseal(tiny, {}, tokens=30)
    with pytest.raises(CountMismatch, match="of 7 passages and 29 tokens, the manifest says 7 and 30"):
        Store.open(tiny.path).load(tiny.ids[:1])
    assert {p.kind for p in check_generation(tiny.path)} == {"CountMismatch"}


def test_a_generation_that_miscounts(tiny):
    republish(tiny, passages=12)
    assert "the generation has 12 passages, its segments 11" in [p.message for p in check_generation(tiny.path)]


def test_a_segment_that_is_another(tiny):
    first, second = tiny.generation.segments
    shutil.rmtree(tiny.path / SEGMENT)
    shutil.copytree(tiny.path / "segments/000001", tiny.path / SEGMENT)
    with pytest.raises(ChecksumMismatch, match="is not the one that its generation was made with"):
        read_all(tiny.path)
    wrong = SegmentRef(id="000000", passages=7, tokens=29, bytes=1, seal=second.seal)
    assert [p.kind for p in check_segment(tiny.path, wrong)] == ["CountMismatch"]
    assert first.seal != second.seal


def test_a_file_too_many(tiny):
    (tiny.path / SEGMENT / "notes.txt").write_text("x")
    (problem,) = check_generation(tiny.path)
    assert (problem.kind, problem.where) == ("CountMismatch", f"{SEGMENT}/notes.txt")
    assert problem.message == f"{SEGMENT}/notes.txt is no file of this segment"


def test_index_files(tiny):
    folder = tiny.path / "index/000001"
    (folder / "lexical").mkdir(parents=True)
    for name in ("a", "b", "c", ".lock"):
        (folder / "lexical" / name).write_text(name)
    index = IndexRef(kind="bm25", parts={"lexical": {}}, files=hash_folder(folder))
    assert list(check_index(tiny.path, 1, index)) == []
    (folder / "lexical/a").unlink()
    (folder / "lexical/b").write_text("x")
    (folder / "lexical/d").write_text("x")
    refuse(folder / "lexical/c")
    assert [(p.kind, p.where) for p in check_index(tiny.path, 1, index)] == [
        ("MissingData", "index/000001/lexical/a"),
        ("ChecksumMismatch", "index/000001/lexical/b"),
        ("StoreUnreadable", "index/000001/lexical/c"),
        ("IndexCorrupt", "index/000001/lexical/d"),
    ]


@pytest.mark.parametrize("closed", ["segments/000000/memory.zarr", "segments/000000", "index/000001"])
def test_a_folder_that_is_closed_to_us_is_unreadable_and_not_missing(tiny, monkeypatch, closed):
    folder = index_path(tiny.path, 1)
    (folder / "lexical").mkdir(parents=True)
    (folder / "lexical/x.idx").write_bytes(b"index")
    republish(tiny, index={"kind": "bm25", "parts": {}, "files": hash_folder(folder)})
    scandir = os.scandir

    def refuse(path):
        if Path(path) == tiny.path / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    assert list(check_generation(tiny.path)) == []
    monkeypatch.setattr(os, "scandir", refuse)
    [problem] = check_generation(tiny.path)
    assert problem.kind == "StoreUnreadable"
    assert f"{closed} cannot be read: [Errno 13] Permission denied" in problem.message


def test_links_to_nothing_are_missing_data(tiny):
    path = tiny.path / ZARR / "states/c/0/0/0"
    path.unlink()
    path.symlink_to("elsewhere")
    (problem,) = check_generation(tiny.path)
    assert (problem.kind, problem.where) == ("MissingData", f"{ZARR}/states/c/0/0/0")


def test_an_id_index_of_another_collection(tiny):
    path = tiny.path / "generations/000001.ids.npy"
    data = bytearray(path.read_bytes())
    data[-8:], data[-16:-8] = data[-16:-8], data[-8:]  # two rows change places
    path.write_bytes(data)
    republish(tiny, ids={"size": len(data), "sha256": hash_bytes(bytes(data))})
    (problem,) = check_generation(tiny.path)
    assert (problem.kind, problem.where) == ("CountMismatch", "generations/000001.ids.npy")


def test_every_seal_file_is_named(tiny):
    path = tiny.path / SEGMENT / "SEALED"
    seal = Seal.from_bytes(path.read_bytes(), path=path)
    found = {p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*") if p.is_file()}
    assert set(seal.files) == found - {"SEALED"}


def test_a_repeated_publication_mends_the_id_index(tiny):
    flip_last(tiny.path / "generations/000001.ids.npy")
    publish(tiny.path, tiny.generation)
    assert list(check_generation(tiny.path)) == []
