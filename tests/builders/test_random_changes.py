"""A random sequence of changes against a model of the store in a dictionary: at every step both hold the same.

MEMSTORE_CHANGES sets the number of steps (40 by default, so that the whole suite stays quick).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from memstore.store import Store, read_generation
from memstore.store.check import check_generation
from memstore.store.check_kept import check_kept, find_present
from memstore.store.history import forget, generations, rollback
from memstore_builders.change import delete
from memstore_builders.compact import compact
from tests import tiny
from tests.builders.changing import Bench, Documents, require_holds, require_same_as_built, texts

STEPS = int(os.environ.get("MEMSTORE_CHANGES", "40"))


def said(rng: random.Random) -> tuple[str, str]:
    """A title and a text of few words, so that passages repeat often, in part and whole; sometimes none."""
    sentences = [" ".join(rng.choices(tiny.WORDS[13:19], k=rng.randint(1, 2))) + "." for _ in range(rng.randint(0, 8))]
    return rng.choice(["Nile", "Rhine"]), " ".join(sentences)


@pytest.mark.parametrize(("retriever", "seed"), [("bm25", 1), ("hybrid", 2)])
def test_a_store_holds_what_a_dictionary_does(tmp_path: Path, retriever: str, seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(tmp_path, texts(6, seed=seed), retriever=retriever)
    names = [f"d{i}" for i in range(14)]
    past: dict[int, Documents] = {1: dict(bench.documents)}
    compacted = 0
    for _ in range(STEPS):
        match rng.choices(["add", "delete", "compact", "rollback", "forget"], weights=[10, 4, 1, 2, 1])[0]:
            case "add":
                bench.add({i: said(rng) for i in rng.sample(names, rng.randint(1, 4))})
            case "delete":
                gone = rng.sample(names, rng.randint(1, 3))
                delete(bench.path, gone)
                bench.documents = {i: s for i, s in bench.documents.items() if i not in gone}
            case "compact" if Store.open(bench.path).live:
                compact(bench.path)
                compacted += 1
                require_same_as_built(bench, f"at-once-{compacted}")
                absent = [i for i in names if i not in bench.documents]
                assert list(find_present(bench.path, absent)) == []
            case "rollback" if len(past) > 1:
                bench.documents = dict(past[rollback(bench.path, to=rng.choice(list(past))).number])
            case "forget":
                forget(bench.path, keep=2)
        past = {g["generation"]: past.get(g["generation"], bench.documents) for g in generations(bench.path)}
        past[read_generation(bench.path).number] = dict(bench.documents)
        require_holds(bench)
    assert list(check_generation(bench.path)) == []
    assert list(check_kept(bench.path)) == []
    bench.add({"last": ("Nile", "the river. a lake.")})
    compact(bench.path)
    require_same_as_built(bench, "at-once")
