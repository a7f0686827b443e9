"""What measuring commands print for people: scores, evaluations, costs, comparisons. Computes nothing.

`show.py` has what the other commands print.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from memstore.cli.show import UNTRAINED, PlainConsole, Values
from memstore.units import operations, size


def show_scores(report: Values) -> None:
    """`memstore score`."""
    console = PlainConsole()
    console.print(
        f"{report['questions']:,} questions, {report['questions_with_evidence']:,} of them with known pages "
        f"(pages by {report['page_key']}); 95% bootstrap intervals",
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "metric", "score", "low", "high"):
        table.add_column(name, justify="left" if name in ("", "metric") else "right")
    for group in ("downstream", "kilt", "retrieval"):
        for metric, found in report[group].items():
            table.add_row(group, metric, *(f"{100 * found[part]:.2f}" for part in ("value", "low", "high")))
    console.print_table(table)
    for note in report["notes"]:
        console.print(f"NOTE: {note}", style="yellow")


def show_labels(report: Values) -> None:
    """`memstore label`."""
    console, columns = PlainConsole(), list(report["sets"].values())
    console.print(f"{report['out']} is there already" if report["already"] else f"labelled {report['out']}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    shares = next((list(found["quantiles"]) for found in columns if found["quantiles"]), [])
    headings = ("questions", "read", "passages", "dropped", "chosen", "moved", *shares)
    for name in ("set", *headings):
        table.add_column(name, justify="left" if name == "set" else "right")
    for name, found in report["sets"].items():
        counts = (f"{found[key]:,}" for key in ("questions", "read", "passages", "dropped", "chosen"))
        table.add_row(name, *counts, f"{found['moved']:.1%}", *(f"{v:.2f}" for v in found["quantiles"].values()))
    console.print_table(table)
    console.print("chosen: another answer than the first is the likeliest; moved: so is another passage than the first")
    console.print("the last columns: quantiles of the likeliest passage's log-probability")


def show_asker_data(report: Values) -> None:
    """`memstore prepare-asker`."""
    console = PlainConsole()
    console.print(f"{report['out']} is there already" if report["already"] else f"prepared {report['out']}")
    for style, examples in report["examples"].items():
        console.print(f"{style}: {examples:,} examples of {report['questions'][style]:,} questions")


def show_generated(report: Values) -> None:
    """`memstore generate-questions`."""
    console, dropped = PlainConsole(), report["dropped"]
    console.print(f"{report['out']} is there already" if report["already"] else f"wrote {report['out']}")
    rate = f", {report['now'] / report['seconds']:.1f} a second" if report["now"] else ""
    console.print(f"{report['asked']:,} questions about {report['passages']:,} passages{rate}")
    console.print(f"kept {report['kept']:,}; left out: {', '.join(f'{k} {n:,}' for k, n in dropped.items()) or 'none'}")


def show_evaluation(report: Values) -> None:
    """`memstore evaluate`."""
    console, settings = PlainConsole(), report["settings"]
    if not report["model"]["trained"]:
        console.print(UNTRAINED, style="yellow")
    console.print(
        f"{report['model']['name']} ({report['model']['system']}) over {report['store']['passages']:,} passages, "
        f"{settings['retrieve_k']} retrieved and {_read(settings)}; in percent, with 95% bootstrap intervals",
    )
    for name, task in report["tasks"].items():
        _show_task(console, name, task)
    if len(report["tasks"]) > 1:
        console.print("\nall questions together")
        _show_confidence(console, report["confidence"])
    if report["plots"]:
        console.print(f"confidence, drawn: {report['plots']}")
    if report["errors"]:
        console.print(f"\nwrong answers to read: {report['errors']}")
    for message in report["unwritten"]:
        console.print(f"NOT WRITTEN: {message}", style="red")


def _read(settings: Values) -> str:
    """How many passages were read, as it was asked for."""
    by_mass = f" by a mass of {settings['keep_mass']:g}" if "keep_mass" in settings else ""
    cheap = f", for at most {settings['max_gflop']:g} GFLOP" if "max_gflop" in settings else ""
    return f"{'at most ' if by_mass or cheap else ''}{settings['keep_k']} read{by_mass}{cheap}"


def _show_task(console: PlainConsole, name: str, task: Values) -> None:
    """One file's answers, and its passages in both orders."""
    everything, answerable = task["groups"]["all"], task["groups"]["answerable"]
    sampled = f" (evenly spread, of {task['questions_in_file']:,})" if task["sampled"] else ""
    asked = f"as task {task['asked_as']}" if task["asked_as"] else "without a task"
    console.print(f"\n{name}: {task['questions']:,} questions{sampled} of {task['file']}, asked {asked}")
    console.print(
        f"answerable: {answerable['questions']:,}, {_interval(task['answerable'])}; known pages: "
        f"{task['questions_with_evidence']:,}; {task['cost']['seconds_per_question']:.3f} s per question",
    )
    table = _figures("answers", "all", "answerable", "majority", "1st title")
    for group in ("downstream", "kilt", "retrieval"):
        for metric, value in everything[group].items():
            floors = (_percent(everything["floors"][floor].get(metric)) for floor in ("majority_answer", "first_title"))
            table.add_row(metric, _interval(value), _interval(answerable[group].get(metric)), *floors)
    console.print_table(table)
    table = _figures("passages", "retrieved", "reranked", "gain", "answerable\nretrieved", "answerable\nreranked")
    for part, label in (("answers", "answer "), ("pages", "page ")):
        before, after, gain = (everything["orders"][order][part] for order in ("retrieved", "reranked", "gain"))
        found = [answerable["orders"][order][part] for order in ("retrieved", "reranked")]
        for metric, value in before.items():
            if part == "pages" and metric.startswith(("precision", "recall")) and metric != "precision@1":
                continue  # in the JSON: success says nearly the same
            name, figures = label + metric.replace("_rate", ""), [_percent(one.get(metric)) for one in found]
            table.add_row(name, _percent(value), _percent(after[metric]), _interval(gain[metric], 0), *figures)
    console.print_table(table)
    _show_confidence(console, task["confidence"])
    majority = task["majority_answer"]
    of = f"{majority['answer']!r}, of {Path(majority['file']).name}"
    console.print(f"majority answer: {of}; pages by {task['page_key']}")
    wrong = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in task["wrong"].items())
    console.print(f"wrong: {wrong}")
    for note in task["notes"]:
        console.print(f"NOTE: {note}", style="yellow")
    if task["predictions"]:
        console.print(f"predictions: {task['predictions']}")


