"""Writing: what is refused, what a kill leaves, and that the same input gives the same bytes."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from memstore.errors import (
    ChecksumMismatch,
    ConfigError,
    CountMismatch,
    InvalidMemory,
    SegmentNotSealed,
    StoreNotFound,
)
from memstore.passage import Passage
from memstore.store import (
    SegmentWriter,
    Store,
    check_generation,
    get_codec,
    hash_folder,
    publish,
    remove_leftovers,
    sealed_segment,
)

OPTIONS = {"segment_id": "a", "codec": get_codec("int8"), "d_model": 4, "max_tokens": 5, "vocab_size": 10,
           "num_passages": 3, "shard_passages": 2}  # fmt: skip


def shard(count, *, start=0, tokens=3):
    passages = [Passage(f"p{start + i}", "d", "t", "x") for i in range(count)]
    return passages, [np.arange(tokens)] * count, [torch.ones(tokens, 4)] * count


def write_segment(store: Path, **options):
    with SegmentWriter(store, **(OPTIONS | options)) as writer:
        writer.write_shard(*shard(2))
        writer.write_shard(*shard(1, start=2))
        return writer.seal()


def test_the_same_input_gives_the_same_bytes(make_store):
    first, second = make_store("a"), make_store("b")
    assert hash_folder(first.path) == hash_folder(second.path)
    assert len(hash_folder(first.path)) == 52


def test_seal_counts(tmp_path):
    ref = write_segment(tmp_path)
    assert (ref.id, ref.passages, ref.tokens) == ("a", 3, 9)
    assert ref.bytes == sum(p.stat().st_size for p in (tmp_path / "segments/a").rglob("*") if p.is_file())
    assert sealed_segment(tmp_path, "a") == ref
    assert sealed_segment(tmp_path, "b") is None


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_token_ids_take_what_the_vocabulary_needs(tmp_path, vocab_size, dtype):
    write_segment(tmp_path, vocab_size=vocab_size)
    metadata = json.loads((tmp_path / "segments/a/memory.zarr/token_ids/zarr.json").read_text())
    assert metadata["data_type"] == dtype


def replaced(position, value):
    arguments = [list(part) for part in shard(2)]
    arguments[position][1] = value
    return arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (shard(1), CountMismatch, "the next shard has 2 passages, but 1 passages were given"),
        (shard(3), CountMismatch, "the next shard has 2 passages, but 3"),
        ((*shard(2)[:2], shard(1)[2]), CountMismatch, "but 1 states were given"),
        (shard(2, tokens=6), InvalidMemory, "passage 'p0' has 6 tokens, more than 5"),
        (replaced(1, np.arange(2)), InvalidMemory, r"passage 'p1': states are \(3, 4\), not \(2, 4\)"),
        (replaced(2, torch.ones(3, 5)), InvalidMemory, r"passage 'p1': states are \(3, 5\), not \(3, 4\)"),
        (replaced(1, np.array([0, 10, 1])), InvalidMemory, r"passage 'p1': a token id is outside \[0, 10\)"),
        (replaced(1, np.array([0, -1, 1])), InvalidMemory, r"passage 'p1': a token id is outside \[0, 10\)"),
        (replaced(2, torch.full((3, 4), torch.nan)), InvalidMemory, "passages 'p0' to 'p1': .* not finite"),
        ((*shard(2), np.ones((2, 3), np.float32)), InvalidMemory, "embeddings must have shape None"),
    ],
)
def test_wrong_shards_are_refused(tmp_path, arguments, error, message):
    writer = SegmentWriter(tmp_path, **OPTIONS)
    with pytest.raises(error, match=message):
        writer.write_shard(*arguments)
    writer.write_shard(*shard(2))  # nothing of the refused one was kept
    writer.write_shard(*shard(1, start=2))
    assert writer.seal().tokens == 9


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (None, r"embeddings must have shape \(2, 3\), not None"),
        (np.ones((2, 2), np.float32), r"embeddings must have shape \(2, 3\), not \(2, 2\)"),
        (np.full((2, 3), np.inf, np.float32), "embeddings are not finite"),
    ],
)
def test_wrong_embeddings_are_refused(tmp_path, embeddings, message):
    writer = SegmentWriter(tmp_path, **OPTIONS, embedding_dim=3)
    with pytest.raises(InvalidMemory, match=message):
        writer.write_shard(*shard(2), embeddings)


def test_a_segment_is_sealed_when_it_is_full_and_not_after(tmp_path):
    writer = SegmentWriter(tmp_path, **OPTIONS)
    writer.write_shard(*shard(2))
    with pytest.raises(CountMismatch, match="the segment has 2 of 3 passages"):
        writer.seal()
    writer.write_shard(*shard(1, start=2))
    with pytest.raises(CountMismatch, match="the next shard has 0 passages"):
        writer.write_shard(*shard(1, start=3))
    writer.seal()


@pytest.mark.parametrize("name", ["d_model", "max_tokens", "vocab_size", "num_passages", "shard_passages"])
def test_numbers_out_of_range_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name} of a segment must be at least 1, not 0"):
        SegmentWriter(tmp_path, **(OPTIONS | {name: 0}))


def test_sealed_segments_are_not_written_again(tmp_path):
    write_segment(tmp_path)
    with pytest.raises(ConfigError, match="exists already, and segments never change"):
        SegmentWriter(tmp_path, **OPTIONS)


def test_what_a_kill_leaves_is_no_segment_and_is_discarded(tmp_path):
    write_segment(tmp_path / "whole")
    whole = hash_folder(tmp_path / "whole")
    SegmentWriter(tmp_path / "killed", **OPTIONS).write_shard(*shard(2, tokens=5))  # and no more
    assert sealed_segment(tmp_path / "killed", "a") is None
    assert [p.name for p in (tmp_path / "killed/segments").iterdir()] == [".tmp-a"]
    write_segment(tmp_path / "killed")
    assert hash_folder(tmp_path / "killed") == whole


def test_an_error_discards_the_unfinished_segment(tmp_path):
    with pytest.raises(CountMismatch), SegmentWriter(tmp_path, **OPTIONS) as writer:
        writer.seal()
    assert list((tmp_path / "segments").iterdir()) == []


def test_leftovers_are_removed_and_nothing_else(tiny):
    before = hash_folder(tiny.path)
    (tiny.path / "segments/.tmp-x/memory.zarr").mkdir(parents=True)
    (tiny.path / ".tmp-CURRENT").write_text("x")
    (tiny.path / ".tmp-of-another-program").write_text("x")
    (tiny.path / "generations/.tmp-000002.json").write_text("x")
    assert list(check_generation(tiny.path)) == []
    assert remove_leftovers(tiny.path) == [".tmp-CURRENT", "segments/.tmp-x", "generations/.tmp-000002.json"]
    (tiny.path / ".tmp-of-another-program").unlink()
    assert hash_folder(tiny.path) == before


def test_a_folder_without_sealed_is_not_a_segment(tmp_path):
    write_segment(tmp_path)
    (tmp_path / "segments/a/SEALED").unlink()
    with pytest.raises(SegmentNotSealed, match="has no SEALED"):
        sealed_segment(tmp_path, "a")


def test_publishing_twice_changes_nothing(tiny):
    before = hash_folder(tiny.path)
    assert publish(tiny.path, tiny.generation) == tiny.generation
    assert publish(tiny.path, dataclasses.replace(tiny.generation, ids=None)) == tiny.generation
    assert hash_folder(tiny.path) == before


def test_generations_never_change_and_the_last_is_in_force(tiny):
    other = dataclasses.replace(tiny.generation, deleted=(tiny.ids[0],))
    with pytest.raises(ConfigError, match=r"generation 1 of .* was published and never changes; publish number 2"):
        publish(tiny.path, other)
    publish(tiny.path, dataclasses.replace(other, number=2))
    with pytest.raises(ConfigError, match=r"generation 0 comes before generation 2, .* publish number 3"):
        publish(tiny.path, dataclasses.replace(other, number=0))
    assert Store.open(tiny.path).generation.number == 2
    assert Store.open(tiny.path, generation=1).contains(tiny.ids[0])
    assert not Store.open(tiny.path).contains(tiny.ids[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"passages": 12}, CountMismatch, "generation 2 has 12 passages, its segments 11"),
        ({"tokens": 1}, CountMismatch, "generation 2 has 1 tokens, its segments 49"),
        ({"segments": ()}, ConfigError, "generation 2 has no segments"),
    ],
)
def test_generations_that_contradict_their_segments_are_not_published(tiny, change, error, message):
    with pytest.raises(error, match=message):
        publish(tiny.path, dataclasses.replace(tiny.generation, number=2, **change))
    assert Store.open(tiny.path).generation == tiny.generation


@pytest.mark.parametrize("options", [{"codec": get_codec("bf16")}, {"d_model": 4}, {"max_tokens": 12}])
def test_segments_that_keep_memories_in_different_ways_are_not_published(tmp_path, tiny, options):
    values = {"codec": get_codec("int8"), "d_model": 6, "max_tokens": 9} | options
    with SegmentWriter(tiny.path, segment_id="other", vocab_size=50, num_passages=1, shard_passages=1,
                       embedding_dim=2, **values) as writer:  # fmt: skip
        passage = dataclasses.replace(tiny.passages[0], id="new")
        writer.write_shard([passage], [np.arange(2)], [torch.ones(2, values["d_model"])], np.zeros((1, 2), np.float32))
        other = writer.seal()
    counts = {"passages": tiny.generation.passages + 1, "tokens": tiny.generation.tokens + 2}
    segments = (*tiny.generation.segments, other)
    with pytest.raises(ConfigError, match="embedding_dim of segment 'other' are"):
        publish(tiny.path, dataclasses.replace(tiny.generation, number=2, segments=segments, **counts))
    assert Store.open(tiny.path).generation == tiny.generation


def test_only_the_sealed_segments_are_published(tiny):
    first, second = tiny.generation.segments
    for segments, error in (
        ((first, dataclasses.replace(second, seal="0" * 64)), ChecksumMismatch),
        ((first, dataclasses.replace(second, id="other")), SegmentNotSealed),
    ):
        with pytest.raises(error):
            publish(tiny.path, dataclasses.replace(tiny.generation, number=2, segments=segments))


def test_damage_before_publishing_is_reported(tiny):
    path = tiny.path / "segments/000001/passages.hashes.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumMismatch, match=r"passages\.hashes\.npy is not what was sealed"):
        publish(tiny.path, dataclasses.replace(tiny.generation, number=2))


def test_an_id_twice_is_not_published(tmp_path, tiny):
    refs = tuple(write_segment(tmp_path / "twice", segment_id=name) for name in ("a", "b"))
    generation = dataclasses.replace(tiny.generation, segments=refs, passages=6, tokens=18, ids=None)
    with pytest.raises(CountMismatch, match=r"passage id 'p[012]' is in more than one row of generation 1"):
        publish(tmp_path / "twice", generation)
    with pytest.raises(StoreNotFound):
        Store.open(tmp_path / "twice")


def test_what_is_renamed_is_on_the_disk_before(make_store, monkeypatch):
    """A power cut must not leave a final name on what was never flushed: the order of fsync and rename."""
    flushed, renamed = set(), []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def note(path, target):
        below = [path, *path.rglob("*")]
        renamed.append(Path(target).name)
        assert not [p for p in below if p.stat().st_ino not in flushed], f"{target} was renamed before it was flushed"

    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino) or fsync(handle))
    monkeypatch.setattr(Path, "rename", lambda path, target: note(path, target) or rename(path, target))
    monkeypatch.setattr(Path, "replace", lambda path, target: note(path, target) or replace(path, target))
    make_store()
    assert renamed == ["000000", "000001", "000000.npy", "000001.npy", "000001.ids.npy", "000001.json", "CURRENT"]
