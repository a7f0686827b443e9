"""A store in shards, read as one: what answering needs of a `Store`, from several. Knows no model.

A row of the whole is the passage's place in the corpus, as long as every shard's rows are those it was built with, or
came later. Rows that came later follow all of those. Where a shard was written again (`memstore compact`), its places
are lost, and the shards' rows follow each other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from memstore.codec import Codec
from memstore.errors import IndexCorrupt, MissingData, PassageNotFound, StoreCorrupt, StoreNotFound
from memstore.fingerprint import Fingerprint
from memstore.metadata import Kind
from memstore.passage import Passage, StoredPassage
from memstore.store.current import read_generation
from memstore.store.deletions import Rows
from memstore.store.format import Generation
from memstore.store.memories import Memories, in_order
from memstore.store.reader import Store
from memstore.store.shard_list import Places, ShardList, is_sharded, read_places

T = TypeVar("T")
Int64 = npt.NDArray[np.int64]


class ShardRows:
    """Rows of the whole, and those of its shards.

    Args:
        counts: rows of each shard.
        places: for each shard the rows of the whole `(rows,)`, ascending, that its first ones are, in all those from 0
            on; none by default, and then the shards' rows follow each other.
    """

    def __init__(self, counts: Sequence[int], places: Sequence[Places] | None = None) -> None:
        self._places = [np.empty(0, np.uint64) for _ in counts] if places is None else list(places)
        self._built = sum(map(len, self._places))
        later = [count - len(own) for count, own in zip(counts, self._places, strict=True)]
        self._first = np.asarray([self._built, *(self._built + n for n in itertools.accumulate(later))])

    def of(self, shard: int, rows: npt.ArrayLike) -> Int64:
        """Rows of the whole that rows of a shard are."""
        own, asked = self._places[shard], np.asarray(rows, dtype=np.int64)
        found: Int64 = asked - len(own) + self._first[shard]
        built = asked < len(own)
        found[built] = own[asked[built]]
        return found

    def locate(self, rows: npt.ArrayLike) -> tuple[Int64, Int64]:
        """Rows of the whole to (numbers of shards, rows within them)."""
        asked = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(self._first[:-1], asked, side="right") - 1
        locals_ = asked - self._first[shards] + np.asarray([len(own) for own in self._places])[shards]
        built = np.flatnonzero(asked < self._built)
        for shard, own in enumerate(self._places) if len(built) else ():
            at = np.searchsorted(own, asked[built].astype(np.uint64))
            is_own = own[np.minimum(at, len(own) - 1)] == asked[built] if len(own) else np.zeros(len(at), bool)
            shards[built[is_own]], locals_[built[is_own]] = shard, at[is_own]
        return shards, locals_


class ShardedStore:
    """Shards, each at a generation, open for reading as one store. Safe to use from several threads.

    Memory: that of each shard's `Store`; the places of rows are mapped.
    """

    def __init__(self, place: Path, listed: ShardList, shards: Sequence[Store]) -> None:
        self.place, self.path, self.listed, self.shards = place, place, listed, tuple(shards)
        self.generation = _joined([shard.generation for shard in shards])
        self.rows = ShardRows([len(shard) for shard in shards], _places(place, listed, shards))

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open every shard at the generation that is in force in it.

        Raises:
            MissingData: a shard is absent.
            StoreCorrupt, StoreUnreadable, StoreFormatError: see `Store.open`; the shards do not fit together.
            FingerprintMismatch: a shard was made by another model.
        """
        place = Path(path)
        listed = ShardList.read(place)
        with ExitStack() as stack:
            shards = []
            for name in listed.names:
                try:
                    shards.append(Store.open(place / name))
                except StoreNotFound as error:
                    raise MissingData(f"the shard {name} of {place} is missing: {error}") from error
                stack.callback(shards[-1].close)
                shards[-1].fingerprint.require(listed.fingerprint)
            opened = cls(place, listed, shards)
            stack.pop_all()
        return opened

    def close(self) -> None:
        """Let the generations be removed; see `Store.close`."""
        for shard in self.shards:
            shard.close()

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the memories."""
        return self.listed.fingerprint

    @property
    def codec(self) -> Codec:
        """How the first shard's memories are kept; the others' codec learned the same."""
        return self.shards[0].codec

    def __len__(self) -> int:
        """Rows, deleted passages included."""
        return sum(map(len, self.shards))

    @property
    def live(self) -> int:
        """Passages in the collection."""
        return sum(shard.live for shard in self.shards)

    def dead_rows(self) -> Rows:
        """See `Store.dead_rows`."""
        return np.sort(np.concatenate([self.rows.of(i, shard.dead_rows()) for i, shard in enumerate(self.shards)]))

    def open_segments(self) -> None:
        """See `Store.open_segments`."""
        for shard in self.shards:
            shard.open_segments()

    def contains(self, passage_id: str) -> bool:
        """Whether a shard holds a passage of that id."""
        return any(shard.contains(passage_id) for shard in self.shards)

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """See `Store.passages`."""
        return [found.passage for found in self.find(ids)]

    def find(self, ids: Sequence[str]) -> list[StoredPassage]:
        """See `Store.find`. A passage's id does not say its shard, so each is asked for those not found yet."""
        found: dict[str, StoredPassage] = {}
        for number, shard in enumerate(self.shards):
            missing = [i for i in dict.fromkeys(ids) if i not in found]
            for passage_id, stored in zip(missing, shard.look_up(missing) if missing else (), strict=True):
                if stored is not None:
                    found[passage_id] = StoredPassage(stored.passage, int(self.rows.of(number, [stored.row])[0]))
        for passage_id in ids:
            if passage_id not in found:
                raise PassageNotFound(passage_id)
        return [found[passage_id] for passage_id in ids]

    def at(self, rows: Sequence[int], *, to_load: bool = False) -> list[StoredPassage]:
        """See `Store.at`."""
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexCorrupt(f"row {row} is outside this store of {len(self)} rows; rebuild the index")
        found = self._by_shard(rows, lambda shard, _, own: shard.at(own, to_load=to_load))
        return [StoredPassage(stored.passage, row) for stored, row in zip(found, rows, strict=True)]

    def load(
        self,
        wanted: Sequence[str | StoredPassage],
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device = "cpu",
    ) -> Memories:
        """See `Store.load`."""
        groups, parts = [], []
        found = self._found(wanted)
        shards, locals_ = self.rows.locate([f.row for f in found])
        for number in np.unique(shards).tolist() or [0]:
            places = np.flatnonzero(shards == number)
            own = [StoredPassage(found[p].passage, int(locals_[p])) for p in places.tolist()]
            groups.append(places)
            parts.append(self.shards[number].load(own, dtype=dtype, device=device))
        return parts[0] if len(parts) == 1 else in_order(groups, parts)

    def lengths(self, found: Sequence[StoredPassage]) -> list[int]:
        """See `Store.lengths`."""

        def ask(shard: Store, places: list[int], own: list[int]) -> list[int]:
            return shard.lengths([StoredPassage(found[p].passage, row) for p, row in zip(places, own, strict=True)])

        return self._by_shard([f.row for f in found], ask)

    def passage_at(self, row: int) -> Passage:
        """See `Store.passage_at`."""
        shards, locals_ = self.rows.locate([row])
        return self.shards[int(shards[0])].passage_at(int(locals_[0]))

    def _found(self, wanted: Sequence[str | StoredPassage]) -> list[StoredPassage]:
        named = iter(self.find([w for w in wanted if isinstance(w, str)]))
        return [next(named) if isinstance(w, str) else w for w in wanted]

    def _by_shard(self, rows: Sequence[int], ask: Callable[[Store, list[int], list[int]], Sequence[T]]) -> list[T]:
        """What each shard says of its rows, in the order of all; it is asked with their places in `rows`, too."""
        found: list[Any] = [None] * len(rows)
        shards, locals_ = self.rows.locate(rows)
        for number in np.unique(shards).tolist():
            places: list[int] = np.flatnonzero(shards == number).tolist()
            for place, one in zip(places, ask(self.shards[number], places, locals_[places].tolist()), strict=True):
                found[place] = one
        return found


