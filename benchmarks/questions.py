"""Asks a running server real questions, one after another, and reports each stage's median and 95th percentile.

    python -m benchmarks.questions --url http://127.0.0.1:8080 --data nq.dev.jsonl.zst --questions 200

The file has rows in KILT's form (`{"input": ...}`), plain or compressed. Questions go over HTTP, as a user's would. The
first ones are asked once before, to warm the server up, and do not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

from benchmarks.common import percentile
from memstore.errors import MemstoreError
from memstore.files import make_place, write_text
from memstore.questions.files import read_questions
from memstore_client import AnswerReply, Client

WARM_UP = 5
STAGES = ("queue", "retrieve", "load", "question", "live_a", "live_b", "decode", "total")


def main() -> None:
    """The command: ask, print the figures, and write them as JSON if `--json` is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        if options.json:
            make_place(options.json, inputs=[options.data])
    except MemstoreError as error:
        parser.error(str(error))
    replies: list[AnswerReply] = []
    seen: list[float] = []  # milliseconds by the client's clock
    with Client(options.url, timeout=300) as client:
        asked = [row.input for row in itertools.islice(read_questions(options.data), options.questions)]
        for question in asked[:WARM_UP]:
            client.answer(question, max_new_tokens=options.max_new_tokens)
        for question in asked:
            begin = time.perf_counter()
            replies.append(client.answer(question, max_new_tokens=options.max_new_tokens))
            seen.append((time.perf_counter() - begin) * 1e3)
        info = client.info().model_dump()
    stages = {s: [r.usage.milliseconds[s] for r in replies] for s in STAGES} | {"client": seen}
    result = {
        "questions": len(replies),
        "failed": 0,  # the client raises on the first failure
        "milliseconds": {s: {"median": statistics.median(v), "p95": percentile(v, 0.95)} for s, v in stages.items()},
        "passages": statistics.mean(len(r.passages) for r in replies),
        "bytes_read": statistics.median(r.usage.bytes_read for r in replies),
        "flops": statistics.median(sum(r.usage.flops.values()) for r in replies),
        "fid_flops": statistics.median(r.usage.fid_flops for r in replies),
        "info": info,
    }
    print(f"{len(replies)} questions, {result['passages']:.1f} passages each; milliseconds:")
    for stage, values in result["milliseconds"].items():
        print(f"  {stage:>9}  median {values['median']:8.2f}   95th percentile {values['p95']:8.2f}")
    print(f"operations: {result['flops'] / 1e9:.2f} GFLOP, FiD {result['fid_flops'] / 1e9:.2f} GFLOP (medians)")
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
