"""Adding, replacing and deleting documents: what a store holds then, and what stays as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from memstore.answer import Answerer
from memstore.errors import (
    CheckpointNotFound,
    ChecksumMismatch,
    ConfigError,
    FingerprintMismatch,
    StoreCorrupt,
    StoreNotFound,
)
from memstore.retrieve.folder import scratch_folder
from memstore.store import Store, read_generation
from memstore.store.check import check_generation
from memstore.store.history import forget, generations, rollback
from memstore_builders import add as add_module
from memstore_builders.add import AddOptions, add
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_builders.verify import verify
from tests import tiny
from tests.builders.changing import Bench, live_passages, require_holds, require_same_as_built, texts, write_corpus


@pytest.fixture(params=["bm25", "dense", "hybrid"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path, texts(20), retriever=request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Bench:
    return Bench(tmp_path, texts(20))


def test_documents_come_and_go_and_compact_is_as_if_built_at_once(bench: Bench) -> None:
    require_holds(bench)
    report = bench.add(texts(5, seed=1, prefix="new"))
    assert (report.generation, report.added, report.replaced, report.unchanged) == (2, 5, 0, 0)
    require_holds(bench)
    changed = {"d3": ("Paris", "the river was long."), "d4": bench.documents["d4"], "x": ("x", "of a lake.")}
    report = bench.add(changed)
    assert (report.generation, report.added, report.replaced, report.unchanged) == (3, 1, 1, 1)
    require_holds(bench)
    report = delete(bench.path, ["d1", "new2", "nobody"])
    assert (report.deleted, report.not_found, report.missing) == (2, 1, ("nobody",))
    for i in ("d1", "new2"):
        del bench.documents[i]
    require_holds(bench)
    assert [list(check_generation(bench.path, n)) for n in (1, 2, 3, 4)] == [[], [], [], []]
    compacted = compact(bench.path)
    assert (compacted.generation, compacted.in_use) == (5, ())
    require_holds(bench)
    require_same_as_built(bench, "at-once")
    assert [g["generation"] for g in generations(bench.path)] == [5]
    assert not list((bench.path / "deletions").iterdir())
    assert compact(bench.path).already_compact


def test_what_does_not_change_makes_no_generation(plain: Bench) -> None:
    before = sorted(p for p in plain.path.rglob("*") if p.is_file())
    report = plain.add(plain.documents)
    assert (report.generation, report.unchanged, report.passages_written) == (1, 20, 0)
    assert delete(plain.path, ["nobody"]).generation == 1
    after = sorted(p for p in plain.path.rglob("*") if p.is_file() and p.name != ".lock")
    assert after == before


def test_the_model_is_opened_only_for_what_is_to_be_encoded(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    encoding_of = add_module.encoding_of
    monkeypatch.setattr(add_module, "encoding_of", lambda *a, **k: opened.append(a) or encoding_of(*a, **k))
    weights = plain.model / "model.safetensors"
    weights.rename(plain.model / "away")
    plain.add(plain.documents)
    plain.add({"d3": ("Paris", "")})  # deletes it
    plain.add({"d4": ("z", "a lake.")}, on_existing="skip")
    plain.documents |= {"d4": texts(20)["d4"]}
    assert opened == []
    with pytest.raises(CheckpointNotFound):
        plain.add({"z": ("z", "a lake.")})
    assert (len(opened), read_generation(plain.path).number) == (1, 2)
    (plain.model / "away").rename(weights)
    assert "open the model" in plain.add({"z": ("z", "a lake.")}).seconds
    require_holds(plain)


def test_another_model_is_refused_and_changes_nothing(plain: Bench) -> None:
    changed = {"z": ("z", "a lake.")}
    other = tiny.save_checkpoint(plain.folder / "other", seed=5, embedding_dim=8)
    with pytest.raises(FingerprintMismatch, match="encoder: store has"):
        plain.add(changed, model=str(other))
    shorter = tiny.save_checkpoint(plain.folder / "shorter", embedding_dim=8, max_passage_tokens=47)
    with pytest.raises(FingerprintMismatch, match="max_passage_tokens: store has 48, model has 47"):
        plain.add(plain.documents, model=str(shorter))  # its passages might be cut otherwise
    with pytest.raises(ConfigError, match="cannot be used on this machine"):
        plain.add(plain.documents, device="cuda:77")
    assert read_generation(plain.path).number == 1
    require_holds(plain)


def test_a_document_without_text_takes_the_place_of_one(plain: Bench) -> None:
    report = plain.add({"d3": ("Paris", "  "), "nobody": ("x", "")})
    assert (report.replaced, report.added) == (1, 0)
    require_holds(plain)


@pytest.mark.parametrize(("on_existing", "replaced", "skipped"), [("replace", 1, 0), ("skip", 0, 1)])
def test_what_to_do_with_a_document_that_is_there(plain: Bench, on_existing: str, replaced: int, skipped: int) -> None:
    before = plain.documents
    report = plain.add({"d3": ("a", "lake."), "z": ("z", "city.")}, on_existing=on_existing)
    assert (report.added, report.replaced, report.skipped) == (1, replaced, skipped)
    if skipped:
        plain.documents = before | {"z": ("z", "city.")}
    require_holds(plain)


def test_failing_on_a_document_that_is_there_changes_nothing(plain: Bench) -> None:
    corpus = write_corpus(plain.folder / "c.jsonl", {"z": ("z", "city."), "d3": ("a", "lake.")})
    with pytest.raises(ConfigError, match=r"1 documents are in .* and say something else, 'd3' first"):
        add(AddOptions(store=plain.path, corpus=(corpus,), on_existing="fail"))
    require_holds(plain)
    assert read_generation(plain.path).number == 1
    assert add(AddOptions(
        store=plain.path, corpus=(write_corpus(corpus, {"d3": plain.documents["d3"]}),), on_existing="fail"
    )).unchanged == 1  # fmt: skip


def test_a_duplicate_comes_to_life_when_what_it_repeats_is_deleted(plain: Bench) -> None:
    said = ("Same", "the longest river. born in Africa to a lake.")
    plain.add({"first": said, "middle": ("m", "a city."), "second": said, "third": said})
    plain.add({"fourth": said})  # all of it repeats what is there
    require_holds(plain)
    assert {p.document_id for p in live_passages(Store.open(plain.path)) if p.title == "Same"} == {"first"}
    for gone, heir in (("first", "second"), ("second", "third"), ("third", "fourth")):
        delete(plain.path, [gone])
        del plain.documents[gone]
        require_holds(plain)
        assert {p.document_id for p in live_passages(Store.open(plain.path)) if p.title == "Same"} == {heir}
        assert plain.add({i: said for i in plain.documents if i in ("second", "third", "fourth")}).generation > 1
    compact(plain.path)
    require_same_as_built(plain, "at-once")


def test_a_duplicate_that_the_builder_left_out_comes_to_life_too(tmp_path: Path) -> None:
    said = ("Nile", "the longest river.")
    bench = Bench(tmp_path, {"a": said, "b": ("b", "a city."), "c": said, "d": ("d", "a lake.")})
    delete(bench.path, ["a"])
    del bench.documents["a"]
    require_holds(bench)
    compact(bench.path)
    require_same_as_built(bench, "at-once")
    assert [p.document_id for p in live_passages(Store.open(bench.path))] == ["b", "c", "d"]


def test_many_small_additions_leave_few_segments(plain: Bench) -> None:
    added = texts(30, seed=5, prefix="s")
    sizes = [plain.add({i: said}).segments for i, said in added.items()]
    assert max(sizes) < 7 + 8 + 8
    require_holds(plain)
    assert list(check_generation(plain.path)) == []


def test_nine_of_ten_deleted(bench: Bench) -> None:
    gone = [i for n, i in enumerate(bench.documents) if n % 10]
    delete(bench.path, gone)
    bench.documents = {i: said for i, said in bench.documents.items() if i not in gone}
    require_holds(bench)
    delete(bench.path, list(bench.documents))
    bench.documents = {}
    require_holds(bench)
    reader = Store.open(bench.path)
    compacted = compact(bench.path)
    assert (compacted.passages, compacted.in_use, reader.live) == (0, (3,), 0)
    reader.close()
    require_holds(bench)
    assert compact(bench.path).already_compact  # and forgets what the reader had
    assert verify(bench.path, sample=4, absent=gone).sound
    assert [g["generation"] for g in generations(bench.path)] == [4]
    assert Answerer.open(bench.path).ask("who was born").passages == ()
    bench.add(texts(3, seed=9))
    require_holds(bench)
    compact(bench.path)
    require_same_as_built(bench, "at-once")


def test_going_back_and_on_from_there(plain: Bench) -> None:
    first = plain.documents
    plain.add({"x": ("x", "a lake.")})
    second = plain.documents
    delete(plain.path, ["d0"])
    assert rollback(plain.path).number == 2
    require_holds(plain)
    assert rollback(plain.path, to=1).number == 1
    plain.documents = first
    require_holds(plain)
    with pytest.raises(ConfigError, match="is the first"):
        rollback(plain.path)
    with pytest.raises(StoreNotFound, match="has no generation 9"):
        rollback(plain.path, to=9)
    assert plain.add({"y": ("y", "a city.")}).generation == 4
    require_holds(plain)
    assert rollback(plain.path, to=2).number == 2
    plain.documents = second
    require_holds(plain)
    assert [(g["generation"], g["in_force"]) for g in generations(plain.path)] == [
        (1, False), (2, True), (3, False), (4, False),
    ]  # fmt: skip
    forgotten = forget(plain.path, keep=2)
    assert (forgotten.removed, forgotten.kept) == ((1, 3), (2, 4))
    require_holds(plain)
    assert [list(check_generation(plain.path, n)) for n in (2, 4)] == [[], []]


def test_a_reader_keeps_its_generation(plain: Bench) -> None:
    plain.add({"x": ("x", "a lake.")})
    reader = Store.open(plain.path, generation=1)
    expected = live_passages(reader)
    compacted = compact(plain.path)
    assert compacted.in_use == (1,)
    assert live_passages(reader) == expected
    reader.load([p.id for p in expected])
    require_holds(plain)
    reader.close()
    assert forget(plain.path).removed == (1,)
    assert [g["generation"] for g in generations(plain.path)] == [3]


def test_one_writer_at_a_time(plain: Bench) -> None:
    from memstore.store.holding import only_writer

    with only_writer(plain.path):
        for change in (lambda: delete(plain.path, ["d1"]), lambda: rollback(plain.path), lambda: forget(plain.path)):
            with pytest.raises(ConfigError, match="another process is changing"):
                change()
    delete(plain.path, ["d1"])


def test_a_passage_id_of_another_document_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, texts(3))
    rows = [{"id": "d0:0", "document_id": "z", "title": "z", "text": "a lake"}]
    corpus = tmp_path / "ready.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="'d0:0' of document 'z' has the id of a passage of document 'd0'"):
        add(AddOptions(store=bench.path, corpus=(corpus,)))
    require_holds(bench)


def test_a_store_made_before_there_were_lookups_can_be_changed(plain: Bench) -> None:
    for path in (plain.path / "lookups").iterdir():
        path.unlink()
    (plain.path / "lookups").rmdir()
    plain.add({"d3": ("Paris", "the river.")})
    delete(plain.path, ["d1"])
    del plain.documents["d1"]
    require_holds(plain)
    assert len(list((plain.path / "lookups").iterdir())) >= 5


def test_deleted_ids_of_a_generation_stay_deleted_and_may_come_back(plain: Bench) -> None:
    generation = read_generation(plain.path)
    gone = [p.id for p in Store.open(plain.path).iter_passages() if p.document_id == "d2"]
    from memstore.store.format import generation_path
    from memstore.store.publish import set_current

    marked = dataclasses.replace(generation, deleted=tuple(gone))
    generation_path(plain.path, 1).write_bytes(marked.to_bytes())
    set_current(plain.path, 1)
    said = plain.documents.pop("d2")
    assert plain.add({"x": ("x", "a lake."), "d2": said}).added == 2
    plain.documents = plain.documents | {"d2": said}
    require_holds(plain)


def words_on_disk(store: Path) -> str:
    """All texts and terms of all files, Tantivy's too, in lower case."""
    import tantivy

    said = ["".join(p.read_text(encoding="utf-8", errors="replace") for p in store.rglob("*.jsonl"))]
    for folder in store.glob("index/*/lexical"):
        said += [path.read_bytes().decode("latin-1") for path in folder.iterdir()]
        with scratch_folder("test-") as links:
            for path in folder.iterdir():
                (links / path.name).symlink_to(path)
            searcher = tantivy.Index.open(str(links)).searcher()
            found = searcher.search(tantivy.Query.all_query(), limit=10_000).hits
            said += [str(searcher.doc(address).to_dict()) for _, address in found]
    return " ".join(said).lower()