AnyStore = Store | ShardedStore
"""What questions are answered from."""


def open_store(path: Path | str) -> AnyStore:
    """The store at a path, be it in shards or not, at what is in force; raises what `Store.open` does."""
    return ShardedStore.open(path) if is_sharded(Path(path)) else Store.open(path)


def in_force(path: Path) -> Generation:
    """The generation in force of the store at a path; of one in shards as `ShardedStore.generation` has it. Raises what
    `read_generation` does.
    """
    if not is_sharded(path):
        return read_generation(path)
    return _joined([read_generation(path / name) for name in ShardList.read(path).names])


def _joined(generations: Sequence[Generation]) -> Generation:
    """The shards' generations as one. Its number grows by one with each change of a shard: 1 where none was changed.

    Raises:
        StoreCorrupt: they are of different codecs or retrievers.
    """
    first, kinds = generations[0], dict[str, tuple[Kind, ...]]()
    for one in generations:
        if (one.codec, one.retriever, one.vocab_size) != (first.codec, first.retriever, first.vocab_size):
            raise StoreCorrupt(
                f"the shards do not fit together: one is of {first.codec} and {first.retriever}, another of "
                f"{one.codec} and {one.retriever}; build the store again"
            )
        for name, own in one.metadata.items():
            kinds[name] = tuple(dict.fromkeys((*kinds.get(name, ()), *own)))
    return dataclasses.replace(
        first,
        number=1 + sum(one.number - 1 for one in generations),
        segments=tuple(itertools.chain.from_iterable(one.segments for one in generations)),
        deleted=tuple(itertools.chain.from_iterable(one.deleted for one in generations)),
        passages=sum(one.passages for one in generations),
        tokens=sum(one.tokens for one in generations),
        index=None, ids=None, ids_passages=None, change={}, metadata=kinds,
    )  # fmt: skip


def _places(place: Path, listed: ShardList, shards: Sequence[Store]) -> list[Places] | None:
    """The places of all shards' rows; None where a shard does not begin with the segments that it was built with."""
    for ref, shard in zip(listed.shards, shards, strict=True):
        if tuple(one.id for one in shard.generation.segments[: len(ref.segments)]) != ref.segments:
            return None
    return [read_places(place, ref) for ref in listed.shards]
