"""Building a store: what is in it, what a kill leaves, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore import checkpoint
from memstore.errors import (
    CheckpointNotFound,
    ConfigError,
    CorpusError,
    CorpusFormatError,
    CorpusNotFound,
    DiskSpaceError,
    FingerprintMismatch,
)
from memstore.model.packed import Tokens
from memstore.retrieve.open import open_retriever
from memstore.store import Store, get_codec
from memstore_builders import build as build_module
from memstore_builders import reading as reading_module
from memstore_builders import segments as segments_module
from memstore_builders.build import build
from memstore_builders.encode import PassageEncoder, length_batches
from memstore_builders.job import BuildOptions
from memstore_builders.plan import plan
from memstore_builders.segments import plan_segments, shard_passages
from memstore_builders.state import lock
from memstore_builders.verify import verify
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("model"), embedding_dim=8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(150))]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def options(corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildOptions:
    """Small segments of two shards, so that a tiny corpus has several of both."""
    monkeypatch.setattr(segments_module, "SHARD_PASSAGES", (16, 16))
    return BuildOptions(
        corpus=(corpus,), out=tmp_path / "store", model=str(model), dtype="float32", segment_passages=32
    )


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store but the search index, whose bytes Tantivy names at random.

    Builds are compared to the byte, which they promise: each computes the same batches, of the same shapes.
    """
    files = (p for p in sorted(store.rglob("*")) if p.is_file())
    return {str(p.relative_to(store)): p.read_bytes() for p in files
            if p.relative_to(store).parts[0] in ("segments",)}  # fmt: skip


def searches(store: Path) -> list[list[tuple[str, float]]]:
    opened = Store.open(store)
    retriever = open_retriever(opened)
    questions = [f"{a} {b}" for a in tiny.WORDS[3:18] for b in ("river", "Paris", "17")]
    return [[(h.passage_id, h.score) for h in hits] for hits in retriever.search(questions, 10)]


def test_a_store_holds_what_the_encoder_makes_of_each_passage(options: BuildOptions) -> None:
    report = build(replace(options, codec="bf16"))
    store = Store.open(options.out)
    assert report.passages == len(store) == 150
    assert report.segments == 5
    ids = store.ids(range(150))
    memories = store.load(ids, dtype=torch.float32)
    model, tokenizer = checkpoint.load(options.model, dtype=torch.float32)
    expected_ids = tokenizer.passages(store.passages(ids))
    with torch.inference_mode():
        alone = [model.encode_passages(Tokens.of([i])).states for i in expected_ids]
    assert memories.token_ids.tolist() == [t for i in expected_ids for t in i.tolist()]
    assert memories.lengths.tolist() == [len(i) for i in expected_ids]
    expected = torch.cat(alone).to(torch.bfloat16).float()
    torch.testing.assert_close(memories.states, expected, rtol=2**-7, atol=1e-5)  # one bfloat16 step
    assert report.tokens == store.generation.tokens == len(memories.token_ids)
    assert not (options.out / ".build").exists()


