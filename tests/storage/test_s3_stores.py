"""A store in object storage is built, read, verified and changed as one in a folder, and says the same."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import object_server
from benchmarks.faulty_proxy import Proxy
from memstore.answer import Answerer, Question
from memstore.cli import main
from memstore.errors import ConfigError, PassageNotFound, StoreBusy, StoreNotFound
from memstore.storage import as_url
from memstore.storage.bucket import Bucket
from memstore.store import Store, read_generation
from memstore.store.describe import inspect
from memstore.store.history import generations
from memstore.store.mirror import Mirror, mirror_of
from memstore.store.uploading import push
from memstore.store.working import forget, rollback
from memstore_builders.add import AddOptions, add
from memstore_builders.build import build
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_builders.job import BuildOptions
from memstore_builders.verify import verify
from tests import tiny

QUESTION = "who was born in the capital of France?"


def write_corpus(path: Path, first: int, last: int) -> Path:
    """Passages of those numbers; a corpus that has one with another text replaces it."""
    rows = [{"id": p.id, "document_id": p.id, "title": p.title, "text": f"{p.text} {path.stem}"}
            for p in tiny.passages(last)[first:]]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("made")
    model = tiny.save_checkpoint(folder / "model", embedding_dim=8)
    corpus = write_corpus(folder / "corpus.jsonl", 0, 40)
    return {"corpus": (corpus,), "model": str(model), "dtype": "float32", "retriever": "hybrid", "segment_passages": 24}


@pytest.fixture(scope="module")
def local(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build(BuildOptions(out=tmp_path_factory.mktemp("local") / "store", **options)).out)


@pytest.fixture(scope="module")
def remote(options: dict[str, Any], proxy: Proxy) -> Path:
    report = build(BuildOptions(out=Path("s3://wiki/stores/first"), **options))
    assert report.out == "s3://wiki/stores/first"
    assert report.store_bytes > 1000
    return Path(report.out)


def answers_of(store: Path) -> list[tuple[Any, ...]]:
    answerer = Answerer.open(store)
    try:
        asked = answerer.answer([Question(text=QUESTION, retrieve_k=12, keep_k=4)])
        return [(a.text, a.score, [(p.passage, p.rerank_score) for p in a.passages]) for a in asked]
    finally:
        answerer.close()


def require_same(a: Path, b: Path) -> None:
    """Both hold the same passages and memories, alive and in order."""
    one, two = Store.open(a), Store.open(b)
    assert list(one.iter_passages()) == list(two.iter_passages())
    assert one.dead_rows().tolist() == two.dead_rows().tolist()
    dead = set(one.dead_rows().tolist())
    ids = [i for row, i in enumerate(one.ids(range(len(one)))) if row not in dead]
    first, second = one.load(ids, dtype=torch.float32), two.load(ids, dtype=torch.float32)
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.token_ids, second.token_ids)
    one.close()
    two.close()


def test_it_holds_and_answers_what_the_same_build_in_a_folder_does(local: Path, remote: Path) -> None:
    assert read_generation(remote).to_bytes() == read_generation(local).to_bytes()
    require_same(local, remote)
    assert answers_of(remote) == answers_of(local)


def test_it_is_opened_by_both_spellings_and_is_not_where_there_is_none(remote: Path) -> None:
    assert as_url(remote) == "s3://wiki/stores/first"
    store = Store.open("s3://wiki/stores/first/")
    assert store.contains(store.ids([3])[0])
    with pytest.raises(PassageNotFound):
        store.find(["nobody"])
    store.close()
    with pytest.raises(StoreNotFound, match="no store at s3://wiki/stores/none"):
        Store.open("s3://wiki/stores/none")


def test_a_question_reads_its_passages_by_ranges(remote: Path, proxy: Proxy, empty_cache: Path) -> None:
    store = Store.open(remote)
    before, came = len(proxy.requests), proxy.bytes
    store.load(store.at(range(12)))
    asked = [path.split("?")[0] for _, path in proxy.requests[before:]]
    assert len(set(asked)) == len(asked) == 1 + 3  # neighbours by one request: texts; states, scales and token ids
    assert proxy.bytes - came < 30_000
    before = len(proxy.requests)
    store.load(store.at(range(12)))  # from the cache
    assert len(proxy.requests) == before
    store.close()


def test_texts_and_memories_of_a_question_take_one_round_trip(
    remote: Path, proxy: Proxy, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its requests is answered before the last one has come."""
    monkeypatch.setattr("memstore.storage.bucket.together", lambda pieces: [[piece] for piece in pieces])  # many
    answerer = Answerer.open(remote)
    before = len(proxy.requests)
    proxy.until = before + 12 * (1 + 3)
    try:
        [answer] = answerer.answer([Question(text=QUESTION, retrieve_k=12, keep_k=4)])
    finally:
        proxy.until = 0
        answerer.close()
    assert len(answer.passages) == 12
    assert len(proxy.requests) == before + 12 * (1 + 3)


