"""Writes a comparison as a page: report.md with its pictures, from the figures of `memstore.compare.summary`.

A person may write what the figures mean into `reading.md` beside it; the page then includes that text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memstore.compare.config import Point
from memstore.compare.plots import draw
from memstore.compare.summary import widest
from memstore.files import make_folder, write_text
from memstore.units import duration

PAGE, READING = "report.md", "reading.md"
PICTURES = {"flops": "quality-flops.png", "ms": "quality-milliseconds.png"}
_STAR = " \\*"
_GOLD = {  # by the rule `data.gold`: what a candidate does that makes its question answerable
    "answer": "holds the answer (a verdict: is of its page)",
    "title": "is of a page that the answer comes from",
    "either": "holds the answer or is of a page that it comes from",
}
Json = Mapping[str, Any]


def write_report(out: Path, summary: Json) -> Path:
    """Write the page and its pictures into `out`. Returns the page's path.

    Raises:
        OutputUnwritable: the system refuses, or the disk is full.
    """
    make_folder(out)
    timed = summary["timed_by"] is not None
    for cost, name in PICTURES.items():
        if cost == "flops" or timed:
            draw(summary, out / name, cost=cost)
    reading = out / READING
    parts = [
        f"# {summary['title']}",
        *([summary["about"]] if summary["about"] else []),
        _head(summary),
        *(["## Reading", reading.read_text(encoding="utf-8").strip()] if reading.is_file() else []),
        "## Quality against operations",
        f"![Quality against GFLOP per question]({PICTURES['flops']})",
        "## Quality against time",
        f"![Quality against milliseconds per question]({PICTURES['ms']})" if timed else "Times were not taken.",
        "## All points",
        _points(summary),
        "## Ablations",
        _ablations(summary),
        "## Tasks",
        *_tasks(summary),
        "## Settings",
        _settings(summary),
        _changes(summary),
    ]
    page = out / PAGE
    write_text(page, "\n\n".join(part for part in parts if part) + "\n")
    return page


# --- parts --------------------------------------------------------------------------------------------------


def _head(summary: Json) -> str:
    systems, tasks = summary["systems"], summary["tasks"]
    sizes = [m["parameters"] / 1e6 for s in systems.values() for m in s["models"].values()]
    budgets = {name: _budget(s) for name, s in systems.items() if s["training"]}
    clock = summary["timed_by"]
    machines = dict.fromkeys(_machine(s["made_by"], gpu=s["device"] != "cpu") for s in systems.values())
    lines = [
        f"Models of {_span(sizes, '{:.1f}')} million parameters, over a corpus cache of "
        f"{summary['cache']['passages']:,} passages ({summary['cache']['tokens'] / 1e6:.1f} million tokens).",
    ]
    if budgets:
        lines.append(
            f"Each system was trained for {_span([b['step'] for b in budgets.values()], '{:,.0f}')} steps: "
            f"{_span([b['tokens'] / 1e6 for b in budgets.values()], '{:,.2f}')} million tokens, "
            f"{_span([b['seconds'] / 60 for b in budgets.values()], '{:,.1f}')} minutes of steps."
        )
    if loaded := [s["title"] for s in systems.values() if s["checkpoint"]]:
        lines.append(f"Loaded, not trained here: {', '.join(loaded)}.")
    if random := [s["title"] for s in systems.values() if not all(_trained(m) for m in s["models"].values())]:
        lines.append(f"**UNTRAINED, with random weights: {', '.join(random)}. Their quality means nothing.**")
    lines.append(
        f"Measured on {sum(t['questions'] for t in tasks.values()):,} questions of {len(tasks)} task(s), the same for "
        f"all systems, on {'; '.join(machines)}."
    )
    if clock is not None:
        lines.append(
            f"Times: {summary['timed_questions']} of these questions, one at a time, all systems in turns in one "
            f"process, median of {summary['repeats']} each, on {_machine(clock, gpu=clock['device'] != 'cpu')}, "
            f"{clock['threads']} thread(s). Retrieval, and loading memories from a store, are not in them."
        )
    if summary["missing"]:
        lines.append(f"**Not measured yet: {', '.join(summary['missing'])}.**")
    lines.append(
        "**These figures compare the systems with each other, at this size and budget. Do not compare them with "
        "leaderboards, or with models trained for longer.**"
    )
    if any(t["best_step"] is not None for s in systems.values() for t in s["training"].values()):
        lines.append(
            "From each run, the model with the best dev score answers (*best step* below). If that score was measured "
            "on the same question sets as here, all figures are a little too high, by about as much for each system."
        )
    return "\n".join([*lines, _legend(summary["gold"])])


def _legend(gold: str) -> str:
    """The meaning of the tables' words and signs. `gold` is the rule that makes a question answerable."""
    return (
        "\nQuality is the mean over tasks, each weighing the same, of accuracy (fever) or exact match (the "
        "others), in per cent. Brackets are 95% bootstrap intervals over questions; they do not cover what another "
        "seed of training would give. *Answerable* counts only questions of which some candidate "
        f"{_GOLD[gold]}; "
        "*recall* is the share of these where such a candidate was read. `20→5` means 20 passages retrieved and 5 "
        "read; `5` means that all retrieved ones were read. Answers are decoded greedily, whatever number of beams a "
        "model serves with. Operations and bytes are counted (`memstore flops`), with the questions' real lengths; "
        "\\* marks the Pareto front over all systems."
    )