def test_building_twice_gives_the_same_bytes_and_a_third_time_nothing_to_do(
    options: BuildOptions, tmp_path: Path
) -> None:
    build(options)
    build(replace(options, out=tmp_path / "again"))
    assert content(options.out) == content(tmp_path / "again")
    assert searches(options.out) == searches(tmp_path / "again")
    assert build(options).already_built


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the builder die at its `step`-th call of anything that writes."""
    from memstore.store import SegmentWriter
    from memstore_builders import spool as spool_module

    calls = 0

    def deadly(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "write_shard", deadly(SegmentWriter.write_shard))
        patch.setattr(SegmentWriter, "seal", deadly(SegmentWriter.seal))
        patch.setattr(SegmentWriter, "discard", lambda self: None)  # a killed process cleans up nothing
        patch.setattr(build_module, "build_index", deadly(build_module.build_index))
        patch.setattr(build_module, "publish", deadly(build_module.publish))
        patch.setattr(reading_module, "write_spool", deadly(reading_module.write_spool))
        patch.setattr(build_module, "estimate", deadly(build_module.estimate))
        patch.setattr(spool_module, "_keep", deadly(spool_module._keep))
        yield


def test_a_build_killed_at_every_step_resumes_to_the_same_store(
    options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(options)
    killed = replace(options, out=tmp_path / "killed")
    kills = 0
    for step in range(1, 40):
        for _ in killed_at(step % 5 + 1, monkeypatch):
            try:
                report = build(killed)
            except Killed:
                kills += 1
                continue
        if (killed.out / "CURRENT").exists():
            break
    assert kills >= 8
    assert report.resumed_segments >= 1
    assert content(killed.out) == content(options.out)
    assert searches(killed.out) == searches(options.out)
    assert verify(killed.out, sample=150).sound


def test_an_unfinished_build_with_segments_is_not_resumed_with_other_settings(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in killed_at(9, monkeypatch):
        with pytest.raises(Killed):
            build(options)
    with pytest.raises(
        ConfigError, match=r"unfinished build with other settings \(settings.codec: was 'int8', is 'bf16'"
    ):
        build(replace(options, codec="bf16"))
    with pytest.raises(ConfigError, match=r"settings\.limit: was None, is 5"):
        build(replace(options, limit=5))
    assert build(options).resumed_segments == 1


@pytest.mark.parametrize("step", [2, 3, 6, 8])  # in the spool, behind it, in the first segment, before its seal
def test_before_a_segment_is_sealed_other_settings_start_again(
    options: BuildOptions, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in killed_at(step, monkeypatch):
        with pytest.raises(Killed):
            build(options)
    assert build(replace(options, limit=5)).passages == 5
    assert {p.name for p in options.out.iterdir()} == {"CURRENT", "generations", "index", "lookups", "segments"}
    assert len(list((options.out / "segments").iterdir())) == 1


def test_a_finished_store_is_not_built_over(options: BuildOptions) -> None:
    build(options)
    with pytest.raises(ConfigError, match="holds a finished store built otherwise"):
        build(replace(options, codec="bf16"))


def test_two_builders_do_not_share_a_folder(options: BuildOptions) -> None:
    with lock(options.out / ".build"), pytest.raises(ConfigError, match="another build is working"):
        build(options)


def test_the_disk_is_checked_before_encoding(options: BuildOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DiskSpaceError, match=r"the store needs about 0\.00 GB, but only 0\.00 GB are free"):
            build(options)
    assert not (options.out / "segments").exists()
    assert build(replace(options, limit=5)).passages == 5  # as the message advises


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codec": "zip"}, ConfigError, "unknown codec 'zip'"),
        ({"retriever": "grep"}, ConfigError, "retriever must be bm25, dense or hybrid, not 'grep'"),
        ({"dtype": "float16"}, ConfigError, "dtype must be bfloat16 or float32"),
        ({"model": "/nowhere/at/all"}, CheckpointNotFound, "/nowhere/at/all"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(
    options: BuildOptions, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(replace(options, **change))
    assert not options.out.exists()


def test_a_bad_row_stops_the_build_by_default_and_is_counted_on_request(
    options: BuildOptions, corpus: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    lines = corpus.read_text().splitlines()
    broken.write_text("\n".join([*lines[:3], "{", *lines[3:]]) + "\n")
    with pytest.raises(CorpusError, match=r"broken\.jsonl:4"):
        build(replace(options, corpus=(broken,)))
    report = build(replace(options, corpus=(broken,), on_error="skip"))
    assert (report.passages, report.rows_skipped) == (150, 1)


@pytest.mark.parametrize("bad", [None, "no corpus\n", "{\n"])
def test_a_corpus_that_was_wrong_is_corrected_in_the_same_folder(
    options: BuildOptions, corpus: Path, tmp_path: Path, bad: str | None
) -> None:
    """Absent, of no known format, with a bad row."""
    mended = tmp_path / "mended.jsonl"
    if bad is not None:
        mended.write_text((corpus.read_text() if bad == "{\n" else "") + bad)
    with pytest.raises((CorpusNotFound, CorpusFormatError, CorpusError)):
        build(replace(options, corpus=(mended,)))
    mended.write_text(corpus.read_text())
    assert build(replace(options, corpus=(mended,), limit=5)).passages == 5


def test_a_corpus_without_passages_is_an_error(options: BuildOptions, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"id": "a", "title": "t", "text": ""}\n')
    with pytest.raises(ConfigError, match=r"holds no passages \(1 documents were read\)"):
        build(replace(options, corpus=(empty,), corpus_format="jsonl"))


@pytest.mark.parametrize("retriever", ["dense", "hybrid"])
def test_dense_vectors_come_from_the_same_forward_pass(options: BuildOptions, retriever: Any) -> None:
    build(replace(options, retriever=retriever))
    from memstore.answer import Answerer, Question

    answerer = Answerer.open(options.out)
    passage = answerer.passage(answerer.store.ids([40])[0])
    vectors = next(iter(answerer.store.iter_embeddings()))
    model, tokenizer = checkpoint.load(options.model, dtype=torch.float32)
    with torch.inference_mode():
        tokens = Tokens.of(tokenizer.passages([passage]))
        expected = model.embed(model.encode_passages(tokens)).numpy()
    all_vectors = [v for chunk in answerer.store.iter_embeddings() for v in chunk]
    assert len(all_vectors) == 150
    assert vectors.shape[1] == 8
    torch.testing.assert_close(
        torch.from_numpy(all_vectors[40])[None], torch.from_numpy(expected), atol=1e-5, rtol=1e-4
    )
    assert len(answerer.answer([Question(text="river", retrieve_k=5, keep_k=2)])[0].passages) == 5


def test_the_plan_is_close_to_what_the_build_writes(options: BuildOptions) -> None:
    planned = plan(options)
    report = build(options)
    assert planned.passages == report.passages
    assert planned.tokens == report.tokens  # the sample is the whole of a collection this small
    written = report.store_bytes - sum(p.stat().st_size for p in (options.out / "index").rglob("*") if p.is_file())
    assert abs(planned.memory_bytes - written) < 0.25 * written  # manifests weigh here: tens of kB
    assert not list(options.out.parent.glob("memstore-plan-*"))


def test_length_batches_hold_every_passage_once_within_the_budget() -> None:
    lengths = [5, 1, 9, 9, 3, 7, 7, 7, 2, 40]
    batches = list(length_batches(lengths, 16))
    assert sorted(i for batch in batches for i in batch) == list(range(10))
    assert all(max(lengths[i] for i in batch) * len(batch) <= 16 for batch in batches if len(batch) > 1)
    assert batches[-1] == [9]  # longer than the budget: alone


def test_segments_are_planned_in_whole_shards() -> None:
    assert plan_segments(100, 16, 32) == [range(32), range(32, 64), range(64, 96), range(96, 100)]
    assert plan_segments(5, 16, None) == [range(5)]
    many = plan_segments(22_000_000, 1000, None)
    assert len(many) <= segments_module.MAX_SEGMENTS
    assert (many[0].start, many[-1].stop) == (0, 22_000_000)
    assert len(many[0]) % 1000 == 0


def test_a_shard_is_bounded_in_bytes() -> None:
    int8 = get_codec("int8")
    assert shard_passages(int8, d_model=768, max_tokens=256) * 256 * (768 + 4) <= segments_module.SHARD_BYTES
    assert shard_passages(int8, d_model=8, max_tokens=16) == segments_module.SHARD_PASSAGES[1]


def test_encoding_keeps_the_order_whatever_the_batches() -> None:
    model, tokenizer = tiny.model(), tiny.text_tokenizer()
    passages = tiny.passages(40)
    large = PassageEncoder(model, tokenizer, batch_tokens=4096).encode(passages)
    small = PassageEncoder(model, tokenizer, batch_tokens=1).encode(passages)
    for a, b, ids in zip(large.states, small.states, large.token_ids, strict=True):
        assert len(a) == len(ids)
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# --- verify -----------------------------------------------------------------------------------------------------


def test_verify_says_a_memory_that_the_model_would_not_make(options: BuildOptions, tmp_path: Path) -> None:
    """A store whose checksums hold but whose memories belong to other texts: only encoding again can show it."""
    build(options)
    honest = PassageEncoder.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PassageEncoder, "encode",
            lambda self, passages: replace(made := honest(self, passages), states=[s.flip(0) for s in made.states]),
        )  # fmt: skip
        build(replace(options, out=tmp_path / "wrong"))
    assert verify(options.out, sample=20).sound
    found = verify(tmp_path / "wrong", sample=20)
    assert not found.sound
    assert {p.kind for p in found.problems} == {"MemoryMismatch"}


def test_verify_refuses_another_model(options: BuildOptions, tmp_path: Path) -> None:
    build(options)
    other = tiny.save_checkpoint(tmp_path / "other", seed=5, embedding_dim=8)
    with pytest.raises(FingerprintMismatch, match="encoder: store has"):
        verify(options.out, model=str(other))
