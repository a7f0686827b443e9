"""Documents of a store that change in their metadata: what is unchanged, replaced, and what takes another's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from memstore.store import Store, check_generation
from memstore_builders.change import delete
from memstore_builders.compact import compact
from tests.builders.changing import Bench, Documents, live_passages, require_holds, require_same_as_built

SAID = ("Nile", "The river is long. It flows north.")
DOCUMENTS: Documents = {
    "plain": ("Rhine", "It flows past castles."),
    "en": (*SAID, {"lang": "en", "year": 1999}),
    "de": (*SAID, {"lang": "de", "year": 1999}),
    "twin": (*SAID, {"year": 1999, "lang": "en"}),
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, DOCUMENTS)


def test_a_build_keeps_them_and_stores_twins_with_others(bench: Bench) -> None:
    require_holds(bench)
    documents = {p.document_id: p.metadata for p in live_passages(Store.open(bench.path))}
    assert documents == {"plain": {}, "en": {"lang": "en", "year": 1999}, "de": {"lang": "de", "year": 1999}}


def test_what_says_the_same_is_unchanged_and_new_metadata_replace(bench: Bench) -> None:
    assert bench.add(DOCUMENTS).unchanged == 4
    report = bench.add(
        {
            "en": (*SAID, {"year": 1999, "lang": "en"}),  # in another order
            "de": (*SAID, {"lang": "de", "year": 2000}),
            "plain": (*DOCUMENTS["plain"][:2], {"lang": "en"}),
        }
    )
    assert (report.unchanged, report.replaced) == (1, 2)
    require_holds(bench)
    assert bench.add({"plain": DOCUMENTS["plain"]}).replaced == 1  # without any again
    require_holds(bench)
    assert list(check_generation(bench.path)) == []
    compact(bench.path)
    require_same_as_built(bench, "at-once")


def test_only_a_twin_with_the_same_metadata_takes_anothers_place(bench: Bench) -> None:
    delete(bench.path, ["en"])
    left = {p.document_id: p.metadata for p in live_passages(Store.open(bench.path))}
    assert left["twin"] == {"lang": "en", "year": 1999}
    delete(bench.path, ["de"])
    assert {p.document_id for p in live_passages(Store.open(bench.path))} == {"plain", "twin"}
    bench.documents = {i: said for i, said in DOCUMENTS.items() if i in ("plain", "twin")}
    require_holds(bench)
    compact(bench.path)
    require_same_as_built(bench, "at-once")
