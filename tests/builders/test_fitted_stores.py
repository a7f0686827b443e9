"""Stores of each codec that learns: built, answered from, changed, checked, and resumed to the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memstore.answer import Answerer, Question
from memstore.codec import CODEC_NAMES, get_codec
from memstore.codec.weights import normed_error
from memstore.errors import ChecksumMismatch
from memstore.store import Store
from memstore.store.describe import inspect
from memstore_builders import build as build_module
from memstore_builders.add import AddOptions, add
from memstore_builders.build import build
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_builders.job import BuildOptions
from memstore_builders.plan import plan
from memstore_builders.verify import verify
from tests import tiny
from tests.builders.test_build_fit import content, kill

LEARN = [name for name in CODEC_NAMES if get_codec(name).sample_tokens]
PASSAGES = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(90))]  # fmt: skip


def corpus(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> BuildOptions:
    """Options of a store of bf16, which is built."""
    folder = tmp_path_factory.mktemp("exact")
    model = tiny.save_checkpoint(folder / "model")
    options = BuildOptions(corpus=(corpus(folder / "corpus.jsonl", PASSAGES),), out=folder / "bf16", model=str(model),
                           codec="bf16", dtype="float32", segment_passages=64)  # fmt: skip
    build(options)
    return options


@pytest.fixture(scope="module", params=LEARN)
def built(exact: BuildOptions, request: pytest.FixtureRequest) -> BuildOptions:
    """Options of a store of each codec, which is built."""
    options = replace(exact, out=exact.out.with_name(request.param), codec=request.param)
    build(options)
    return options


def test_a_store_is_near_one_of_bfloat16_and_is_sound(exact: BuildOptions, built: BuildOptions) -> None:
    store, wanted = Store.open(built.out), Store.open(exact.out)
    ids = store.ids(range(len(store)))
    weights = tiny.model().first_live_weights
    error = normed_error(
        wanted.load(ids, dtype=torch.float32).states, store.load(ids, dtype=torch.float32).states, weights
    )
    assert error < {"int8-fitted": 0.02, "pq": 0.75, "pq16": 0.9}[built.codec]  # a random model's are hard to foresee
    assert verify(built.out, sample=90).sound
    values = inspect(built.out)
    assert values["codec"] == built.codec
    assert values["codec_bytes"] > 0
    assert plan(built).passages == 90


def test_a_store_answers_alike_from_memories_and_from_passages_brought(built: BuildOptions) -> None:
    answerer = Answerer.open(built.out)
    stored = answerer.store.load(answerer.store.ids(range(30)), dtype=torch.float32)
    brought = answerer._encode(answerer.store.passages(answerer.store.ids(range(30))))
    # States that differ in their last bits may have other codes, of nearly the same error.
    same = ((stored.states - brought.states).abs() < 1e-3 * stored.states.abs().amax()).all(1)
    assert float(same.float().mean()) > 0.95
    [answer] = answerer.answer([Question(text=PASSAGES[0]["text"])])
    assert len(answer.passages) > 0


def test_a_changed_store_keeps_its_tables(built: BuildOptions, tmp_path: Path) -> None:
    """What is added is encoded with the tables of the store, and copied as it is by `compact`."""
    shutil.copytree(built.out, tmp_path / "store")
    [tables] = Store.open(built.out).generation.tables
    more = [row | {"id": f"new-{row['id']}", "document_id": f"new-{row['document_id']}", "text": f"the lake {i}"}
            for i, row in enumerate(PASSAGES[:5])]  # fmt: skip
    options = AddOptions(store=tmp_path / "store", corpus=(corpus(tmp_path / "more.jsonl", more),))
    add(options)
    delete(options.store, [PASSAGES[0]["document_id"]])
    changed = Store.open(options.store)
    assert changed.generation.tables == (tables,)
    before = changed.load([more[3]["id"]], dtype=torch.float32).states
    compact(options.store)
    compacted = Store.open(options.store)
    assert compacted.generation.tables == (tables,)
    assert torch.equal(compacted.load([more[3]["id"]], dtype=torch.float32).states, before)
    assert verify(options.store, sample=90).sound


def test_a_killed_build_resumes_to_the_same_bytes(built: BuildOptions, tmp_path: Path) -> None:
    killed = replace(built, out=tmp_path / "killed")
    kill(killed, build_module, "make_segments")
    build(killed)
    assert content(killed.out) == content(built.out)


def test_damaged_tables_are_reported(built: BuildOptions, tmp_path: Path) -> None:
    shutil.copytree(built.out, tmp_path / "store")
    [path] = (tmp_path / "store" / "codecs").iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-5] + bytes([data[-5] ^ 8]) + data[-4:])
    with pytest.raises(ChecksumMismatch, match=rf"{path.name} is damaged: the tables"):
        Store.open(tmp_path / "store").load([PASSAGES[0]["id"]])
    [fault] = verify(tmp_path / "store").problems
    assert (fault.kind, fault.where) == ("ChecksumMismatch", f"codecs/{path.name}")
