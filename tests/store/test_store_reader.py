"""Reading: what was written comes back in the order asked, by either shard reader and by plain zarr-python."""

import dataclasses
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import zarr
from hypothesis import strategies as st

from memstore.errors import (
    ChecksumMismatch,
    ConfigError,
    IndexCorrupt,
    PassageNotFound,
    StoreFormatError,
    StoreNotFound,
    StoreUnreadable,
)
from memstore.passage import Passage
from memstore.store import Store, codec_from, publish
from memstore.store import ids as id_index
from memstore.store.shards import ShardCache
from memstore.store.texts import from_line, to_line

SHARD_READERS = ["direct", "tensorstore"]


def plain_load(tiny, ids, dtype):
    """The twin of `Store.load`: zarr-python, one passage at a time."""
    states, token_ids, lengths = [torch.empty(0, 6, dtype=dtype)], [np.empty(0, np.int64)], []
    for passage_id in ids:
        row = tiny.ids.index(passage_id)
        name = "000000"
        if row >= tiny.generation.segments[0].passages:
            name, row = "000001", row - tiny.generation.segments[0].passages
        group = zarr.open_group(tiny.path / "segments" / name / "memory.zarr", mode="r")
        length = int(group["lengths"][row])
        codec = codec_from(group.attrs["codec"])
        arrays = {s.name: group[s.name][row][:length] for s in codec.arrays(d_model=6, max_tokens=9)}
        states.append(codec.decode(arrays, torch.arange(length), dtype=dtype, device="cpu"))
        token_ids.append(group["token_ids"][row][:length].astype(np.int64))
        lengths.append(length)
    return torch.cat(states), torch.from_numpy(np.concatenate(token_ids)), lengths


@pytest.mark.parametrize("shard_reader", SHARD_READERS)
@pytest.mark.parametrize("codec", ["bf16", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [1],  # a passage without tokens, alone
        list(range(11)),
        [10, 0, 8, 1, 4],
        [3, 3, 9, 3],
        [1, 8, 1],
    ],
)
def test_loads_equal_plain_zarr(make_store, shard_reader, codec, dtype, rows):
    tiny = make_store(codec=codec)
    ids = [tiny.ids[row] for row in rows]
    loaded = Store.open(tiny.path, shard_reader=shard_reader).load(ids, dtype=dtype)
    states, token_ids, lengths = plain_load(tiny, ids, dtype)
    assert torch.equal(loaded.states, states)
    assert torch.equal(loaded.token_ids, token_ids)
    assert (loaded.lengths.tolist(), loaded.lengths.dtype) == (lengths, torch.int64)
    assert loaded.bytes_read == sum(lengths) * {"bf16": 6 * 2 + 2, "int8": 6 + 4 + 2}[codec]


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_loads_equal_what_was_written(make_store, codec):
    tiny = make_store(codec=codec)
    loaded = Store.open(tiny.path).load(tiny.ids, dtype=torch.float32)
    expected = torch.cat(tiny.states)
    tolerance = 0.0 if codec == "bf16" else float(expected.abs().max()) / 127 / 2 * 1.0001
    assert float((loaded.states - expected).abs().max()) <= tolerance
    assert loaded.token_ids.tolist() == np.concatenate(tiny.token_ids).tolist()


@pytest.mark.parametrize("shard", [1, 4, 100])
@pytest.mark.parametrize("shard_reader", SHARD_READERS)
def test_any_shard_size_reads_the_same(make_store, shard_reader, shard):
    tiny = make_store(codec="bf16", shard=shard, lengths=((3, 0, 9, 1, 5), (0,)), vocab_size=70_000)
    loaded = Store.open(tiny.path, shard_reader=shard_reader).load(tiny.ids[::-1], dtype=torch.float32)
    assert torch.equal(loaded.states, torch.cat(tiny.states[::-1]))
    assert loaded.token_ids.tolist() == np.concatenate(tiny.token_ids[::-1]).tolist()


def test_plain_zarr_reads_every_array(tiny):
    group = zarr.open_group(tiny.path / "segments/000000/memory.zarr", mode="r")
    assert group.attrs.asdict() == {"codec": {"name": "int8", "version": 1}}
    shapes = {"states": (7, 9, 6), "scales": (7, 9), "token_ids": (7, 9), "lengths": (7,), "embeddings": (7, 2)}
    assert {name: array.shape for name, array in group.arrays()} == shapes
    assert group["lengths"][:].tolist() == [3, 0, 9, 1, 5, 9, 2]
    assert np.array_equal(group["embeddings"][:], tiny.embeddings[:7])
    assert not group["states"][0][3:].any()  # beyond a passage's length: zeros
    assert group["token_ids"][2].tolist() == tiny.token_ids[2].tolist()


