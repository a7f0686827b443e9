"""The memories of the passages that questions read: from the store, or of the caller's own passages.

Knows the store and candidates; refuses to know questions, retrievers and models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import torch

from memstore.answer.candidates import Candidates
from memstore.model.packed import Layout, Packed, concatenate
from memstore.passage import Passage
from memstore.store import AnyStore


def memories_of(
    found: Sequence[Candidates],
    store: AnyStore,
    *,
    encode: Callable[[Sequence[Passage]], Packed],
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Packed, list[int]]:
    """One memory per candidate, in order; an empty one for a question without any. With bytes read per question.

    Args:
        found: the candidates of each question.
        store: has the memories of those that are stored.
        encode: makes those of the others.
        width: D.
        dtype: of the memories.
        device: where they go.

    Raises:
        StoreCorrupt, StoreUnreadable: see `Store.load`.
    """
    candidates = [candidate for own in found for candidate in own]
    loaded = store.load([c.stored for c in candidates if c.stored], dtype=dtype, device=device)
    layout = Layout(loaded.lengths)
    memories = Packed(loaded.states, loaded.token_ids, layout)
    per_token, tokens = loaded.bytes_read / max(1, layout.tokens), iter(layout.lengths.tolist())
    bytes_read = [round(sum(next(tokens) for c in own if c.stored) * per_token) for own in found]
    own_passages = [c.found.passage for c in candidates if c.stored is None]
    if not own_passages and all(found):
        return memories, bytes_read  # the usual case: already in order
    nothing = Packed(
        torch.zeros(0, width, dtype=dtype, device=device), torch.zeros(0, dtype=torch.int64, device=device), Layout([0])
    )
    # One after another: the store's, the caller's, and an empty one, which stands for "no passage".
    parts = [memories, *([encode(own_passages)] if own_passages else []), nothing]
    from_store, from_caller, empty = count(), count(layout.rows), layout.rows + len(own_passages)
    order: list[int] = []
    for own in found:
        order += [next(from_store if c.stored else from_caller) for c in own] or [empty]
    return concatenate(parts).take(torch.tensor(order)), bytes_read
