"""`python -m benchmarks shares`: a usual question's time, divided into its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.shares import BATCHES, fitted
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_server.costs import Work
from tests import tiny

WORKS = [
    Work(questions=n, scored=1000.0 * scored, read=1000.0 * read)
    for n, scored, read in ((1, 5, 1), (4, 20, 4), (1, 2, 1), (1, 5, 0.2), (2, 3, 2))
]


def seconds(work: Work, parts: tuple[float, float, float, float]) -> float:
    return sum(p * f for p, f in zip(parts, (1, work.questions, work.scored / 1000, work.read / 1000), strict=True))


@pytest.mark.parametrize("parts", [(3.0, 2.0, 0.5, 7.0), (0.0, 2.0, 0.5, 7.0)])
def test_the_parts_of_the_time_are_found(parts: tuple[float, float, float, float]) -> None:
    assert fitted(WORKS, [seconds(work, parts) for work in WORKS]) == pytest.approx(parts, abs=1e-9)


def test_no_part_is_below_nothing() -> None:
    found = fitted(WORKS, [seconds(work, (-1.0, 4.0, 0.5, 7.0)) for work in WORKS])
    assert found.min() == 0.0
    assert found.max() > 5


def test_it_says_what_the_shares_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "tune_allocator", lambda: False)  # it is of the whole process
    passages = tmp_path / "p.jsonl"
    rows = [{"id": p.id, "title": p.title, "text": f"{p.text} {i}"} for i, p in enumerate(tiny.passages(50))]
    passages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(tiny.save_checkpoint(tmp_path / "model"))
    build(BuildOptions(corpus=(passages,), out=tmp_path / "store", model=model, dtype="float32"))
    written = tmp_path / "figures.json"
    assert command.main(["shares", "--quick", "--store", str(tmp_path / "store"), "--json", str(written)]) == 0
    (report,) = json.loads(written.read_text())["benchmarks"]
    figures = report["figures"]
    assert len(report["ratios"]) == len(BATCHES)
    assert sum(value for name, value in figures.items() if name != "_SHARES") == pytest.approx(1.0)
    assert f"_SHARES: {figures['_SHARES']}" in capsys.readouterr().out