def test_passages_come_back_whole(tiny):
    store = Store.open(tiny.path)
    assert store.passages(tiny.ids[::-2]) == tiny.passages[::-2]
    assert list(store.iter_passages()) == tiny.passages
    assert store.ids([10, 0, 0]) == [tiny.ids[10], tiny.ids[0], tiny.ids[0]]
    assert np.array_equal(np.concatenate(list(store.iter_embeddings())), tiny.embeddings)
    assert len(store) == 11
    assert store.fingerprint == tiny.generation.fingerprint


def test_what_is_not_there(tiny):
    store = Store.open(tiny.path)
    assert not store.contains("doc1")
    for read in (store.load, store.passages):
        with pytest.raises(PassageNotFound, match="no passage with id 'doc1'") as caught:
            read([tiny.ids[0], "doc1"])
        assert caught.value.passage_id == "doc1"
    for row in (-1, 11):
        with pytest.raises(IndexCorrupt, match=f"row {row} is outside this generation of 11 rows"):
            store.ids([0, row])


def test_what_was_found_loads_as_its_ids_do(tiny):
    store = Store.open(tiny.path)
    ids = [tiny.ids[row] for row in (10, 0, 4, 0)]
    found = store.find(ids)
    assert found == store.at([10, 0, 4, 0])
    assert [f.passage for f in found] == store.passages(ids)
    expected = store.load(ids)
    for loaded in (store.load(found), store.load([ids[0], found[1], *ids[2:]])):
        for name in ("states", "lengths", "token_ids"):
            assert torch.equal(getattr(loaded, name), getattr(expected, name))
    assert store.load([]).lengths.tolist() == []
    for row in (-1, 11):
        with pytest.raises(IndexCorrupt, match=f"row {row} is outside this generation of 11 rows"):
            store.at([0, row])


def test_an_index_that_finds_a_deleted_passage_is_of_another_generation(make_store):
    store = Store.open(make_store(deleted=("doc2:é0",)).path)
    assert [f.passage.id for f in store.at([1, 3])] == ["doc1:é1", "doc3:é1"]
    with pytest.raises(IndexCorrupt, match="finds the deleted passage 'doc2:é0'; rebuild the index"):
        store.at([1, 2])


def test_deleted_passages_are_not_found_but_keep_their_rows(make_store):
    gone = "doc2:é0"
    store = Store.open(make_store(deleted=(gone,)).path)
    assert not store.contains(gone)
    assert store.contains("doc3:é1")
    for read in (store.load, store.passages):
        with pytest.raises(PassageNotFound):
            read([gone])
    assert store.ids([2]) == [gone]
    assert len(list(store.iter_passages())) == len(store) == 11


def test_a_generation_can_be_read_before_it_is_published(tiny):
    (tiny.path / "CURRENT").unlink()
    store = Store(tiny.path, dataclasses.replace(tiny.generation, ids=None))
    assert list(store.iter_passages()) == tiny.passages
    assert torch.equal(store.load(tiny.ids[:3]).lengths, torch.tensor([3, 0, 9]))
    assert not store.contains("x")


def test_stores_that_are_not_there(tmp_path, tiny):
    with pytest.raises(StoreNotFound, match="there is no store at"):
        Store.open(tmp_path / "nothing")
    with pytest.raises(StoreNotFound, match="has no CURRENT file"):
        Store.open(tmp_path)
    with pytest.raises(StoreNotFound, match="has no generation 2; 1 is in force"):
        Store.open(tiny.path, generation=2)


def test_an_id_that_shares_its_hash_with_another_is_not_that_one(tiny, monkeypatch):
    store = Store.open(tiny.path)
    shared = id_index.hash_id(tiny.ids[3])
    monkeypatch.setattr(id_index, "hash_id", lambda _: shared)
    assert not store.contains("another id")
    assert store.contains(tiny.ids[3])
    with pytest.raises(PassageNotFound, match="another id"):
        store.load([tiny.ids[3], "another id"])