def test_building_again_finds_it_built(options: dict[str, Any], remote: Path) -> None:
    report = build(BuildOptions(out=remote, **options))
    assert report.already_built
    with pytest.raises(ConfigError, match="s3://wiki/stores/first holds a finished store built otherwise"):
        build(BuildOptions(out=remote, **options | {"max_words": 7}))


def test_it_is_inspected_and_verified(remote: Path, local: Path) -> None:
    theirs, mine = inspect(local), inspect(remote)
    assert mine.pop("store") == "s3://wiki/stores/first"
    assert theirs.pop("store") == str(local)
    assert mine == theirs
    assert verify(remote, sample=8).problems == ()


def copied(store: Path, name: str) -> Path:
    """The same objects under another prefix: nothing in a store says where it is."""
    import obstore
    from obstore.store import S3Store

    bucket = S3Store(object_server.BUCKET, client_options={"allow_http": True})
    prefix = str(as_url(store)).removeprefix(f"s3://{object_server.BUCKET}/")
    for part in obstore.list(bucket, prefix=prefix):
        for found in part:
            obstore.copy(bucket, found["path"], found["path"].replace(prefix, name, 1))
    return Path(f"s3://{object_server.BUCKET}/{name}")


def test_changes_do_what_they_do_in_a_folder(remote: Path, local: Path, tmp_path: Path) -> None:
    theirs, mine = copied(remote, "changed"), Path(shutil.copytree(local, tmp_path / "twin"))
    more = write_corpus(tmp_path / "more.jsonl", 35, 44)
    reports = [add(AddOptions(store=out, corpus=(more,))) for out in (theirs, mine)]
    assert (reports[0].added, reports[0].replaced) == (reports[1].added, reports[1].replaced)
    assert reports[0].store == "s3://wiki/changed"
    for out in (theirs, mine):
        assert delete(out, ["d3", tiny.passages(8)[7].id]).deleted == 1
    require_same(mine, theirs)
    assert [g["generation"] for g in generations(theirs)] == [1, 2, 3]
    rollback(theirs, to=2)
    assert read_generation(theirs).number == 2
    rollback(theirs, to=3)
    for out in (theirs, mine):
        compact(out)
    assert [g["generation"] for g in generations(theirs)] == [4]
    require_same(mine, theirs)
    assert verify(theirs, sample=0).problems == ()


