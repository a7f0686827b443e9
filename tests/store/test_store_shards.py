"""Single shards, made by hand: what a reader tells of an index or a chunk that is whole but says something false."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import google_crc32c
import pytest
import zstandard

from memstore.errors import ChecksumMismatch, MissingData
from memstore.store.shards import Shard

ABSENT = (1 << 64) - 1


def checked(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")


CHUNK = checked(zstandard.compress(b"abc"))


def shard(folder: Path, *entries: tuple[int, int], chunks: bytes = CHUNK) -> Shard:
    path = folder / "0"
    path.write_bytes(chunks + checked(b"".join(struct.pack("<QQ", *entry) for entry in entries)))
    return Shard(path, chunks=len(entries))


def test_a_chunk_comes_back(tmp_path: Path) -> None:
    found = shard(tmp_path, (ABSENT, ABSENT), (0, len(CHUNK)))
    assert found.chunk(*found.locate(1), raw=3) == b"abc"
    with pytest.raises(MissingData, match="chunk 0 is missing"):
        found.locate(0)


@pytest.mark.parametrize("entry", [(0, 3), (0, 0), (0, 10_000), (10_000, 8), (ABSENT, 8), (0, ABSENT)])
def test_a_place_outside_of_the_file_is_damage(tmp_path: Path, entry: tuple[int, int]) -> None:
    with pytest.raises(ChecksumMismatch, match="chunk 0 is not within the file"):
        shard(tmp_path, entry).locate(0)


@pytest.mark.parametrize("raw", [2, 4])
def test_a_chunk_of_another_size_is_damage(tmp_path: Path, raw: int) -> None:
    found = shard(tmp_path, (0, len(CHUNK)))
    with pytest.raises(
        ChecksumMismatch, match=f"the chunk at byte 0 has 3 bytes instead of {raw}|the chunk at byte 0: "
    ):
        found.chunk(*found.locate(0), raw=raw)


def test_a_chunk_that_is_no_zstd_is_damage(tmp_path: Path) -> None:
    found = shard(tmp_path, (0, 7), chunks=checked(b"abc"))
    with pytest.raises(ChecksumMismatch, match="the chunk at byte 0: "):
        found.chunk(*found.locate(0), raw=3)


def test_a_file_that_is_cut_while_it_is_open_is_damage(tmp_path: Path) -> None:
    found = shard(tmp_path, (0, len(CHUNK)))
    os.truncate(tmp_path / "0", 5)
    with pytest.raises(ChecksumMismatch, match=f"it ends before byte {len(CHUNK)}"):
        found.chunk(*found.locate(0), raw=3)


def test_a_file_too_short_for_its_index_is_damage(tmp_path: Path) -> None:
    shard(tmp_path, (0, len(CHUNK)))
    os.truncate(tmp_path / "0", 19)
    with pytest.raises(ChecksumMismatch, match="19 bytes cannot hold the index of 1 chunks"):
        Shard(tmp_path / "0", chunks=1)
