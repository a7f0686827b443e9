"""The tables of benchmarks/README.md are those of its file of results; the README's figures are among them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import BENCHMARKS, table
from benchmarks import __main__ as command
from benchmarks.common import Options, Report, ratio

RESULTS: dict[str, Any] = {
    "quick": False,
    "machine": {"processor": "Abacus", "cores": 2, "threads": 1, "dtype": "float32", "torch": "9.9"},
    "benchmarks": [
        {
            "name": "growth",
            "claim": "small over large",
            "settings": {"questions": 4, "page_cache": "warm"},
            "ratios": [{"name": "30 passages", "value": 0.956, "low": 0.9, "high": 1.25, "aim": None}],
            "cores_taken_by_others": 1.04,
            "rows": [{"passages": "1", "ms": 146.4, "GB": 0.5293, "errors": 1200}, {"passages": "350k: not run"}],
        },
        {
            "name": "reader",
            "claim": "stock over ours",
            "settings": {},
            "ratios": [
                {"name": "end to end", "value": 5.194, "low": 4.3, "high": 5.5, "aim": 5.0},
                {"name": "decoding", "value": 39.72, "low": 39.72, "high": 39.72, "aim": None},
            ],
            "cores_taken_by_others": 0.06,
        },
    ],
}
TABLE = """\
From `some.json`: Abacus, 2 cores, 1 threads, float32, torch 9.9. Above 1 is in our favour. Ratios are of medians; their
extremes are over the rounds, which were taken in turns.

### `reader`

Stock over ours.

| compared | ratio | over the rounds |
|---|---|---|
| end to end | **5.19** (aim 5) | 4.30 to 5.50 |
| decoding | **39.7** |  |

### `growth`

Small over large. Others took 1.0 cores meanwhile.
Settings: questions 4, page cache warm.

| compared | ratio | over the rounds |
|---|---|---|
| 30 passages | **0.96** | 0.90 to 1.25 |

| passages | ms | GB | errors |
|---|---|---|---|
| 1 | 146 | 0.529 | 1,200 |
| 350k: not run |  |  |  |

NOT RUN"""


def test_the_pages_tables_are_those_of_the_results_it_names() -> None:
    _, between, _ = table.split(table.README.read_text(encoding="utf-8"), source="benchmarks/README.md")
    named = re.search(r"From `(benchmarks/results/[\d-]+\.json)`", between)
    assert named is not None, "the table does not say which results it shows"
    values = json.loads((table.ROOT / named[1]).read_text(encoding="utf-8"))
    assert values["quick"] is False
    assert between == table.table(values, source=named[1])


def test_the_ratios_of_the_readme_are_measured_ones() -> None:
    """The README names the day of its figures: change both after `make bench` has measured again."""
    readme = (table.ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"AMX, ([\d-]+) .*?\*\*([\d.]+)\*\* \(aim 5\); encoding ([\d.]+) ", readme, re.DOTALL)
    assert found is not None, "the README's three figures have another form"
    values = json.loads((table.RESULTS / f"{found[1]}.json").read_text(encoding="utf-8"))
    (reader,) = (r for r in values["benchmarks"] if r["name"] == "reader")
    measured = {r["name"]: f"{r['value']:.2f}" for r in reader["ratios"]}
    assert (found[2], found[3]) == (measured["end to end"], measured["encoding (ours with loading)"])


def test_a_table_by_hand() -> None:
    missing = ", ".join(f"`{name}`" for name in BENCHMARKS if name not in ("reader", "growth"))
    assert table.table(RESULTS, source="some.json") == TABLE.replace("NOT RUN", f"Not run: {missing}.")


def test_a_quick_run_says_so() -> None:
    words = table.table(RESULTS | {"quick": True}, source="some.json").split()
    assert "these figures mean nothing" in " ".join(words)


def test_only_what_is_between_the_markers_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "some.json"
    readme.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\n\nbelow\n")
    results.write_text(json.dumps(RESULTS))
    for _ in range(2):  # again: the same
        assert command.main(["table", str(results), "--readme", str(readme)]) == 0
        expected = table.table(RESULTS, source="some.json")
        assert readme.read_text() == f"above\n{table.BEGIN}\n{expected}\n{table.END}\n\nbelow\n"
    assert str(results) in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", table.BEGIN, f"{table.END} {table.BEGIN}", f"{table.BEGIN} {table.BEGIN} {table.END}"]
)
def test_a_page_without_its_markers_is_not_changed(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "some.json"
    readme.write_text(text)
    results.write_text(json.dumps(RESULTS))
    with pytest.raises(SystemExit) as raised:
        command.main(["table", str(results), "--readme", str(readme)])
    assert raised.value.code == 2
    assert table.BEGIN in capsys.readouterr().err
    assert readme.read_text() == text


@pytest.mark.parametrize("words", [["--quick"], ["reader"], ["--json", "elsewhere.json"], []])
def test_only_a_full_run_is_recorded(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fake benchmarks: the repository's own page and results must never be written here."""

    def fake(name: str, options: Options) -> dict[str, Any]:
        return Report(name=name, claim="c", settings={}, ratios=[ratio("r", [2.0], [1.0])], times={}).to_dict()

    readme = tmp_path / "README.md"
    readme.write_text(f"{table.BEGIN}\n{table.END}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "tune_allocator", lambda: False)
    monkeypatch.setattr(command, "_run", fake)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    assert command.main(words) == 0
    written = list(tmp_path.rglob("*.json"))
    if words:
        assert written == ([tmp_path / "elsewhere.json"] if "--json" in words else [])
        assert readme.read_text() == f"{table.BEGIN}\n{table.END}\n"
        return
    (results,) = written
    values = json.loads(results.read_text())
    assert results == tmp_path / "results" / f"{values['date']}.json"
    assert f"From `results/{results.name}`" in readme.read_text()
