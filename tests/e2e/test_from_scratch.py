"""From plain text to an answering model by commands alone: tokenizer, new, build, questions, prepare, train, build,
ask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from memstore import cli

SHAPE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 3, "num_decoder_layers": 1,
         "alpha": 0.67, "beta": 0.5, "copy_head": True, "match_embedding": True}  # fmt: skip


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_a_model_from_nothing_but_text(tmp_path: Path) -> None:
    places = ("Oslo", "Bergen", "Turku", "Malmo", "Aarhus", "Odense", "Tampere", "Uppsala")
    documents = [
        {
            "id": p,
            "title": p,
            "text": f"The town of {p} was founded in the year {1200 + 7 * i} by a duke. It has a port.",
        }
        for i, p in enumerate(places)
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(d) + "\n" for d in documents))
    questions = tmp_path / "questions.jsonl"
    rows = [{"id": p, "input": f"when was {p} founded", "output": [{"answer": str(1200 + 7 * i)}]}
            for i, p in enumerate(places)]  # fmt: skip
    questions.write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder = {n: str(tmp_path / n) for n in ("tokenizer", "model", "first", "cache", "run", "store")}
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(SHAPE))
    run("tokenizer", "--corpus", str(corpus), "--out", folder["tokenizer"], "--vocab-size", "512", "--lowercase")
    run("new", "--config", str(shape), "--tokenizer", folder["tokenizer"], "--out", folder["model"])
    run("build", "--corpus", str(corpus), "--out", folder["first"], "--model", folder["model"])
    made = tmp_path / "made.jsonl.gz"
    run("questions", "--corpus", str(corpus), "--out", str(made))
    run("prepare", "--store", folder["first"], "--model", folder["model"], "--out", folder["cache"],
        "--task", f"town.train={questions}", "--task", f"town.dev={questions}", "--k", "3",
        "--task", f"made.train={made}", "--supported", "made.train",
        "--task", f"cross.train={made}", "--elsewhere", "cross.train")  # fmt: skip
    config = tmp_path / "run.toml"
    config.write_text(
        f'out = "{folder["run"]}"\nsteps = 2\nmodel = {{source = "checkpoint", path = "{folder["model"]}"}}\n'
        f'[data]\ncache = "{folder["cache"]}"\nquestions = 4\npretrain_share = [[0, 0.5]]\n'
        "pretrain = {salient = 0.3, asked = 0.5, rebuild = 0.2, dev_questions = 2}\n"
    )
    trained = json.loads(run("train", "--config", str(config), "--json").stdout)
    assert trained["finished"]
    assert set(trained["scores"]) == {"town", "salient", "all"}
    run("build", "--corpus", str(corpus), "--out", folder["store"], "--model", trained["checkpoint"])
    reply = json.loads(run("ask", "When was Turku founded?", "--store", folder["store"], "--json").stdout)
    assert reply["model"]["trained"]
    assert reply["passages"][0]["kept"]