def test_another_generation_of_the_same_number_is_refused(tiny):
    path = tiny.path / "generations/000001.json"
    path.write_bytes(dataclasses.replace(tiny.generation, settings={"max_words": 7}).to_bytes())
    with pytest.raises(ChecksumMismatch, match=r"000001\.json is not the generation that CURRENT names"):
        Store.open(tiny.path)


def test_a_path_that_the_system_refuses_is_unreadable_and_not_missing(tmp_path):
    with pytest.raises(StoreUnreadable, match=r"cannot be read: .*File name too long"):
        Store.open(tmp_path / ("x" * 300))


def test_a_renamed_generation_is_refused(tiny):
    path = tiny.path / "generations/000001.json"
    path.with_name("000002.json").write_bytes(path.read_bytes())
    with pytest.raises(StoreFormatError, match=r"000002\.json holds generation 1"):
        Store.open(tiny.path, generation=2)


def test_embeddings_that_were_not_asked_for(tmp_path, make_store):
    from memstore.store import SegmentWriter, get_codec

    tiny = make_store(codec="bf16")
    path = tmp_path / "bare"
    writer = SegmentWriter(path, segment_id="a", codec=get_codec("bf16"), d_model=6, max_tokens=9, vocab_size=50,
                           num_passages=1, shard_passages=1)  # fmt: skip
    writer.write_shard(tiny.passages[:1], tiny.token_ids[:1], tiny.states[:1])
    ref = writer.seal()
    publish(path, dataclasses.replace(tiny.generation, segments=(ref,), passages=1, tokens=3, ids=None))
    with pytest.raises(ConfigError, match="has no passage vectors"):
        next(Store.open(path).iter_embeddings())


@pytest.mark.parametrize("shard_reader", SHARD_READERS)
def test_threads_read_the_same(tiny, shard_reader):
    store = Store.open(tiny.path, shard_reader=shard_reader)  # segments are opened by whichever thread is first
    orders = [np.random.default_rng(seed).permutation(11).tolist() for seed in range(40)]

    def load(rows):
        return store.load([tiny.ids[row] for row in rows]).token_ids.tolist()

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load, orders))
    assert loaded == [np.concatenate([tiny.token_ids[row] for row in rows]).tolist() for rows in orders]


def test_files_beyond_the_limit_are_closed_and_opened_again(tiny, monkeypatch):
    store = Store.open(tiny.path)
    monkeypatch.setattr(store._readers.shards, "limit", 1)
    for _ in range(2):
        assert store.load(tiny.ids).lengths.tolist() == [len(s) for s in tiny.states]
        assert len(store._readers.shards._shards) == 1


def test_a_load_of_more_shards_than_files_may_be_open(make_store):
    tiny = make_store(lengths=((3, 0, 9, 1) * 30, (2,) * 40), shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * open_now + 60, hard))  # half of it for the store
        loaded = Store.open(tiny.path).load(tiny.ids[::-1], dtype=torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert loaded.lengths.tolist() == [len(s) for s in tiny.states[::-1]]
    assert loaded.token_ids.tolist() == np.concatenate(tiny.token_ids[::-1]).tolist()


def test_the_limit_fits_the_process():
    assert 16 <= ShardCache().limit <= 2048


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(*[st.text(st.characters(codec=None), max_size=8)] * 5, st.integers(0, 9), st.integers(0, 9))
def test_any_passage_survives_its_line(passage_id, document_id, title, text, url, start, end):
    passage = Passage(passage_id, document_id, title, text, url, start, end)
    line = to_line(passage)
    assert from_line(line) == passage
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@hypothesis.settings(
    max_examples=12, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_any_lengths_and_any_order(tmp_path_factory, make_store, data):
    parts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=3)
    lengths, shard = data.draw(parts), data.draw(st.integers(1, 4))
    name = tmp_path_factory.mktemp("store").name
    tiny = make_store(name, codec="bf16", lengths=lengths, shard=shard)
    rows = data.draw(st.lists(st.integers(0, len(tiny.ids) - 1), max_size=6))
    loaded = Store.open(tiny.path).load([tiny.ids[r] for r in rows], dtype=torch.float32)
    assert loaded.lengths.tolist() == [len(tiny.states[r]) for r in rows]
    assert torch.equal(loaded.states, torch.cat([torch.empty(0, 6), *(tiny.states[r] for r in rows)]))
