"""Which segments at the end of a store are joined, and that a thousand small additions stay cheap by it."""

from __future__ import annotations

import pytest

from memstore_builders.change import _to_join


@pytest.mark.parametrize(
    ("sizes", "alike", "most", "joined"),
    [
        ([500, 1, 1, 1, 1, 1, 1, 1], 8, 1000, 0),  # seven small ones
        ([500, 1, 1, 1, 1, 1, 1, 1, 1], 9, 1000, 8),
        ([500, 7, 1, 1, 1, 1, 1, 1, 1], 9, 1000, 8),  # up to 7 is one level
        ([500, 8, 1, 1, 1, 1, 1, 1, 1], 9, 1000, 0),
        ([500, 8, 1, 1, 1, 1, 1, 1, 9], 9, 1000, 8),  # the last one's level counts, and all below it
        ([*[1] * 7, *[60] * 8], 15, 1000, 15),
        ([*[60] * 8], 8, 400, 0),  # would not fit
        ([1] * 9, 5, 1000, 0),  # other codecs
        ([8], 1, 1000, 0),
    ],
)
def test_what_is_joined(sizes: list[int], alike: int, most: int, joined: int) -> None:
    assert _to_join(sizes, alike, most) == joined


@pytest.mark.parametrize("added", [1, 3, 20])
def test_a_thousand_additions_copy_each_passage_a_few_times_and_leave_few_segments(added: int) -> None:
    sizes, copied, most_segments = [50_000], 0, 0
    for _ in range(1000):
        sizes.append(added)
        while count := _to_join(sizes, len(sizes), 8192):
            copied += sum(sizes[-count:])
            sizes[-count:] = [sum(sizes[-count:])]
        most_segments = max(most_segments, len(sizes))
    assert sum(sizes) == 50_000 + 1000 * added
    assert copied <= 8 * 1000 * added
    assert most_segments <= 45
