"""What a command prints reaches any terminal: characters beyond its encoding are escaped, and JSON stays JSON."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from memstore.cli import main
from tests import tiny

NAMES = {"latin": "caf\u00e9", "Japanese": "\u6771\u4eac", "no UTF-8": "caf\udce9"}  # the last as the system gives it
ENCODINGS = ["ascii", "iso-8859-1", "utf-8"]


def run(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str, errors: str = "strict") -> tuple[int, str, str]:
    """The exit code and what was printed, with the escapes of a terminal of that encoding."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["memstore", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = []
    for stream in streams.values():
        stream.flush()
        printed.append(stream.buffer.getvalue().decode(encoding, errors))  # type: ignore[attr-defined]
    return ended.value.code or 0, *printed  # type: ignore[return-value]


def shown(name: str, encoding: str) -> str:
    return name.encode(encoding, "backslashreplace").decode(encoding)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "1", "title": "Nile", "text": "The Nile is a river in Africa."}\n', encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-8"])  # click takes ASCII for a mistake, and writes UTF-8
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_text(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str) -> None:
    out = tmp_path / f"{name}.jsonl"
    code, printed, _ = run(monkeypatch, encoding, "questions", "--corpus", str(corpus), "--out", str(out))
    assert (code, out.exists()) == (0, True)
    assert printed.startswith(f"wrote {shown(str(out), encoding)}: ")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str) -> None:
    model = str(tiny.save_checkpoint(tmp_path / "model").rename(tmp_path / name))
    code, printed, _ = run(monkeypatch, encoding, "flops", "--model", model, "--json")
    assert code == 0
    assert json.loads(printed)["model"] == model


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str) -> None:
    code, _, said = run(monkeypatch, encoding, "inspect", str(tmp_path / name))
    assert code == 2
    assert said.startswith(f"memstore: there is no store at {shown(str(tmp_path / name), encoding)}")


@pytest.mark.parametrize(
    ("errors", "encoding", "name", "expected"),
    [
        ("replace", "ascii", "caf\u00e9", "caf?"),  # the user's own wish, by PYTHONIOENCODING
        ("surrogateescape", "utf-8", "caf\udce9", "caf\udce9"),  # the locale C: names go out as they are
        ("surrogateescape", "ascii", "caf\u00e9", "caf\\xe9"),
    ],
)
def test_what_the_system_chose_is_kept_where_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: str, encoding: str, name: str, expected: str
) -> None:
    code, _, said = run(monkeypatch, encoding, "inspect", str(tmp_path / name), errors=errors)
    assert code == 2
    assert f"/{expected}; " in said


@pytest.mark.parametrize("errors", ["replace", "surrogateescape"])
def test_json_loses_nothing_whatever_the_system_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    model = str(tiny.save_checkpoint(tmp_path / "model").rename(tmp_path / "caf\u00e9\udce9"))
    _, printed, _ = run(monkeypatch, "ascii", "flops", "--model", model, "--json", errors=errors)
    assert json.loads(printed)["model"] == model