def _budget(system: Json) -> dict[str, float]:
    """The steps, tokens and seconds of all models of a system together."""
    return {key: sum(t[key] for t in system["training"].values()) for key in ("step", "tokens", "seconds")}


def _trained(model: Json) -> bool:
    return bool(model["config"]["trained"])


def _machine(made_by: Json, *, gpu: bool) -> str:
    return f"{made_by['gpu'] if gpu else made_by['cpu']} (torch {made_by['torch']}, {made_by['date'][:10]})"


def _span(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _points(summary: Json) -> str:
    head = ["system", "passages", "quality", "answerable", "F1", "recall", "GFLOP", "MB moved", "MB of memories",
            "ms", "ms before decoding", "ms, 90th percentile"]  # fmt: skip
    rows = [[s["title"], *_point(p)] for s in summary["systems"].values() for p in s["points"]]
    return _table(head, rows, left=2)


def _point(p: Json) -> list[str]:
    quality = [_interval(p["quality"]), _interval(p["quality_answerable"]), _percent(p["f1"]), _percent(p["recall"])]
    costs = [f"{p['flops'] / 1e9:.3g}{_STAR * p['front_flops']}"]
    costs += [f"{p[key] / 1e6:.3g}" for key in ("bytes", "store_bytes")]
    if (ms := p["ms"]) is None:
        return [_place(p), *quality, *costs, "", "", ""]
    times = [f"{ms['median']:.3g}{_STAR * p['front_ms']}", f"{ms['encode_median']:.3g}", f"{ms['p90']:.3g}"]
    return [_place(p), *quality, *costs, *times]


def _ablations(summary: Json) -> str:
    if not summary["ablations"]:
        return "No system is an ablation of another one here."
    tasks = list(summary["tasks"])
    titles = {name: s["title"] for name, s in summary["systems"].items()}
    rows = []
    for line in summary["ablations"]:
        places = dict.fromkeys(str(Point(line[key], line["keep_k"])) for key in ("retrieve_k", "reference_retrieve_k"))
        both = [_percent(line[key]) for key in ("quality", "reference_quality")]
        differences = [_interval(found, sign="+") for found in (line["difference"], *(line["tasks"][t] for t in tasks))]
        ratio = f"{line['flops'] / line['reference_flops']:.2f}"
        rows.append([titles[line["system"]], titles[line["reference"]], " / ".join(places), " / ".join(both), ratio,
                     *differences])  # fmt: skip
    head = ["system", "against", "passages", "quality of both", "GFLOP, ratio", "difference", *tasks]
    text = ("Differences in percentage points, with paired bootstrap intervals: an interval that holds 0 is no "
            "finding. Both read the same number of passages, each from the most that it can choose from.")  # fmt: skip
    return f"{text}\n\n{_table(head, rows, left=3)}"


def _tasks(summary: Json) -> list[str]:
    """A table for each task, with one point for each system and number of passages read: see `widest`."""
    parts = ["For each number of passages read, only the point that chooses from most; report.json has all."]
    for task, about in summary["tasks"].items():
        rows = []
        for system in summary["systems"].values():
            for p in widest(system["points"]).values():
                t, ms = p["tasks"][task], p["ms"]
                rows.append([
                    system["title"], _place(p), _interval(t["quality"]), _interval(t["quality_answerable"]),
                    _percent(t["em"]), _percent(t["f1"]), _percent(t["accuracy"]), _percent(t["recall"]),
                    f"{t['flops'] / 1e9:.3g}", "" if ms is None else f"{ms['tasks'][task]:.3g}",
                ])  # fmt: skip
        name = {"em": "exact match", "accuracy": "accuracy"}[about["headline"]]
        head = [
            "system",
            "passages",
            f"{name} (headline)",
            "answerable",
            "EM",
            "F1",
            "accuracy",
            "recall",
            "GFLOP",
            "ms",
        ]
        parts += [f"### {task}", f"{about['questions']:,} questions, {about['answerable']:,} of them answerable.",
                  _table(head, rows, left=2)]  # fmt: skip
    return parts


def _settings(summary: Json) -> str:
    rows = []
    for name, system in summary["systems"].items():
        for task, model in system["models"].items():
            c, trained = model["config"], system["training"].get(task)
            layers = _layers(c)
            rows.append([
                f"{system['title']}{f', {task}' if task else ''}", c["system"], f"{c['alpha']:.3g}",
                f"{c['beta']:.3g}" if c["system"] == "glimmer" else "", layers, f"{model['parameters'] / 1e6:.2f}",
                "loaded" if trained is None else f"{trained['step']:,}",
                "" if trained is None else f"{trained['tokens'] / 1e6:.2f}",
                "" if trained is None else duration(trained["seconds"]),
                "" if trained is None or trained["best_step"] is None else f"{trained['best_step']:,}",
                system["reranker"], f"{system['device']}, {system['dtype']}",
                f"`{system['fingerprints']['models'][task][:12]}`", f"`measured/{name}.json`",
            ])  # fmt: skip
    head = ["system", "kind", "alpha", "beta", "layers: memory + live_a + live_b; decoder", "million parameters",
            "steps", "million tokens", "time of steps", "best step", "reranker", "measured on", "model's fingerprint",
            "settings, answers"]  # fmt: skip
    return f"Cache `{summary['cache']['fingerprint'][:12]}`.\n\n{_table(head, rows, left=2)}"


def _layers(config: Json) -> str:
    from memstore.model.config import ModelConfig

    c = ModelConfig.from_dict(config)
    return f"{c.num_memory_layers} + {c.num_live_a_layers} + {c.num_live_b_layers}; {c.num_decoder_layers}"


def _changes(summary: Json) -> str:
    lines = []
    for system in summary["systems"].values():
        what = [f"`{key} = {json.dumps(value)}`" for key, value in _flat(system["changes"])]
        if system["checkpoint"]:
            what.append(f"loaded from `{system['checkpoint']}`")
        if system["models_of"]:
            what.append(f"reads with the models of {system['models_of']}")
        if system["single_task"]:
            what.append("one model per task, each with its share of the steps")
        if system["reranker"]:
            what.append(f"passages ordered by the scorer of {system['reranker']}, in a pass of its own")
            what.append("the steps reported here do not include that scorer's training")
        lines.append(f"- {system['title']}: {', '.join(what) or 'the base as it is'}")
    return "What each system changes in the base:\n\n" + "\n".join(lines)


def _flat(changes: Json, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in changes.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found


# --- cells --------------------------------------------------------------------------------------------------


def _place(point: Json) -> str:
    return str(Point(point["retrieve_k"], point["keep_k"]))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _interval(found: Json | None, *, sign: str = "") -> str:
    if found is None:
        return ""
    value, low, high = (f"{100 * found[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    rule = [":--" if i < left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, rule, *rows))
