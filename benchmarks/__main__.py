"""`python -m benchmarks`: runs all benchmarks, or those named, prints their tables and writes JSON.

A full run is recorded in `results/<date>.json`, and the tables of benchmarks/README.md are made from it. A run is full
if it names no benchmark, and has none of --json, --quick, --device and --size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import BENCHMARKS, BY_NAME, ON_DEVICE, table
from benchmarks.common import Neighbours, Options, machine, show
from memstore.errors import ConfigError, MemstoreError, OutputUnwritable
from memstore.files import make_place, write_text
from memstore.machine import compute_dtype, tune_allocator


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks. The exit code is 0 whatever the figures are, 2 for a wrong option."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["table"]:
        return table.main(arguments[1:])
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - {*BENCHMARKS, *BY_NAME}):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join((*BENCHMARKS, *BY_NAME))}")
    elsewhere = chosen.device != "cpu" or chosen.size is not None
    names = chosen.names or (ON_DEVICE if elsewhere else BENCHMARKS)
    if elsewhere and (unfit := sorted(set(names) - set(ON_DEVICE))):
        parser.error(f"--device and --size are for {' and '.join(ON_DEVICE)}, not for {', '.join(unfit)}")
    options = Options(
        quick=chosen.quick,
        large=chosen.large,
        stores=tuple(chosen.store),
        corpus=chosen.corpus,
        data=chosen.data,
        llm=chosen.llm,
        limit=chosen.limit,
        seconds=chosen.seconds,
        device=chosen.device,
        size=chosen.size,
        passages=chosen.passages,
        model=chosen.model,
    )
    record = not (chosen.names or chosen.json or chosen.quick or elsewhere)  # a full run
    today = datetime.now(UTC).date().isoformat()
    path = table.RESULTS / f"{today}.json" if record else chosen.json
    try:
        if path is not None:
            make_place(path, inputs=[*options.stores, *([options.corpus] if options.corpus else [])])
    except MemstoreError as error:
        parser.error(str(error))
    tune_allocator()  # for the baselines too
    facts = machine(compute_dtype(chosen.device), chosen.device)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if options.quick:
        print("QUICK: tiny models and few rounds; these figures mean nothing")
    reports: list[dict[str, Any]] = []
    for name in names:
        try:
            reports.append(_run(name, options))
            if path is not None:  # after each, so that a later failure loses nothing
                values = {"quick": options.quick, "date": today, "machine": facts, "benchmarks": reports}
                write_text(path, json.dumps(values, indent=1) + "\n")
        except (ConfigError, OutputUnwritable) as error:
            parser.error(f"{name}: {error}")
    return table.main([str(path)]) if record else 0


def _run(name: str, options: Options) -> dict[str, Any]:
    """Run one benchmark and print it. Returns its figures as JSON values."""
    begin, neighbours = time.perf_counter(), Neighbours()
    report = importlib.import_module(f"benchmarks.{name}").run(options)
    show(report)
    spent = {"seconds": time.perf_counter() - begin, "cores_taken_by_others": neighbours.cores()}
    print("  " + ", ".join(f"{key} {value:.2f}" for key, value in spent.items()), flush=True)
    figures: dict[str, Any] = report.to_dict()
    return figures | {key: round(value, 2) for key, value in spent.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"benchmarks to run; by default all: {', '.join(BENCHMARKS)}; only by name: {', '.join(BY_NAME)}",
    )  # fmt: skip
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all figures here; leave benchmarks/README.md and results/ as they are",
    )
    parser.add_argument("--quick", action="store_true", help="tiny models and few rounds, to see that it runs")
    parser.add_argument("--large", action="store_true", help="also build and measure what takes many minutes")
    parser.add_argument(
        "--store",
        type=_existing,
        action="append",
        default=[],
        metavar="DIR",
        help="a finished store, for `store`, `growth`, `profile`, `llm` and `budgets`; repeat for `growth`",
    )
    parser.add_argument(
        "--data", type=_existing, metavar="FILE", help="questions with answers in KILT's form, for `llm` and `budgets`"
    )
    parser.add_argument("--llm", type=_existing, metavar="FILE", help="the GGUF file of the model that `llm` asks")
    parser.add_argument(
        "--corpus", type=_existing, metavar="FILE", help="documents, for all but `reader`, `store` and `decode`"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="documents: the most of the corpus, for `growing`; added by `adding`; questions, for `budgets`",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="how long `replicas` and each part of `overload` run, and `adding` asks alone",
    )
    parser.add_argument(
        "--device", type=_device, default="cpu", help="cpu, cuda, cuda:1, ...: where `reader` and `builder` compute"
    )
    parser.add_argument("--passages", type=int, metavar="N", help="passages that `filters` searches")
    parser.add_argument(
        "--model", metavar="MODEL", help="the checkpoint that `growing` builds with, by default a very small random one"
    )
    parser.add_argument("--size", choices=("base", "large"), help="the T5 whose shape these two take")
    return parser


def _device(text: str) -> str:
    """The name of a device that can compute, for argparse."""
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"cannot compute on {text!r}: {reason}") from None
    return text


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is nothing at {path}")
    return path


if __name__ == "__main__":
    sys.exit(main())
