"""What commands print for people. Takes the same plain values that `--json` prints; computes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from memstore.metadata import in_words
from memstore.units import duration, size

Values = Mapping[str, Any]
UNTRAINED = "This model is UNTRAINED: its weights are random, so the answer and the ranking mean nothing."
NOTHING_FOUND = "no passage was found: this answer is a guess"
_GAP, _LEAST_ID, _LEAST_TEXT, _MOST_TEXT = 2, 24, 16, 60  # of the table of passages, in columns and characters
_ANY_WIDTH = 10_000
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
STAGES = ("queue", "retrieve", "load", "question", "live_a", "live_b", "decode")


class StageLines:
    """Progress of a long command as lines of text: a stage's counts, every ten seconds and at its end."""

    EVERY = 10.0  # seconds

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said_at = say, time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done."""
        if done >= total or time.monotonic() - self._said_at > self.EVERY:
            self._said_at = time.monotonic()
            self._say(f"{stage}: {done:,}/{total:,}")


class PlainConsole(Console):
    """Prints texts as they are: no `[markup]`, no `:emoji:`, and no control character acts on the terminal."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """See `Console.render_str`, which all text goes through, that of tables too."""
        return super().render_str(text.translate(_CONTROL), **settings)

    def print_table(self, table: Table) -> None:
        """Prints a table that shortens no figure: where the terminal is narrower than its words, it is wider."""
        least = Measurement.get(self, self.options.update_width(_ANY_WIDTH), table).minimum
        table.width = least if least > self.width else table.width
        self.print(table)


def _pairs(title: str, rows: Sequence[tuple[str, str]]) -> None:
    console = PlainConsole()
    console.print(title, style="table.title")  # a title of the table's own would be broken at the table's width
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.print_table(table)


def show_build(report: Values) -> None:
    """`memstore build`."""
    if report["already_built"]:
        PlainConsole().print(f"{report['out']} is built already: {report['passages']:,} passages. Nothing to do.")
        for _, line in _too_long(report, report["max_passage_tokens"]):
            PlainConsole().print(f"too long: {line}")
        return
    rows = [
        ("documents", f"{report['documents']:,}"),
        ("passages", f"{report['passages']:,} ({report['duplicates']:,} exact duplicates stored once)"),
        ("tokens", f"{report['tokens']:,}"),
        ("on disk", f"{size(report['store_bytes'])} ({report['bytes_per_token']:.1f} bytes per token; "
                    f"{size(report['predicted_bytes'])} predicted)"),
        ("segments", f"{report['segments']} ({report['resumed_segments']} found from an earlier run)"),
        ("encoding", f"{report['passages_per_second']:,.0f} passages/s"),
        ("time", ", ".join(f"{name} {duration(s)}" for name, s in report["seconds"].items())),
        ("peak memory", size(report["peak_resident_bytes"])),
    ]  # fmt: skip
    rows += _too_long(report, report["max_passage_tokens"])
    if report["rows_skipped"]:
        rows.append(("rows skipped", f"{report['rows_skipped']:,}"))
        rows += [("", str(error)) for error in report["errors"]]
    _pairs(f"built {report['out']}", rows)


_UNSEEN = "are longer than the model reads{most}: it does not see their end"


def _too_long(found: Values, most: int) -> list[tuple[str, str]]:
    """Rows about passages longer than the model reads; none where there were none."""
    rows = []
    if found.get("split"):
        what = f"{found['split']:,} passages longer than the model reads ({most} tokens), split into {found['parts']:,}"
        rows.append(("too long", what))
    if found.get("cut"):
        rows.append(("too long", f"{found['cut']:,} passages {_UNSEEN.format(most=f' ({most} tokens)')}"))
    return rows


def show_plan(plan: Values) -> None:
    """`memstore plan`."""
    rows = [
        ("documents", f"{plan['documents']:,}"),
        ("passages", f"{plan['passages']:,} ({plan['duplicates']:,} exact duplicates stored once)"),
        ("tokens", f"about {plan['tokens']:,}"),
        ("store", f"about {size(plan['store_bytes'])}: memories and texts {size(plan['memory_bytes'])} "
                  f"({plan['bytes_per_token']:.1f} bytes per token), index {size(plan['index_bytes'])}"),
        ("while building", f"{size(plan['spool_bytes'])} more"),
        ("encoding here", f"about {duration(plan['seconds'])} at {plan['passages_per_second']:,.0f} passages/s"),
    ]  # fmt: skip
    rows += _too_long(plan, plan["max_passage_tokens"])
    if plan["rows_skipped"]:
        rows.append(("rows skipped", f"{plan['rows_skipped']:,}"))
    _pairs("a build would make", rows)


_SHOWN = ("max_words", "limit", "on_error", "on_long")


def show_store(store: Values) -> None:
    """`memstore inspect`."""
    settings, fingerprint, shards = store["settings"], store["fingerprint"], store.get("shards", {})
    trained = "" if settings.get("trained", True) else " (UNTRAINED)"
    tables = f", {size(store['codec_bytes'])} learned by the codec" if store["codec_bytes"] else ""
    rows = [
        ("generation", f"{store['generation']} (format {store['format_version']}), {len(store['generations'])} kept"),
        ("passages", f"{store['passages']:,} in {store['segments']} segments"),
        *(("  " + name, f"{one['passages']:,}, generation {one['generation']}") for name, one in shards.items()),
        *(
            [("deleted", f"{store['deleted']:,} passages, {size(store['dead_bytes'])}: `memstore compact` frees them")]
            if store["dead_bytes"]
            else []
        ),
        ("tokens", f"{store['tokens']:,}"),
        ("codec", f"{store['codec']}, {store['bytes_per_token']:.1f} bytes per token with texts"),
        ("size", f"{size(store['segment_bytes'])} segments, {size(store['index_bytes'])} index{tables}"),
        ("retriever", store["retriever"]),
        *([("metadata", in_words(store["metadata"]))] if store["metadata"] else []),
        ("model", f"{settings.get('model')} {settings.get('model_name', '')}{trained}"),
        *((f"  {name}", str(value)) for name, value in fingerprint.items()),
        ("corpus", ", ".join(f"{c['name']}" for c in settings.get("corpus", []))),
        *((f"  {name}", str(value)) for name, value in (store["source"].get("content") or {}).items()),
        ("settings", ", ".join(f"{k}={v}" for k, v in settings.items() if k in _SHOWN)),
        *_too_long(store["source"], fingerprint["max_passage_tokens"]),
        ("made by", ", ".join(f"{name} {version}" for name, version in store["made_by"].items())),
    ]
    _pairs(store["store"], rows)


def show_verification(found: Values) -> None:
    """`memstore verify`."""
    console = PlainConsole()
    for problem in found["problems"]:
        console.print(f"{problem['kind']}: {problem['where']}: {problem['message']}")
    for name in found["foreign"]:
        console.print(f"foreign: {name} is no file of the store; nothing reads it, and it may be removed")
    if found["sound"]:
        console.print(
            f"sound: {found['passages']:,} passages, every checksum and count holds; {found['sampled']} memories made "
            f"again differ by at most {found['largest_difference']:.2%}"
        )
        if found["cut"]:
            console.print(f"{found['cut']:,} passages {_UNSEEN.format(most='')}")
        elif found["sampled_cut"]:
            cut, sampled = found["sampled_cut"], found["sampled"]
            console.print(f"{cut:,} of the {sampled:,} sampled passages {_UNSEEN.format(most='')}")
        if found["dead_bytes"] or len(found["generations"]) > 1:
            console.print(
                f"{len(found['generations'])} generations are kept; {found['dead_passages']:,} passages are dead, "
                f"{size(found['dead_bytes'])}: `memstore compact` frees them"
            )
        if found["absent"]:
            console.print(f"nothing is left of: {', '.join(found['absent'])}")
    else:
        console.print(f"NOT sound: {len(found['problems'])} problem(s)")


def show_answer(reply: Values, *, most_passages: int = 5) -> None:
    """`memstore ask`."""
    console = PlainConsole()
    if not reply["model"]["trained"]:
        console.print(UNTRAINED, style="yellow")
    answer = f"none, {reply['reason']}" if reply["answer"] is None else reply["answer"] or "(an empty answer)"
    console.print(f"answer: {answer}", end="")
    show_rest_of_answer(reply, most_passages=most_passages)


def show_rest_of_answer(reply: Values, *, most_passages: int = 5) -> None:
    """What comes after the answer's text, from the same line on."""
    console = PlainConsole()
    sure = f"confidence {reply['confidence']:.2f}{'' if reply['calibrated'] else ' (not calibrated)'}"
    console.print(f"   [{sure}, log-probability {reply['score']:.2f}]")
    if places := list(dict.fromkeys(one["passage_id"] for one in reply["citations"])):
        console.print(f"stands in: {', '.join(map(_line, places))}")
    if reply["passages"]:
        _show_passages(reply["passages"], most_passages)
    else:
        console.print(NOTHING_FOUND)
    if reply.get("cut"):
        console.print("the answer was cut off at its length limit (--max-new-tokens)")
    if lowered := reply.get("lowered"):
        asked = f"{lowered['retrieve_k']} passages found and {lowered['keep_k']} read"
        console.print(f"fewer passages than asked for ({asked}), for {' and '.join(lowered['reasons'])}")
    show_usage(reply["usage"])


