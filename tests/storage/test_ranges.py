"""Which ranges one request reads, and that what is damaged does no harm to what was read along with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faulty_proxy import Proxy
from memstore.errors import ChecksumMismatch
from memstore.storage import Bucket, Limits, Piece
from memstore.storage.blocks import Blocks
from memstore.storage.ranges import GAP, SPAN, together


def piece(key: str, offset: int, size: int) -> Piece:
    return Piece(key, offset, size, lambda _: True)


@pytest.mark.parametrize(
    ("ranges", "groups"),
    [
        ([], []),
        ([("a", 0, 5)], [[0]]),
        ([("a", 20, 5), ("a", 0, 5), ("a", 10, 5)], [[0, 10, 20]]),
        ([("a", 0, 5), ("a", 5 + GAP, 5)], [[0, 5 + GAP]]),
        ([("a", 0, 5), ("a", 6 + GAP, 5)], [[0], [6 + GAP]]),
        ([("a", 0, 5), ("b", 5, 5)], [[0], [5]]),
        ([("a", 0, SPAN), ("a", SPAN, 5)], [[0], [SPAN]]),
        ([("a", 0, 100), ("a", 10, 20), ("a", 100 + GAP, 5)], [[0, 10, 100 + GAP]]),
        ([("a", 0, 2 * SPAN)], [[0]]),
    ],
)
def test_neighbours_are_read_together(ranges: list[tuple[str, int, int]], groups: list[list[int]]) -> None:
    assert [[p.offset for p in group] for group in together(piece(*one) for one in ranges)] == groups


def test_what_is_damaged_does_no_harm_to_its_neighbours(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memstore.storage.bucket._PAUSE", 0.005)
    bucket = Bucket("s3://wiki/neighbours", Blocks(tmp_path / "cache", limit=10**7), Limits(seconds=20))
    file = tmp_path / "file"
    file.write_bytes(bytes(range(100)))
    bucket.put([("numbers", file)])
    before = len(proxy.requests)
    pieces = [Piece("numbers", at, 10, lambda data, at=at: at != 40 and data[0] == at) for at in range(0, 100, 20)]
    reading = bucket.begin_all([*pieces, pieces[0]])
    for at in (0, 1, 3, 4, 5):
        assert reading[at].result() == bytes(range(20 * at % 100, 20 * at % 100 + 10))
    with pytest.raises(ChecksumMismatch, match="neighbours/numbers, 10 bytes at 40 is damaged"):
        reading[2].result()
    assert len(proxy.requests) - before == 1 + 4  # all; and then the one, as often as may be
    assert [bucket.begin(one).result() for one in (pieces[0], pieces[4])] == [bytes(range(10)), bytes(range(80, 90))]
    assert len(proxy.requests) - before == 1 + 4
