"""Documents of a store that change in their metadata: what is unchanged, replaced, and what takes another's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from memstore import metadata
from memstore.errors import InvalidMetadata
from memstore.retrieve import lexical
from memstore.retrieve.lexical_settings import Bm25Settings
from memstore.store import Store, check_generation, read_generation
from memstore.store.check_kept import find_present
from memstore.store.describe import inspect
from memstore_builders.change import delete
from memstore_builders.compact import compact
from tests.builders.changing import Bench, Documents, live_passages, require_holds, require_same_as_built

RETRIEVERS = ["bm25", "dense", "hybrid"]
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


@pytest.mark.parametrize("retriever", RETRIEVERS)
def test_the_first_metadata_of_a_store_can_be_filtered_by(tmp_path: Path, retriever: str) -> None:
    bench = Bench(tmp_path, {"plain": DOCUMENTS["plain"], "gone": ("Elbe", "It is gone.")}, retriever=retriever)
    delete(bench.path, ["gone"])
    del bench.documents["gone"]
    assert read_generation(bench.path).metadata == {}
    require_holds(bench)
    bench.add({"a": ("Nile", "A river. It is long.", {"n": 1}), "b": ("Nile", "A lake.", {"n": 2.5, "tags": ["a"]})})
    assert read_generation(bench.path).metadata == {"n": ("number",), "tags": ("strings",)}
    require_holds(bench)
    bench.add({"c": ("Rhine", "A lake.", {"tags": ["a", "b"], "n": "3"}), "a": ("Nile", "A river.", {"n": 3})})
    assert read_generation(bench.path).metadata == {"n": ("number", "string"), "tags": ("strings",)}
    require_holds(bench)
    assert list(check_generation(bench.path)) == []
    delete(bench.path, ["b", "c"])
    bench.documents = {i: said for i, said in bench.documents.items() if i in ("plain", "a")}
    require_holds(bench)
    compact(bench.path)
    assert read_generation(bench.path).metadata == {"n": ("number",)}
    require_holds(bench)
    require_same_as_built(bench, "at-once")
    assert list(find_present(bench.path, ["b", "c"])) == []


@pytest.mark.parametrize("retriever", ["bm25", "hybrid"])
def test_an_index_of_before_there_were_metadata_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retriever: str
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(lexical, "add_metadata_field", lambda _: None)
        earlier.setattr(lexical, "Bm25Settings", lambda count, dead, texts, _: Bm25Settings(count, dead, texts, None))
        bench = Bench(tmp_path, {"plain": DOCUMENTS["plain"], "gone": ("Elbe", "It is gone.")}, retriever=retriever)
    settings = bench.path / "index" / "{:06d}" / "lexical" / "settings.json"
    bench.add({"more": ("Nile", "A river.")})
    require_holds(bench)
    assert "fields" not in Path(str(settings).format(2)).read_text()
    delete(bench.path, ["gone"])
    del bench.documents["gone"]
    bench.add({"a": ("Nile", "A river. It is long.", {"n": 1})})
    assert "fields" in Path(str(settings).format(4)).read_text()
    require_holds(bench)
    bench.add({"b": ("Nile", "A lake.", {"n": 2})})
    require_holds(bench)
    assert list(check_generation(bench.path)) == []


def test_too_many_fields_change_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_COLLECTION_FIELDS", 3)
    with pytest.raises(InvalidMetadata, match="more than 3 different metadata fields"):
        bench.add({"z": ("z", "A lake.", {"a": 1, "b": 2})})
    assert read_generation(bench.path).number == 1
    require_holds(bench)


def test_inspect_lists_the_fields(bench: Bench) -> None:
    assert inspect(bench.path)["metadata"] == {"lang": ["string"], "year": ["number"]}


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
