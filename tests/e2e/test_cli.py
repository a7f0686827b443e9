"""The command line: every command has help and is in the README or docs/; exit codes; JSON for machines."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from typer.testing import CliRunner

from memstore import cli
from memstore.cli import serving, stores
from memstore.cli.show import NOTHING_FOUND
from memstore_server.settings import Settings
from tests import tiny

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    model = tiny.save_checkpoint(folder / "model")
    rows = [{"id": f"d{i}", "title": p.title, "text": f"{p.text} {i}."} for i, p in enumerate(tiny.passages(30))]
    corpus = folder / "docs.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("build", "--corpus", str(corpus), "--out", str(folder / "store"), "--model", str(model), "--json")
    assert json.loads(done.stdout)["passages"] == 30
    return folder / "store"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """Exit code and standard error of the whole program."""
    monkeypatch.setattr("sys.argv", ["memstore", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help_and_the_command_is_in_the_docs(command: str) -> None:
    found: click.Command = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    assert found.help
    for parameter in found.params:
        assert getattr(parameter, "help", None), f"memstore {command} {parameter.name} has no help"
    documents = [path.read_text() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"))]
    assert any(f"memstore {command}" in text or f"make {command}" in text for text in documents), command
    assert run(command, "--help").exit_code == 0


def test_serve_has_a_flag_for_every_setting() -> None:
    hidden = {"write_key"}  # everybody sees the flags of a process
    assert set(inspect.signature(serving.serve).parameters) == set(Settings.model_fields) - hidden


def test_serve_says_the_default_of_every_setting() -> None:
    found = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    for parameter in found.params:
        default = Settings.model_fields[parameter.name].default
        if parameter.name not in ("store", "model") and default is not None:
            value = int(default) if isinstance(default, float) and default == int(default) else default
            value = "none" if value == () else "no" if value is False else value
            assert f"[{value}]" in parameter.help, (parameter.name, default)


def test_inspect_verify_and_ask(store: Path) -> None:
    shown = json.loads(run("inspect", str(store), "--json").stdout)
    assert (shown["passages"], shown["codec"], shown["retriever"]) == (30, "int8", "bm25")
    verified = json.loads(run("verify", str(store), "--sample", "30", "--json").stdout)
    assert (verified["sound"], verified["sampled"]) == (True, 30)
    reply = json.loads(run("ask", "which river", "--store", str(store), "--retrieve-k", "5", "--json").stdout)
    assert len(reply["passages"]) <= 5
    assert reply["model"]["name"] == "tiny"
    shown = run("ask", "which river", "--store", str(store)).stdout
    assert "answer:" in shown
    assert "retrieved (reranked, best first; #N: the retriever's place)\n" in shown
    assert NOTHING_FOUND not in shown
    assert "passages" in run("inspect", str(store)).stdout


def test_an_answer_from_nothing_is_reported_as_a_guess(store: Path) -> None:
    shown = run("ask", "zzzzqqqq", "--store", str(store)).stdout
    assert NOTHING_FOUND == "no passage was found: this answer is a guess"
    assert f"\n{NOTHING_FOUND}\n" in shown
    assert "passages read" not in shown
    assert "fewer operations" not in shown
    replied = run("ask", "zzzzqqqq", "--store", str(store), "--json").stdout
    assert json.loads(replied)["passages"] == []
    assert NOTHING_FOUND not in replied


def test_verify_of_a_damaged_store_exits_1(store: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "store"
    shutil.copytree(store, broken)
    victim = next((broken / "segments").rglob("passages.jsonl"))
    victim.write_bytes(victim.read_bytes().replace(b"river", b"rivet", 1))
    done = run("verify", str(broken))
    assert done.exit_code == 1
    assert "ChecksumMismatch" in done.stdout
    assert "NOT sound" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "/nowhere"], "there is no store at /nowhere"),
        (["build", "--corpus", "/nowhere.jsonl", "--out", "OUT"], "/nowhere.jsonl"),
        (["build", "--corpus", "sample", "--out", "OUT", "--codec", "zip"], "unknown codec 'zip'"),
        (["build", "--corpus", "sample", "--out", "OUT", "--on-error", "ignore"], "--on-error must be fail or skip"),
        (["ask", "x"], "name either a store to read"),
        (["ask", "x", "--url", "http://127.0.0.1:9"], "is `memstore serve` running there?"),
        (["ask", "x", "--url", "127.0.0.1:8080"], "must begin with http:// or https://"),
        (["ask", "x", "--url", "http://127.0.0.1:9", "--model", "default"], "--model and --device are for --store"),
        (["ask", "x", "--url", "http://localhost:abc"], "http://localhost:abc"),
        (["build", "--corpus", "sample", "--out", "OUT", "--device", "banana"], "device 'banana' cannot be used"),
        (["serve", "--store", "/nowhere", "--host", "a..b"], "host 'a..b' is no address to listen on"),
        (["serve", "--store", "/nowhere", "--drain-seconds", "inf"], "drain_seconds (--drain-seconds"),
        (["serve"], "--store or MEMSTORE_STORE"),
        (["serve", "--store", "/nowhere", "--port", "99999"], "port"),
        (["prepare", "--store", "s", "--out", "OUT", "--task", "nq"], "--task must be NAME=FILE"),
        (["train", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["convert", "/nowhere", "--out", "OUT"], "/nowhere"),
        (["convert", "/nowhere", "--out", "OUT", "--system", "bert"], "--system must be fid, lumen or glimmer"),
        (["convert", "/nowhere", "--out", "OUT", "--weights", "int4"], "--weights must be float32, bfloat16 or int8"),
    ],
)
def test_a_users_mistake_exits_2_in_one_line(
    arguments: list[str], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, error = main(monkeypatch, capsys, *(str(tmp_path / "out") if a == "OUT" else a for a in arguments))
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert error.startswith("memstore: ")


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(stores, "_build_options", missing)
    code, error = main(monkeypatch, capsys, "build", "--corpus", "sample", "--out", "/tmp/never")
    assert code == 2
    assert error == "memstore: this command needs torch: pip install '.[all]' in memstore's folder\n"


def test_a_stock_t5_is_converted_and_builds(tmp_path: Path) -> None:
    stock = tiny.save_stock_t5(tmp_path / "t5", "v1.1")
    done = run("convert", str(stock), "--out", str(tmp_path / "ours"), "--system", "lumen", "--alpha", "0.5")
    assert "lumen, 3 memory and 3 live layers" in done.stdout
    built = run("build", "--corpus", "sample", "--limit", "5", "--model", str(tmp_path / "ours"), "--out",
                str(tmp_path / "store"), "--json")  # fmt: skip
    assert json.loads(built.stdout)["passages"] == 5


def test_a_model_of_ours_is_kept_in_int8_and_nothing_else_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    done = run("convert", str(model), "--out", str(tmp_path / "small"), "--weights", "int8")
    assert "the same model, its weights in int8" in done.stdout
    assert (tmp_path / "small" / "config.json").read_bytes() == (model / "config.json").read_bytes()
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path / "small", model)]
    assert sizes[0] < 0.4 * sizes[1]  # of float32's
    for more, message in ((["--beta", "0.5"], "only --weights can be changed"), ([], "memstore's own already")):
        weights = ["--weights", "int8"] if more else []
        code, error = main(monkeypatch, capsys, "convert", str(model), "--out", str(tmp_path / "x"), *weights, *more)
        assert (code, message in error) == (2, True), error
    assert not (tmp_path / "x").exists()


def test_plan_predicts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.save_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    planned = json.loads(run("plan", "--corpus", "sample", "--model", str(model), "--json").stdout)
    assert planned["documents"] == 200
    assert planned["store_bytes"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
