"""`python -m benchmarks`: runs the benchmarks named, or all of them, prints their tables and writes JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Neighbours, Options, machine, show
from memstore.runtime import compute_dtype, tune_allocator

BENCHMARKS = ("reader", "builder", "store", "decode", "retrieval", "load", "growth")


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is 0 whatever the figures are, 2 for a wrong option."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options = Options(quick=chosen.quick, large=chosen.large, stores=tuple(chosen.store), corpus=chosen.corpus)
    tune_allocator()  # for the baselines as for ours
    facts = machine(compute_dtype("cpu"))
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if options.quick:
        print("QUICK: tiny models and few rounds; these figures mean nothing")
    reports: list[dict[str, Any]] = []
    for name in chosen.names or BENCHMARKS:
        begin, neighbours = time.perf_counter(), Neighbours()
        report = importlib.import_module(f"benchmarks.{name}").run(options)
        show(report)
        spent = {"seconds": time.perf_counter() - begin, "cores_taken_by_others": neighbours.cores()}
        print("  " + ", ".join(f"{key} {value:.2f}" for key, value in spent.items()), flush=True)
        reports.append(report.to_dict() | {key: round(value, 2) for key, value in spent.items()})
    if chosen.json is not None:
        values = {"quick": options.quick, "machine": facts, "benchmarks": reports}
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all by default: {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    parser.add_argument("--quick", action="store_true", help="tiny models and few rounds, to see that it runs")
    parser.add_argument("--large", action="store_true", help="also build and measure what takes many minutes")
    parser.add_argument(
        "--store",
        type=_existing,
        action="append",
        default=[],
        metavar="DIR",
        help="a finished store, for `store`, `growth` and `profile`; repeat for `growth`",
    )
    parser.add_argument(
        "--corpus", type=_existing, metavar="FILE", help="documents, for `builder`, `retrieval`, `load` and `growth`"
    )
    return parser


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is nothing at {path}")
    return path


if __name__ == "__main__":
    sys.exit(main())
