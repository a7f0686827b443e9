"""Dense retrieval: equal to numpy, recall of the clustered index, what is on disk, and broken folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from memstore.errors import ConfigError, IndexCorrupt, InvalidMemory
from memstore.retrieve import FoundRow, Hit, dense
from memstore.retrieve.dense import (
    DenseRetriever,
    DenseSettings,
    EncoderRef,
    build_dense,
    clusters,
    read_dense_settings,
    unit,
)

MEMORY = EncoderRef(kind="memory")
Floats = npt.NDArray[np.float32]


class Given:
    """An encoder whose texts are row numbers of given vectors."""

    def __init__(self, vectors: Floats) -> None:
        self.vectors, self.dim = vectors, vectors.shape[1]

    def encode_questions(self, texts: Sequence[str]) -> Floats:
        return self.vectors[[int(text) for text in texts]]


def names(found: Sequence[FoundRow]) -> list[Hit]:
    return [Hit(f"p{row}", score) for row, score in found]


def random(count: int, dim: int, *, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def clustered(count: int, dim: int, *, centres: int, noise: float) -> Floats:
    which = np.random.default_rng(1).integers(0, centres, count)
    return unit(random(centres, dim, seed=2))[which] + noise * random(count, dim, seed=3) / np.sqrt(dim)


def built(folder: Path, vectors: Floats, questions: Floats) -> DenseRetriever:
    build_dense(folder, [vectors], count=len(vectors), dim=vectors.shape[1], encoder=MEMORY)
    return DenseRetriever(folder, Given(questions), names)


def brute_force(vectors: Floats, question: Floats, k: int) -> list[tuple[str, float]]:
    cosines = (unit(vectors).astype(np.float64) @ unit(question[None])[0].astype(np.float64)).tolist()
    rows = sorted(range(len(vectors)), key=lambda row: (-cosines[row], row))[:k]
    return [(f"p{row}", cosines[row]) for row in rows]


def recall(retriever: DenseRetriever, vectors: Floats, questions: Floats, k: int) -> float:
    hits = retriever.search([str(i) for i in range(len(questions))], k)
    shares = []
    for question, found in zip(questions, hits, strict=True):
        wanted = {i for i, _ in brute_force(vectors, question, k)}
        shares.append(len(wanted & {hit.passage_id for hit in found}) / k)
    return float(np.mean(shares))


# --- flat ------------------------------------------------------------------------------------------------


def test_flat_equals_numpy(tmp_path: Path) -> None:
    vectors, questions = 7 * random(500, 24), random(20, 24, seed=5)
    hits = built(tmp_path / "ix", vectors, questions).search([str(i) for i in range(20)], 15)
    for question, found in zip(questions, hits, strict=True):
        expected = brute_force(vectors, question, 15)
        assert [hit.passage_id for hit in found] == [i for i, _ in expected]
        assert [hit.score for hit in found] == pytest.approx([s for _, s in expected], abs=1e-6)


def test_by_hand(tmp_path: Path) -> None:
    vectors = np.array([[0, 2], [3, 4], [-1, 0], [0, 0], [5, 0]], dtype=np.float32)
    [hits] = built(tmp_path / "ix", vectors, np.array([[10, 0]], dtype=np.float32)).search(["0"], 10)
    assert [(h.passage_id, round(h.score, 6)) for h in hits] == [
        ("p4", 1.0), ("p1", 0.6), ("p0", 0.0), ("p3", 0.0), ("p2", -1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("k", [1, 6, 40])
def test_ties_are_in_row_order_beyond_the_cut(tmp_path: Path, k: int) -> None:
    vectors = np.repeat(random(3, 8), 30, axis=0)
    [hits] = built(tmp_path / "ix", vectors, vectors[45:46]).search(["0"], k)
    assert [hit.passage_id for hit in hits][:30] == [f"p{row}" for row in range(30, 60)][:k]


def test_lengths_do_not_overflow() -> None:
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
    assert unit(vectors).dtype == np.float32


def test_vectors_come_in_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "CHUNK_ROWS", 7)
    vectors = random(50, 8)
    pieces = [vectors[:1], vectors[1:1], vectors[1:40].astype(np.float64), vectors[40:]]
    build_dense(tmp_path / "ix", iter(pieces), count=50, dim=8, encoder=MEMORY)
    pieced = DenseRetriever(tmp_path / "ix", Given(vectors), names)
    whole = built(tmp_path / "whole", vectors, vectors)
    for some, all_ in zip(pieced.search(["3", "44"], 9), whole.search(["3", "44"], 9), strict=True):
        assert [hit.passage_id for hit in some] == [hit.passage_id for hit in all_]
        assert [hit.score for hit in some] == pytest.approx([hit.score for hit in all_], abs=1e-6)


def test_no_passages(tmp_path: Path) -> None:
    build_dense(tmp_path / "ix", [], count=0, dim=4, encoder=MEMORY)
    assert DenseRetriever(tmp_path / "ix", Given(random(1, 4)), names).search(["0"], 3) == [[]]


# --- IVF -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(1_000, 128), (100_001, 1024), (350_000, 2048), (21_000_000, 16384)])
def test_clusters_are_the_power_of_two_nearest_to_four_roots(count: int, expected: int) -> None:
    assert clusters(count) == expected


def test_ivf_finds_what_brute_force_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "FLAT_LIMIT", 1_000)
    vectors = clustered(4_000, 16, centres=100, noise=0.7)
    questions = vectors[::40] + 0.3 * random(100, 16, seed=9) / 4
    retriever = built(tmp_path / "ix", vectors, questions)
    assert (retriever.settings.kind, retriever.settings.nlist) == ("ivf", 256)
    assert retriever.settings.recall >= dense.RECALL
    assert recall(retriever, vectors, questions, 20) >= dense.RECALL
    assert sorted(p.name for p in (tmp_path / "ix").iterdir()) == ["index.faiss", "settings.json"]


def test_more_clusters_are_looked_into_where_nothing_is_clustered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "FLAT_LIMIT", 1_000)
    vectors = random(4_000, 16)
    retriever = built(tmp_path / "ix", vectors, vectors)
    assert retriever.settings.nprobe > dense.MIN_PROBES
    assert retriever.settings.recall >= dense.RECALL
    assert recall(retriever, vectors, vectors[:50], 20) >= dense.RECALL


def test_ivf_scores_are_cosines_up_to_its_eight_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "FLAT_LIMIT", 100)
    vectors = 3 * clustered(500, 16, centres=20, noise=0.5)
    retriever = built(tmp_path / "ix", vectors, vectors)
    for row in (0, 250, 499):
        best = retriever.search([str(row)], 1)[0][0]
        assert best.passage_id == f"p{row}"
        assert best.score == pytest.approx(1, abs=0.01)


def test_the_training_sample_is_bounded_and_spaced() -> None:
    rows = np.arange(100, dtype=np.float32).reshape(100, 1)
    assert dense._spaced(rows, 5).ravel().tolist() == [0, 24, 49, 74, 99]
    assert len(dense._spaced(rows, 1_000)) == 100


# --- what cannot be indexed ------------------------------------------------------------------------------

WRONG = {
    "too few": (np.ones((9, 4)), IndexCorrupt, "9 vectors were given for an index of 10"),
    "too many": (np.ones((11, 4)), IndexCorrupt, "11 vectors were given for an index of 10"),
    "width": (np.ones((10, 5)), InvalidMemory, r"from row 0 on have the shape \(10, 5\), not \(n, 4\)"),
    "one vector": (np.ones(4), InvalidMemory, r"shape \(4,\)"),
    "nan": (np.where(np.arange(40) == 30, np.nan, 1.0).reshape(10, 4), InvalidMemory, "vector of row 7 has"),
    "inf": (np.where(np.arange(40) == 30, np.inf, 1.0).reshape(10, 4), InvalidMemory, "vector of row 7 has"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("flat_limit", [5, 100])
def test_wrong_vectors_are_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flat_limit: int
) -> None:
    monkeypatch.setattr(dense, "FLAT_LIMIT", flat_limit)
    vectors, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        build_dense(tmp_path / "ix", [vectors], count=10, dim=4, encoder=MEMORY)
    assert list(tmp_path.iterdir()) == []


# --- settings and broken folders -------------------------------------------------------------------------


def test_settings_come_back(tmp_path: Path) -> None:
    ref = EncoderRef(kind="sentence", name="some/encoder", sha256="ab")
    made = build_dense(tmp_path / "ix", [random(5, 4)], count=5, dim=4, encoder=ref)
    assert made == DenseSettings(encoder=ref, dim=4, passages=5, kind="flat")
    assert read_dense_settings(tmp_path / "ix") == made
    assert DenseSettings.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("bert", "x", "not by 'bert'"),
        ("sentence", "", "cannot have the name ''"),
        ("memory", "x", "cannot have the name 'x'"),
    ],
)
def test_an_encoder_is_ours_or_has_a_name(kind: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncoderRef(kind=kind, name=name)


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    built(tmp_path / "ix", random(5, 4), random(1, 4))
    with pytest.raises(ConfigError, match=r"width 4 and the encoder's are 6 wide"):
        DenseRetriever(tmp_path / "ix", Given(random(1, 6)), names)


def change(folder: Path, **changes: object) -> None:
    path = folder / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(folder: Path, key: str) -> None:
    path = folder / "settings.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: f.rename(f.with_name("elsewhere")), "there is no index"),
    "no settings": (lambda f: (f / "settings.json").unlink(), "there is no index"),
    "settings are not JSON": (lambda f: garble(f / "settings.json"), "cannot be read"),
    "no index": (lambda f: (f / "index.faiss").unlink(), "lacks index.faiss"),
    "short": (lambda f: shorten(f / "index.faiss"), "bytes, not"),
    "garbled": (lambda f: garble(f / "index.faiss"), "cannot be read"),
    "unknown key": (lambda f: change(f, colour="red"), "colour"),
    "missing key": (lambda f: drop(f, "dim"), "dim"),
    "no encoder": (lambda f: drop(f, "encoder"), "encoder"),
    "unknown encoder": (lambda f: change(f, encoder={"kind": "bert"}), "not by 'bert'"),
    "unknown version": (lambda f: change(f, format_version=9), "version 9"),
    "unknown kind": (lambda f: change(f, kind="tree"), "'tree'"),
    "another count": (lambda f: change(f, passages=201), "holds 200 vectors of width 8, not 201"),
    "another width": (lambda f: change(f, dim=9), "of width 8, not 200 of width 9"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("flat_limit", [100, 1_000])
def test_a_broken_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flat_limit: int
) -> None:
    monkeypatch.setattr(dense, "FLAT_LIMIT", flat_limit)
    breaking, message = BROKEN[name]
    build_dense(tmp_path / "ix", [random(200, 8)], count=200, dim=8, encoder=MEMORY)
    breaking(tmp_path / "ix")
    with pytest.raises(IndexCorrupt, match=message):
        DenseRetriever(tmp_path / "ix", Given(random(1, 9 if name == "another width" else 8)), names)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["torch, faiss", "faiss, torch"])
def test_torch_and_faiss_work_together_in_threads(order: str) -> None:
    program = f"""
import {order}
import threading
x = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0))
index = faiss.IndexFlatIP(32)
index.add(x.numpy())
def work():
    for _ in range(3):
        nearest = (x @ x.T).argmax(1)
        found = index.search(x.numpy(), 1)[1][:, 0]
        assert (torch.from_numpy(found) == nearest).all()
        done.append(1)
done = []
threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads: t.start()
for t in threads: t.join()
work()
print(len(done))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=120).strip() == "12"