def test_nothing_is_left_of_what_was_deleted_once_it_is_compacted(bench: Bench) -> None:
    secret = {"secret": ("Zyx", "wvut river. Zyxwvutsrq city.")}
    bench.add({"a": ("a", "one lake."), **secret, "b": ("b", "one mountain.")})
    assert verify(bench.path, sample=0, absent=["nobody"]).absent == ("nobody",)
    delete(bench.path, ["secret"])
    del bench.documents["secret"]
    found = verify(bench.path, sample=4, absent=["secret"])
    assert found.absent == ()
    assert {problem.kind for problem in found.problems} == {"StillPresent"}
    assert found.generations == (1, 2, 3)
    assert found.dead_passages > 0
    assert found.dead_bytes > 0
    reader = Store.open(bench.path, generation=2)
    compact(bench.path)
    assert verify(bench.path, sample=0, absent=["secret"]).absent == ()  # a reader has it still
    reader.close()
    forget(bench.path)
    found = verify(bench.path, sample=4, absent=["secret", "secret:0"])
    assert found.sound
    assert found.absent == ("secret", "secret:0")
    if bench.retriever != "dense":
        assert "zyxw" not in words_on_disk(bench.path)
        assert "mountain" in words_on_disk(bench.path)


@pytest.mark.parametrize("damaged", ["deletions", "lookups", "generations", "index", "segments"])
def test_damage_to_what_only_an_earlier_generation_needs_is_reported(plain: Bench, damaged: str) -> None:
    plain.add(texts(4, seed=3, prefix="n"))
    delete(plain.path, ["d1", "n1"])
    plain.add({"d2": ("x", "a lake.")})
    rollback(plain.path, to=1)
    assert verify(plain.path, sample=0).sound
    own = {p.stat().st_ino: p for p in (plain.path / damaged).rglob("*") if p.is_file() and p.stat().st_size}
    for path in sorted(own.values())[:: 3 if damaged in ("index", "segments") else 1]:
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert not verify(plain.path, sample=0).sound, path
        path.write_bytes(good)


def test_a_change_of_a_damaged_store_is_refused_and_changes_nothing(plain: Bench) -> None:
    plain.add({"x": ("x", "a lake."), "y": ("y", "a city.")})
    delete(plain.path, ["d1"])
    for path in (*(plain.path / "deletions").iterdir(), *plain.path.glob("segments/g*/passages.offsets.npy")):
        good = path.read_bytes()
        path.write_bytes(good[:-1])
        with pytest.raises(StoreCorrupt):
            delete(plain.path, ["x"])
        path.write_bytes(good)
        assert read_generation(plain.path).number == 3


def test_damaged_lookups_are_reported_and_can_be_removed(plain: Bench) -> None:
    path = sorted((plain.path / "lookups").iterdir())[0]
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(ChecksumMismatch, match="remove it, and it is made again"):
        delete(plain.path, ["d1"])
    path.unlink()
    delete(plain.path, ["d1"])
    assert path.read_bytes() == good