def _show_passages(passages: Sequence[Values], most: int) -> None:
    """The best of those that were read, and by what they are ordered."""
    kept = [p for p in passages if p["kept"]]
    reranked = passages[0]["rerank_score"] is not None
    order = "reranked, best first; #N: the retriever's place" if reranked else "best first"
    console = PlainConsole()
    console.print(f"{len(kept)} passages read of {len(passages)} retrieved ({order})")
    console.print_table(_passage_table(kept[:most], console.width))


def _passage_table(passages: Sequence[Values], width: int) -> Table:
    """Scores first and whole, on any terminal; ids and then texts get what is left of its width."""
    scores: dict[str, Callable[[Values], str]] = {"rerank": _rerank, "retrieved": _retrieved}
    if passages[0].get("attention") is not None:
        scores["attention"] = lambda p: f"{p['attention']:.0%}"
    rows = [
        (
            *(cell(p) for cell in scores.values()),
            _line(p["id"]),
            _line(f"{p['title']}: {p['text'][:_MOST_TEXT]}") + "...",
        )
        for p in passages
    ]
    names = (*scores, "id", "passage")
    widths = [max(cell_len(cell) for cell in column) for column in zip(names, *rows, strict=True)]
    left = width - _GAP * len(names) - sum(widths[:-2])
    widths[-2] = min(widths[-2], max(_LEAST_ID, left - _LEAST_TEXT))
    widths[-1] = min(widths[-1], max(_LEAST_TEXT, left - widths[-2]))
    table = Table(box=None, padding=(0, _GAP, 0, 0))
    for name, cells in zip(names, widths, strict=True):
        table.add_column(name, justify="right" if name in scores else "left", no_wrap=True, width=cells)
    for row in rows:
        table.add_row(*row)
    return table


