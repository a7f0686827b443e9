"""What people see of names and texts: as they are, on any terminal, with every score."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from memstore.cli.demo import _headline
from memstore.cli.show import (
    PlainConsole,
    show_answer,
    show_build,
    show_prepared,
    show_store,
    show_training,
    show_usage,
    show_verification,
)
from memstore.cli.show_figures import show_comparison
from memstore_builders.progress import Bars

ODD = {
    "emoji": "wiki:100:0",
    "a tag": "[en]",
    "a closing tag": "a[/x]",
    "a style": "[red]b[/red]",
    "a link": "[link=http://x]y[/link]",
    "a backslash": "c\\[d]",
}
STAGES = {"retrieve": 1.25, "load": 2.5, "question": 3.0, "live_a": 4.0, "live_b": 5.0, "decode": 6.0}
USAGE = {"milliseconds": STAGES, "flops": {"live_a": 1e9, "decode": 2e9}, "fid_flops": 9e9, "bytes_read": 1000}


def reply(*ids: str, title: str = "t", text: str = "text", rerank: float | None = 17.75) -> dict[str, Any]:
    passages = [
        {"id": one, "title": title, "text": text, "kept": True, "rerank_score": rerank, "retrieval_rank": rank,
         "retrieval_score": 1234.5}
        for rank, one in enumerate(ids, start=1)
    ]  # fmt: skip
    return {
        "answer": "Orla", "score": -1.0, "reason": None, "confidence": 0.25, "calibrated": True, "citations": [],
        "model": {"trained": True}, "passages": passages, "usage": USAGE,
    }  # fmt: skip


@pytest.fixture(params=[30, 60, 80, 200])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


LONG_IDS = {
    "uuid": "781f9c58-d664-5fa9-e8a8-0123456789ab:1",
    "url": "https://example.org/" + "path/" * 40,
    "wide letters": "東京都" * 20,
    "lines": "one\ntwo\rthree\tfour " * 5,
    "short": "a",
}


@pytest.mark.parametrize("name", LONG_IDS)
def test_scores_are_shown_at_any_width_whatever_the_ids(
    capsys: pytest.CaptureFixture[str], width: int, name: str
) -> None:
    show_answer(reply(LONG_IDS[name], "b:1", title="title " * 30, text="text " * 99))
    lines = capsys.readouterr().out.splitlines()
    head, first, second = lines[2:5]
    assert head.split() == ["rerank", "retrieved", "id", "passage"]
    assert first.split()[:3] == ["17.750", "#1", "1234.50"]
    assert second.split()[:4] == ["17.750", "#2", "1234.50", "b:1"]
    assert lines[5].split()[0] == "retrieve"  # each passage is one line


def test_a_whole_uuid_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    show_answer(reply(LONG_IDS["uuid"], text="x" * 99))
    out = capsys.readouterr().out
    assert LONG_IDS["uuid"] in out
    assert max(map(len, out.splitlines()[1:4])) <= 80


def test_passages_without_scores_are_shown(capsys: pytest.CaptureFixture[str], width: int) -> None:
    passages = reply("a", "b", rerank=None)
    passages["passages"][0] |= {"retrieval_rank": None, "retrieval_score": None}
    show_answer(passages)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[3:5]] == [["own", "a"], ["#2", "1234.50"]]


def test_usage_is_shown_at_any_width(capsys: pytest.CaptureFixture[str], width: int) -> None:
    show_usage(USAGE | {"milliseconds": {name: 1e5 * ms for name, ms in STAGES.items()} | {"queue": 99999.9}})
    _, ms, flops, _ = capsys.readouterr().out.splitlines()
    assert ms.split() == ["ms", "99999.9", "125000.0", "250000.0", "300000.0", "400000.0", "500000.0", "600000.0",
                          "2274999.9"]  # fmt: skip
    assert flops.split() == ["GFLOP", "1.00", "2.00", "3.00", "9.00"]


@pytest.mark.parametrize("name", ODD)
def test_an_answers_texts_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    odd = ODD[name]
    show_answer(reply(odd, title=f"T {odd}", text=odd) | {"answer": odd})
    out = capsys.readouterr().out
    assert f"answer: {odd} " in out
    assert re.search(rf" {re.escape(odd)} +T {re.escape(odd)}: {re.escape(odd)}\.\.\.", out)


def ones(**values: Any) -> dict[str, Any]:
    """A report with these values; all its other numbers are 1."""
    return defaultdict(lambda: 1, values)


def build_report(out: str, **changes: Any) -> dict[str, Any]:
    texts = {"out": out, "already_built": False, "seconds": {}, "errors": [f"{out}: row"]}
    return ones(**(texts | changes))


def store_report(name: str) -> dict[str, Any]:
    settings = {"model": name, "corpus": [{"name": f"corpus {name}"}]}
    texts = {"codec": "int8", "retriever": "bm25", "settings": settings, "fingerprint": ones(model=name)}
    lists = {"source": {}, "made_by": {}, "generations": [1], "metadata": {name: ["string"]}}
    return ones(**texts, **lists, store=f"/tmp/{name}/store")


def show_everything_else(odd: str) -> None:
    out = f"/tmp/{odd}/store"
    show_build(build_report(out))
    show_build(build_report(out, already_built=True))
    show_store(store_report(odd))
    show_verification(
        {"problems": [{"kind": "missing", "where": out, "message": odd}], "foreign": [odd], "sound": False}
    )
    show_training(
        {"step": 1, "finished": True, "tokens": 1, "seconds": 1.0, "best_step": None, "checkpoint": out,
         "scores": {odd: {"em": 1.0}}, "out": out}
    )  # fmt: skip
    show_prepared(
        {"passages": 1, "tokens": 1, "bytes": 1, "seconds": {}, "sets": {odd: {odd: 1}}, "already": False, "out": out}
    )


@pytest.mark.parametrize("name", ODD)
def test_paths_and_names_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    show_everything_else(ODD[name])
    out = capsys.readouterr().out
    assert out.count(f"/tmp/{ODD[name]}/store") == 8
    assert out.count(ODD[name]) == 8 + 9


def test_a_long_path_is_not_broken(capsys: pytest.CaptureFixture[str], width: int) -> None:
    out = "/tmp/" + "a long name/" * 20
    show_build(build_report(out))
    assert f"built {out}\n" in capsys.readouterr().out


def test_a_comparison_keeps_its_figures_beside_a_long_title(capsys: pytest.CaptureFixture[str], width: int) -> None:
    point = {"retrieve_k": 40, "keep_k": 10, "quality": {"value": 0.5, "low": 0.25, "high": 0.75}, "flops": 123e9,
             "ms": {"median": 1234.5}, "front_ms": True, "front_flops": False}  # fmt: skip
    systems = {"a": {"title": "GLIMMER [b]with[/b] " + "a long title " * 9, "points": [point]}}
    show_comparison({"title": "[x]", "systems": systems, "out": "/tmp/[/y]"})
    out = capsys.readouterr().out
    assert re.search(r" 40 +10 +50\.0 +25\.0 +75\.0 +123 +1234\.5\*", out)
    assert "[b]with[/b]" in out
    assert "/tmp/[/y]/report.md" in out


def test_no_text_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_answer(reply("a\x1b[2Jb", title="\x9b31m", text="\x07bell") | {"answer": "\x1b]0;title\x07"})
    out = capsys.readouterr().out
    assert not set(out) & {"\x1b", "\x9b", "\x07", "\r"}
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in out


def test_the_demos_headlines_have_their_style_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole()
    _headline(console, "1. [step]", ":100:")
    assert capsys.readouterr().out == "1. [step] :100:\n"


@pytest.mark.parametrize("name", ODD)
def test_progress_names_what_it_is_of_as_it_is(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A task of `memstore evaluate` is named by the user."""
    bars = Bars()
    bars.begin(ODD[name], 3)
    bars.advance(3)
    bars.end()
    assert ODD[name] in capsys.readouterr().err