def test_nothing_is_left_of_a_document_once_it_is_forgotten(remote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, gone = copied(remote, "absent"), tiny.passages(4)[3].id

    def present() -> set[str]:
        found = verify(store, sample=0, absent=[gone])
        assert found.absent == (() if found.problems else (gone,))
        assert {problem.kind for problem in found.problems} <= {"StillPresent"}
        return {problem.where for problem in found.problems}

    assert delete(store, [gone]).deleted == 1
    assert [where for where in present() if where.endswith("passages.jsonl")]
    compact(store)
    mirror = mirror_of(store)
    assert mirror is not None
    left = present()
    assert {key.split("/")[0] for key in left} >= {"generations", "index", "segments"}  # no generation names them
    assert left <= {listed.key for listed in mirror.bucket.list()}
    assert forget(store).bytes_freed == 0  # they may be of a writer at work
    assert present() == left
    assert command(capsys, "forget", "--store", str(as_url(store)), "--unnamed-hours", "0")["bytes_freed"] > 0
    assert present() == set()
    assert verify(store, sample=4).problems == ()


def test_of_two_writers_one_wins_and_the_other_loses_nothing(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a reader takes up what is in force, and keeps what it reads."""
    store = copied(remote, "contended")
    reader = Answerer.open(store)
    assert reader.reopened(try_with=QUESTION) is None

    def after_theirs(*args: Any, **named: Any) -> None:
        """The other one, on another machine, is done when this one is about to upload."""
        monkeypatch.setattr("memstore.store.working.push", push)
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("MEMSTORE_CACHE_DIR", str(tmp_path / "other machine"))
            assert delete(store, [tiny.passages(2)[1].id]).generation == 2
        push(*args, **named)

    monkeypatch.setattr("memstore.store.working.push", after_theirs)
    mine = [tiny.passages(3)[2].id]
    with pytest.raises(StoreBusy, match="another writer changed s3://wiki/contended meanwhile"):
        delete(store, mine)
    assert read_generation(store).live == 39
    assert delete(store, mine).generation == 3
    assert read_generation(store).live == 38
    assert verify(store, sample=0).problems == ()
    second = reader.reopened(try_with=QUESTION)
    assert second is not None
    assert (reader.store.generation.number, second.store.generation.number) == (1, 3)
    assert reader.store.load(reader.store.at([1])).lengths.tolist() == [reader.store.segment(0).lengths[1]]
    assert forget(store).in_use == (1,)  # a reader of this machine holds it
    mirror = mirror_of(store)
    assert mirror is not None
    assert (mirror.folder / "index/000001").exists()
    reader.close()
    Store.open(store).close()
    assert sorted(path.name for path in (mirror.folder / "index").iterdir()) == ["000003"]
    assert forget(store).removed == (1,)
    second.close()


@pytest.mark.parametrize("puts", [0, 1, 2])
def test_an_upload_that_was_cut_off_goes_on(
    local: Path, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    """Killed before a group of files goes up; at last the manifest, before CURRENT."""
    store = Path(f"s3://wiki/cut/{puts}")
    mirror = Mirror(Path(shutil.copytree(local, tmp_path / "work")), str(as_url(store)))
    put, done = Bucket.put, []

    def dying(self: Bucket, *args: Any, **named: Any) -> None:
        if len(done) == puts:
            raise KeyboardInterrupt
        done.append(1)
        put(self, *args, **named)

    with monkeypatch.context() as killed:
        killed.setattr(Bucket, "put", dying)
        with pytest.raises(KeyboardInterrupt):
            push(mirror, tag=None)
    with pytest.raises(StoreNotFound):
        Store.open(store)
    before = len(proxy.requests)
    push(mirror, tag=None)
    assert puts == 0 or sum(method == "PUT" for method, _ in proxy.requests[before:]) < 10
    require_same(local, store)


def test_a_build_that_was_killed_before_it_is_in_force_goes_on(
    options: dict[str, Any], local: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path("s3://wiki/killed")

    def never(*args: Any, **named: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Bucket, "put_if", never)
        with pytest.raises(KeyboardInterrupt):
            build(BuildOptions(out=store, **options))
    with pytest.raises(StoreNotFound):
        Store.open(store)
    report = build(BuildOptions(out=store, **options))
    assert report.already_built  # here; what was left is to say so there
    assert read_generation(store).to_bytes() == read_generation(local).to_bytes()


def test_segments_are_uploaded_while_it_is_built_and_none_twice(
    options: dict[str, Any], proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the index is made; then one segment is lost where they are."""
    store, given = Path("s3://wiki/uploaded-early"), options | {"segment_passages": 8}
    twin = Path(build(BuildOptions(out=tmp_path / "twin", **given)).out)
    memories: list[str] = []

    def killed(opened: Store, **_: Any) -> Any:
        memories.extend(
            ref.id
            for ref in opened.generation.segments
            if any(path.is_file() for path in opened.path.glob(f"segments/{ref.id}/memory.zarr/states/c/**/*"))
        )
        raise KeyboardInterrupt

    def puts() -> list[str]:
        found, proxy.requests[:] = [path for method, path in proxy.requests if method == "PUT"], []
        return [path for path in found if "/uploaded-early/segments/" in path]

    with monkeypatch.context() as early:
        early.setattr("memstore_builders.build.build_index", killed)
        with pytest.raises(KeyboardInterrupt):
            build(BuildOptions(out=store, **given))
    first = puts()
    assert all(name.endswith("-00004") for name in memories)  # others have left this disk, and the last one may have
    assert len({path.split("/segments/")[1].split("/")[0] for path in first if "SEALED" in path}) == 5
    bucket = Mirror(tmp_path / "mirror", str(as_url(store))).bucket
    lost = [found.key for found in bucket.list() if "-00002-" in found.key]
    bucket.delete(lost)
    report = build(BuildOptions(out=store, **given))
    assert (report.segments, report.resumed_segments) == (5, 4)
    again = puts()
    assert len(again) == len(lost)
    assert all("-00002-" in path for path in again)
    assert read_generation(store).to_bytes() == read_generation(twin).to_bytes()
    require_same(twin, store)


def ended(*words: str) -> object:
    """The exit code of a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["memstore", *words])
        with pytest.raises(SystemExit) as end:
            main()
    return end.value.code


def command(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command prints, which must end well."""
    capsys.readouterr()
    assert not ended(*words, "--json")
    return dict(json.loads(capsys.readouterr().out))


def test_commands_take_its_url(remote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "s3://wiki/stores/first"
    assert command(capsys, "inspect", url)["store"] == url
    assert command(capsys, "ask", QUESTION, "--store", url)["store"]["path"] == url
    assert command(capsys, "generations", "--store", url)["store"] == url
    assert ended("inspect", "s3://wiki/none") == 2
    assert "there is no store at s3://wiki/none" in capsys.readouterr().err


def test_commands_change_it(remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(as_url(copied(remote, "commanded")))
    more = write_corpus(tmp_path / "more.jsonl", 38, 42)

    def run(name: str, *words: str) -> dict[str, Any]:
        return command(capsys, name, "--store", url, *words)

    added = run("add", "--corpus", str(more))
    assert (added["store"], added["generation"], added["added"], added["replaced"]) == (url, 2, 2, 2)
    assert run("delete", "--id", tiny.passages(1)[0].id)["passages"] == 41
    assert run("rollback") == {"store": url, "generation": 2, "passages": 42}
    assert run("rollback", "--to", "3")["passages"] == 41
    assert run("forget", "--keep", "2")["removed"] == [1]
    assert run("compact")["generation"] == 4
    assert [one["generation"] for one in run("generations")["generations"]] == [4]
    assert not ended("verify", url, "--sample", "0")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"need the package obstore: pip install 'memstore\[s3\]'"):
        Store.open("s3://wiki/stores/first")