def _rerank(passage: Values) -> str:
    return "" if passage["rerank_score"] is None else f"{passage['rerank_score']:.3f}"


def _retrieved(passage: Values) -> str:
    rank = passage["retrieval_rank"]
    return "own" if rank is None else f"#{rank} {passage['retrieval_score']:.2f}"


def _line(text: str) -> str:
    return " ".join(text.split()).translate(_CONTROL)


def show_usage(usage: Values) -> None:
    """Milliseconds and operations per stage, against FiD."""
    times, flops = usage["milliseconds"], usage["flops"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    stages = [s for s in STAGES if s in times]
    table.add_column("")
    for stage in [*stages, "sum", "FiD"]:
        table.add_column(stage, justify="right", no_wrap=True)
    total = sum(flops.values())
    table.add_row("ms", *(f"{times[s]:.1f}" for s in stages), f"{sum(times[s] for s in stages):.1f}", "")
    fid = usage["fid_flops"]
    table.add_row("GFLOP", *(f"{flops[s] / 1e9:.2f}" if s in flops else "" for s in stages),
                  f"{total / 1e9:.2f}", f"{fid / 1e9:.2f}")  # fmt: skip
    PlainConsole().print_table(table)
    saved = total and usage["bytes_read"]  # nothing is saved where no memory was read
    share = f"; {fid / total:.1f} times fewer operations than FiD reading all of them" if saved else ""
    PlainConsole().print(f"{size(usage['bytes_read'])} of memories read{share}")


def show_training(report: Values) -> None:
    """`memstore train`."""
    rows = [
        ("steps", f"{report['step']:,}{'' if report['finished'] else ' (not finished: run it again to go on)'}"),
        ("tokens", f"{report['tokens']:,} in {duration(report['seconds'])}"),
        ("best", "nothing was measured" if report["best_step"] is None
                 else f"{report['best_score']:.3f} at step {report['best_step']:,}"),
        ("checkpoint", str(report["checkpoint"])),
        *((task, ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
          for task, scores in report["scores"].items()),
    ]  # fmt: skip
    _pairs(f"trained {report['out']}", rows)


def show_prepared(report: Values) -> None:
    """`memstore prepare`."""
    rows = [
        ("passages", f"{report['passages']:,}, {report['tokens']:,} tokens, {size(report['bytes'])}"),
        ("time", ", ".join(f"{name} {duration(s)}" for name, s in report["seconds"].items())),
        *(
            (name, ", ".join(f"{key} {value}" for key, value in found.items()))
            for name, found in report["sets"].items()
        ),
    ]
    _pairs(f"{report['out']} is there already" if report["already"] else f"prepared {report['out']}", rows)
