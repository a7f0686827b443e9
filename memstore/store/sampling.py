"""A few passages from all over a store, for a look at what the collection holds. Knows texts, never memories."""

from __future__ import annotations

import numpy as np

from memstore.passage import Passage
from memstore.store.sharded import AnyStore


def spread(store: AnyStore, most: int) -> list[Passage]:
    """At most so many passages of the collection, from evenly spaced rows: always the same ones of a generation.

    Raises:
        StoreCorrupt: data are damaged or missing; the subclass says how.
    """
    alive = np.ones(len(store), dtype=bool)
    alive[store.dead_rows()] = False
    wanted = min(most, store.live)
    middles = [(2 * place + 1) * len(store) // (2 * wanted) for place in range(wanted)]
    nearest = {row + int(np.argmax(alive[row:])): None for row in middles}  # each the row, or the next that is alive
    return [store.passage_at(row) for row in nearest if alive[row]]  # after the last that is alive, there is none
