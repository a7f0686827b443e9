"""A few passages from all over a store, the deleted ones left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memstore.store import Store
from memstore.store.sampling import spread

ROWS = range(11)  # of the stores that `make_store` makes, over two segments


def of(rows: list[int]) -> tuple[str, ...]:
    return tuple(f"doc{row}:é{row % 2}" for row in rows)


@pytest.mark.parametrize(
    ("most", "deleted", "expected"),
    [
        (1, [], [5]),
        (3, [], [1, 5, 9]),
        (11, [], list(ROWS)),
        (100, [], list(ROWS)),
        (0, [], []),
        (3, [1, 2, 5], [3, 6, 9]),  # the next one that is alive
        (3, [9, 10], [1, 5]),  # none is alive after these
        (4, list(range(8)), [8, 9]),  # the same one for several places
        (3, list(ROWS), []),
    ],
)
def test_evenly_spaced_rows_that_are_alive(
    make_store: Callable[..., Any], most: int, deleted: list[int], expected: list[int]
) -> None:
    passages = spread(Store.open(make_store(deleted=of(deleted)).path), most)
    assert tuple(passage.id for passage in passages) == of(expected)
