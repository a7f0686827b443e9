"""`memstore recompress`: the same passages, searches and deletions in another codec; what is refused; killed runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from memstore.cli import app
from memstore.codec.weights import normed_error
from memstore.errors import ConfigError
from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore.store.copying import encode_again
from memstore_builders import recompress as module
from memstore_builders.add import AddOptions, add
from memstore_builders.build import build
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_builders.job import BuildOptions
from memstore_builders.recompress import recompress
from memstore_builders.verify import verify
from tests import tiny

PASSAGES = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i // 2}",
             "metadata": {"year": 1900 + i}} for i, p in enumerate(tiny.passages(60))]  # fmt: skip
TWICE = [row | {"id": f"{row['id']}-twin", "document_id": f"{row['document_id']}-twin"} for row in PASSAGES[:3]]
GONE = [PASSAGES[5]["document_id"], PASSAGES[40]["document_id"]]


def corpus(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of several segments with duplicates and, after a change, dead rows, by their codec."""
    folder = tmp_path_factory.mktemp("recompress")
    model, rows = tiny.save_checkpoint(folder / "model"), corpus(folder / "corpus.jsonl", PASSAGES + TWICE)
    made = {}
    for codec in ("bf16", "int8", "pq"):
        build(BuildOptions(corpus=(rows,), out=folder / codec, model=str(model), codec=codec, dtype="float32",
                           segment_passages=25))  # fmt: skip
        made[codec] = folder / codec
    delete(made["bf16"], GONE)
    return made


@pytest.fixture(scope="module")
def made(source: dict[str, Path]) -> dict[str, Path]:
    """Stores made from that of bfloat16, by their codec."""
    outs = {codec: source["bf16"].with_name(f"made-{codec}") for codec in ("int8", "int8-fitted", "pq")}
    for codec, out in outs.items():
        recompress(source["bf16"], out, codec=codec)
    return outs


def everything(store: Store) -> torch.Tensor:
    live = sorted({*range(len(store))} - {*store.dead_rows().tolist()})
    return store.load(store.at(live), dtype=torch.float32).states


@pytest.mark.parametrize("codec", ["int8", "int8-fitted", "pq"])
def test_passages_memories_and_changes_are_the_same(source: dict[str, Path], made: dict[str, Path], codec: str) -> None:
    old, new = Store.open(source["bf16"]), Store.open(made[codec])
    assert list(new.iter_passages()) == list(old.iter_passages())
    assert new.dead_rows().tolist() == old.dead_rows().tolist() != []
    assert new.generation.codec == codec
    assert new.generation.metadata == old.generation.metadata != {}
    live = sorted({*range(len(old))} - {*old.dead_rows().tolist()})
    before, after = (s.load(s.at(live), dtype=torch.float32) for s in (old, new))
    assert torch.equal(after.token_ids, before.token_ids)
    made_again = new.codec.decode(
        new.codec.encode(before.states, before.token_ids), before.token_ids, dtype=torch.float32, device="cpu"
    )
    same = ((made_again - after.states).abs() <= 1e-4 * after.states.abs().amax()).all(1)
    assert float(same.float().mean()) > 0.98  # in other batches a code of nearly the same error may be chosen
    assert 0 < normed_error(before.states, after.states) < {"int8": 0.05, "int8-fitted": 0.05, "pq": 0.8}[codec]
    assert verify(made[codec], sample=60).sound


def test_searches_are_the_same(source: dict[str, Path], made: dict[str, Path]) -> None:
    texts = [str(row["text"]) for row in PASSAGES[::7]]
    old = open_retriever(Store.open(source["bf16"])).search(texts, 10)
    for out in made.values():
        new = open_retriever(Store.open(out)).search(texts, 10)
        assert [[(h.passage_id, h.score) for h in hits] for hits in new] == [
            [(h.passage_id, h.score) for h in hits] for hits in old
        ]


def test_a_store_from_int8_is_sound(source: dict[str, Path], tmp_path: Path) -> None:
    recompress(source["int8"], tmp_path / "out", codec="int8-fitted")
    assert verify(tmp_path / "out", sample=60).sound


def test_a_store_is_changed_and_compacted_afterwards(made: dict[str, Path], tmp_path: Path) -> None:
    """A duplicate comes to life when what it is a copy of goes, and what is dead goes for good."""
    out = tmp_path / "store"
    shutil.copytree(made["pq"], out)
    new = corpus(tmp_path / "new.jsonl", [PASSAGES[0] | {"id": "new", "document_id": "new", "text": "a lake"}])
    add(AddOptions(store=out, corpus=(new,)))
    delete(out, [str(PASSAGES[0]["document_id"])])
    assert Store.open(out).contains(str(TWICE[0]["id"]))
    compact(out)
    assert not len(Store.open(out).dead_rows())
    assert verify(out, sample=60, absent=[str(GONE[0])]).sound


def test_a_killed_run_goes_on_to_the_same_bytes(
    source: dict[str, Path], made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "out", []

    def dying(*args: object, **kwargs: object) -> object:
        if done:
            raise KeyboardInterrupt
        done.append(encode_again(*args, **kwargs))  # type: ignore[arg-type]
        return done[0]

    monkeypatch.setattr(module, "encode_again", dying)
    with pytest.raises(KeyboardInterrupt):
        recompress(source["bf16"], out, codec="pq")
    assert not (out / "CURRENT").exists()
    with pytest.raises(ConfigError, match="unfinished build with other settings"):
        recompress(source["bf16"], out, codec="int8")
    monkeypatch.undo()
    assert recompress(source["bf16"], out, codec="pq").resumed_segments == 1
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        p.relative_to(made["pq"]): p.read_bytes() for p in made["pq"].rglob("*") if p.is_file()
    }
    assert recompress(source["bf16"], out, codec="pq").already_done
    with pytest.raises(ConfigError, match="another finished store"):
        recompress(source["bf16"], out, codec="int8")


def test_what_cannot_be_done_is_refused(source: dict[str, Path], tmp_path: Path) -> None:
    def refused(match: str, store: Path, out: Path, codec: str) -> None:
        with pytest.raises(ConfigError, match=match):
            recompress(store, out, codec=codec)
        assert not (tmp_path / "out").exists()

    refused("lost too much to be encoded again: begin with a store of bf16 or int8", source["pq"], tmp_path / "out",
            "int8")  # fmt: skip
    refused("as int8 already", source["int8"], tmp_path / "out", "int8")
    refused("unknown codec", source["int8"], tmp_path / "out", "int4")
    refused("lie in each other", source["int8"], source["int8"] / "inner", "pq")


def test_the_command(source: dict[str, Path], tmp_path: Path) -> None:
    command = ["recompress", "--store", str(source["int8"]), "--out", str(tmp_path / "out"), "--codec"]
    run = CliRunner().invoke(app, [*command, "pq", "--json"])
    found = json.loads(run.stdout)
    assert (found["codec_before"], found["codec"], found["passages"]) == ("int8", "pq", 60)
    assert found["bytes_per_token"] < found["bytes_per_token_before"]
    again = CliRunner().invoke(app, [*command, "pq"])
    assert "60 passages as pq, was there already" in again.stdout
