"""Every benchmark runs from the command line, prints ratios first and writes them as JSON. No time is asserted."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
from pathlib import Path

import pytest

from benchmarks import ON_DEVICE, growth, load
from benchmarks import __main__ as command
from benchmarks.common import TOTAL, Options, Times, ratio, take_turns
from benchmarks.peak import share_row
from memstore.machine import StageTimer
from memstore.store import Store


@pytest.fixture(autouse=True)
def allocator_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tuning: the allocator's settings are of the whole process, which has other tests to run."""
    monkeypatch.setattr(command, "tune_allocator", lambda: False)


@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_it_prints_and_writes_ratios(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "figures.json"
    assert command.main([name, "--quick", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    (report,) = written["benchmarks"]
    assert report["name"] == name
    assert written["quick"] is True
    assert {"cores", "threads", "torch", "dtype", "load_average_before"} <= set(written["machine"])
    assert report["ratios"]
    assert report["settings"]
    assert all(math.isfinite(r["value"]) and 0 < r["low"] <= r["high"] for r in report["ratios"])
    assert all(stages[TOTAL]["median"] > 0 for stages in report["times"].values())
    printed = capsys.readouterr().out.splitlines()
    first = printed.index(f"{name}: {report['claim']}") + 1
    for line, r in zip(printed[first:], report["ratios"], strict=False):
        assert line.startswith(f"  ratio  {r['name']}")
        assert f"{r['value']:.2f}x" in line


def test_the_size_of_a_t5_and_the_share_of_the_peak(tmp_path: Path) -> None:
    """With `--device` or `--size`, only the benchmarks that use them run. Each stage has its share of the peak."""
    path = tmp_path / "figures.json"
    assert command.main(["--quick", "--size", "large", "--json", str(path)]) == 0
    reports = {r["name"]: r for r in json.loads(path.read_text())["benchmarks"]}
    assert list(reports) == list(ON_DEVICE)
    assert reports["builder"]["settings"]["model"] == "random"
    assert reports["builder"]["settings"]["memory_layers"] == 8  # of the tiny one's 12
    for report in reports.values():
        stages = [row for row in report["rows"] if "ms" in row]
        assert len(stages) >= 2
        for row in stages:
            assert row["TFLOP/s"] == pytest.approx(row["TFLOP"] / row["ms"] * 1e3)
            assert row["of the peak, %"] > 0


def test_operations_and_time_make_a_share_of_the_peak() -> None:
    row = share_row("stage", milliseconds=500.0, flops=3 * 10**12, peak=12e12)
    assert row == {"what": "stage", "ms": 500.0, "TFLOP": 3.0, "TFLOP/s": 6.0, "of the peak, %": 50.0}


def test_every_benchmark_is_listed() -> None:
    files = Path(command.__file__).parent.glob("*.py")
    runnable = {p.stem for p in files if "def run(options: Options)" in p.read_text(encoding="utf-8")}
    assert runnable == {*command.BENCHMARKS, *command.BY_NAME}


@pytest.mark.parametrize(
    "wrong",
    [
        ["nothing"],
        ["reader", "--store", "/nowhere/at/all"],
        ["--corpus", "/nowhere"],
        ["reader", "--device", "abacus"],
        ["--size", "base", "decode"],
    ],
)
def test_a_wrong_option_is_reported_and_runs_nothing(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(wrong)
    assert raised.value.code == 2
    assert wrong[-1] in capsys.readouterr().err


@pytest.mark.parametrize("place", ["folder", "file/figures.json", "corpus.jsonl", "store/CURRENT"])
def test_a_wrong_file_for_figures_is_reported_before_any_are_taken(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("folder", "store"):
        (tmp_path / name).mkdir()
    for name in ("file", "corpus.jsonl", "store/CURRENT"):
        (tmp_path / name).write_text("kept")
    monkeypatch.setattr(command, "_run", lambda *_: pytest.fail("a benchmark runs"))
    given = ["--corpus", str(tmp_path / "corpus.jsonl"), "--store", str(tmp_path / "store")]
    with pytest.raises(SystemExit) as raised:
        command.main(["decode", "--quick", *given, "--json", str(tmp_path / place)])
    assert raised.value.code == 2
    assert str((tmp_path / place) if place != "file/figures.json" else tmp_path / "file") in capsys.readouterr().err
    assert {(tmp_path / name).read_text() for name in ("file", "corpus.jsonl", "store/CURRENT")} == {"kept"}


def test_figures_that_were_taken_survive_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are written after each benchmark, and a later failure does not damage that file."""

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "figures.json"
    path.write_text("those before")
    monkeypatch.setattr(command, "_run", lambda *_: {"name": "decode"})
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SystemExit) as raised:
        command.main(["decode", "--quick", "--json", str(path)])
    assert raised.value.code == 2
    assert f"{path} cannot be written: No space left on device" in capsys.readouterr().err
    assert path.read_text() == "those before"


def test_subjects_take_turns_and_warm_ups_do_not_count() -> None:
    seen: list[str] = []

    def subject(name: str, milliseconds: float) -> object:
        def work(stages: StageTimer) -> None:
            seen.append(name)
            stages.milliseconds["part"] = milliseconds

        return work

    times = take_turns({"a": subject("a", 1.0), "b": subject("b", 2.0)}, rounds=3, warm_ups=1)  # type: ignore[dict-item]
    assert "".join(seen) == "ba" + "ab" + "ba" + "ab"
    assert times["a"].of("part") == [1.0, 1.0, 1.0]
    assert times["b"].of("part", "part") == [4.0, 4.0, 4.0]


def test_a_ratio_is_of_medians_with_its_extremes() -> None:
    baseline, ours = Times(({"x": 8.0}, {"x": 9.0}, {"x": 40.0})), Times(({"x": 2.0}, {"x": 3.0}, {"x": 4.0}))
    found = ratio("r", baseline.of("x"), ours.of("x"), aim=2.0)
    assert (found.value, found.low, found.high) == (3.0, 3.0, 10.0)
    assert ours.summary() == {"x": {"median": 3.0, "p95": 4.0, "min": 2.0, "max": 4.0}}


def test_sizes_of_stores_are_given_built_or_not_run(tmp_path: Path) -> None:
    sizes = {"1k": 20, "350k": 40}
    (small,) = growth._stores(Options(), sizes, tmp_path / "built")
    assert (small.size, small.passages, small.given) == ("1k", 20, False)
    given = Options(stores=(small.store,))
    assert [s.store for s in growth._stores(given, sizes, tmp_path / "given")] == [small.store]
    one, large = growth._stores(Options(stores=(small.store,), large=True), sizes, tmp_path / "large")
    assert (one.given, large.given, large.passages) == (True, False, 40)
    fingerprints = {Store.open(s.store).fingerprint for s in (one, large)}
    assert len(fingerprints) == 1, "what is built must be by the model of what is given"


def test_questions_without_an_answer_are_counted_and_make_no_case_faster() -> None:
    with socket.socket() as nobody:  # bound, not listening
        nobody.bind(("127.0.0.1", 0))
        asked = load._client(f"http://127.0.0.1:{nobody.getsockname()[1]}", iter(["one", "two"]))
    assert (asked.errors, asked.latencies) == (2, [])
    half = load.Asked(latencies=[1.0, 1.0], errors=2)
    assert load._per_answer(Times(({"total": 8.0},)), [half]) == [4.0]