def _show_confidence(console: PlainConsole, found: Values) -> None:
    """How well the confidences hold."""
    kind = "calibrated" if found["calibrated"] else "the model's own, not calibrated"
    console.print(f"confidence ({kind}): expected calibration error {100 * found['calibration_error']:.1f}")
    console.print(
        f"right ({found['metric']}): {_interval(found['precision'])} of all, "
        f"{_interval(found['precision_at_half'])} of the surest half"
    )
    if found["min_confidence"]:
        console.print(
            f"confidence {found['min_confidence']:g} or more: {found['answered']:,} of {found['answers']:,} answered, "
            f"{_percent_or_dash(found['precision_of_answered'])} right"
        )


def _percent_or_dash(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def show_calibration(report: Values) -> None:
    """`memstore calibrate`."""
    console = PlainConsole()
    questions = ", ".join(f"{task} {count:,}" for task, count in report["by_questions"].items())
    console.print(
        f"{report['model']['name']}: {report['method']}, fitted to {report['answers']:,} answers ({questions})"
    )
    table = _figures("held out", "answers right", "of the surest half", "calibration error")
    rows = {"questions": report["questions"], "tasks": report.get("tasks"), **report.get("by_task", {})}
    for name, found in rows.items():
        if found is not None:
            columns = ("precision", "precision_at_half", "calibration_error")
            table.add_row(name, *(_percent_or_dash(found[column]) for column in columns))
    console.print_table(table)
    console.print(f"in percent, right by {report['metric']}; calibration kept in {report['calibration']}")


def _figures(*names: str) -> Table:
    """A table of a name and figures, narrow enough for 80 columns."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def _percent(found: Values | None) -> str:
    return "" if found is None else _hundredfold(found["value"], 1)


def _interval(found: Values | None, decimals: int = 1) -> str:
    if found is None:
        return ""
    return f"{_percent(found)} [{_hundredfold(found['low'], decimals)}, {_hundredfold(found['high'], decimals)}]"


def _hundredfold(value: float, decimals: int) -> str:
    return f"{round(100 * value, decimals) + 0.0:.{decimals}f}"  # + 0.0: never -0


def show_costs(found: Values) -> None:
    """`memstore flops`."""
    console, lengths = PlainConsole(), found["lengths"]
    console.print(
        f"{found['model']}: a question of {lengths['question_tokens']} tokens, passages of "
        f"{lengths['passage_tokens']}, {lengths['new_tokens']} decoder steps of {lengths['num_beams']} beam(s). "
        "Counted, not measured; memories are there already.",
    )
    for title, name, shown in (
        ("operations", "flops", operations), ("bytes moved (bfloat16)", "bytes", size),
        ("parameters read", "parameters", "{:,}".format),
    ):  # fmt: skip
        table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
        table.add_column("")
        for system in found["systems"]:
            ks = f"{system['retrieve_k']} to {system['keep_k']}" if system["beta"] is not None else system["keep_k"]
            table.add_column(f"{_NAMES[system['system']]} {ks}", justify="right", no_wrap=True)
        for stage in found["systems"][0][name]:
            table.add_row(stage, *(shown(system[name][stage]) for system in found["systems"]))
        if name == "bytes":
            table.add_row("from an int8 store", *(size(system["store_bytes"]) for system in found["systems"]))
        console.print_table(table)
    layers = [
        f"{_NAMES[s['system']]} {_layers(s['layers'])}" for s in {s["system"]: s for s in found["systems"]}.values()
    ]
    console.print(f"encoder layers (memory + live_a + live_b): {', '.join(layers)}")


def show_comparison(found: Values) -> None:
    """`memstore compare`."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=found["title"], title_justify="left")
    for name in ("system", "retrieved", "read", "quality", "low", "high", "GFLOP", "ms"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for system in found["systems"].values():
        for p in system["points"]:
            quality = [f"{100 * p['quality'][part]:.1f}" for part in ("value", "low", "high")]
            ms = "" if p["ms"] is None else f"{p['ms']['median']:.1f}{'*' * p['front_ms']}"
            table.add_row(system["title"], str(p["retrieve_k"]), str(p["keep_k"]), *quality,
                          f"{p['flops'] / 1e9:.3g}{'*' * p['front_flops']}", ms)  # fmt: skip
    PlainConsole().print_table(table)
    PlainConsole().print(f"* on the Pareto front. The report: {found['out']}/report.md")


_NAMES = {"fid": "FiD", "lumen": "LUMEN", "glimmer": "GLIMMER"}


def _layers(layers: Mapping[str, int]) -> str:
    return "+".join(str(layers[part]) for part in ("memory", "live_a", "live_b"))
