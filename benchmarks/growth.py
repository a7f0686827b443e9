"""Growth: what a question, memory and start-up cost as the store grows from 1k to 30k to 350k passages.

Each round of each store is a process of its own: `memstore serve` until it says that it is ready, and then this file
as a program, which opens the store, answers all questions once to warm the page cache, and times them one after
another. Stores that are given (`--store`) stand for the size they have; what is missing is built in the run, of the
first passages of the largest given store and with its model, or of generated ones (60 to 100 words) with a very small
model, where reading is cheap and what grows shows. 350k passages are built only with `--large`. The baseline is the
smallest store; all are asked the same questions.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import TOTAL, Options, Report, Times, ratio
from benchmarks.inputs import questions_of, read_passages
from benchmarks.serving import built_store, serving
from memstore import checkpoint
from memstore.answer import Answerer, Question
from memstore.model import MemoryModel
from memstore.passage import Passage
from memstore.runtime import tune_allocator
from memstore.store import Store
from memstore.tokens import TextTokenizer

SIZES = {"1k": 1000, "30k": 30_000, "350k": 350_000}
QUICK_SIZES = {"1k": 60, "30k": 120, "350k": 180}
LARGE = "350k"
NEAR = 1.25  # a store given stands for a size that it is within this factor of
QUESTIONS, ROUNDS = 40, 3
RETRIEVE_K, KEEP_K, NEW_TOKENS = 40, 10, 16
SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "alpha": 0.5, "num_decoder_layers": 1,
         "embedding_dim": 0, "name": "benchmark-small", "trained": False}  # fmt: skip
START_UP, MEMORY = "start to ready", "peak_memory"


@dataclass(frozen=True, slots=True)
class Grown:
    """A store of one of the sizes."""

    size: str
    store: Path
    passages: int
    given: bool


def run(options: Options) -> Report:
    """Build what is missing; then every store in turns, another one first in each round."""
    sizes = QUICK_SIZES if options.quick else SIZES
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name:
        stores = list(_stores(options, sizes, Path(name)))
        count, rounds = (2, 1) if options.quick else (QUESTIONS, ROUNDS)
        questions = Path(name) / "questions.json"
        questions.write_text(json.dumps(_questions(stores[0].store, count)), encoding="utf-8")
        kept: dict[str, list[dict[str, float]]] = {s.size: [] for s in stores}
        for r in range(rounds):
            first = r % len(stores)
            for grown in stores[first:] + stores[:first]:
                kept[grown.size].append(_measure(grown.store, questions))
        model = str(Store.open(stores[0].store).generation.settings.get("model"))
        gigabytes = {s.size: _bytes(s.store) / 1e9 for s in stores}
    times = {size: Times(tuple(measured)) for size, measured in kept.items()}
    smallest = stores[0]
    return Report(
        name="growth",
        claim=f"time per question of the store of {smallest.passages:,} passages over that of larger ones",
        settings={
            "questions": count,
            "rounds": rounds,
            "retrieve_k": RETRIEVE_K,
            "keep_k": KEEP_K,
            "new_tokens": NEW_TOKENS,
            "model": "the stores'" if any(s.given for s in stores) else "very small",
            "page_cache": "warm",
        }
        | ({"model_name": Path(model).name} if any(s.given for s in stores) else {}),
        ratios=[ratio(f"{s.passages:,} passages", times[smallest.size].of(), times[s.size].of()) for s in stores[1:]],
        times={f"{s.passages:,} passages": _milliseconds(times[s.size]) for s in stores},
        rows=[_row(s, times[s.size], gigabytes[s.size]) for s in stores]
        + [_not_run(size) for size in sizes if size not in kept],
    )


# --- stores ---------------------------------------------------------------------------------------------------


def _stores(options: Options, sizes: Mapping[str, int], folder: Path) -> Iterator[Grown]:
    """One store per size, ascending; the largest only where it is given, asked for, or tiny."""
    given = {len(opened): path for path in options.stores for opened in [Store.open(path)]}
    largest = given[max(given)] if given else None
    model = str(Store.open(largest).generation.settings["model"]) if largest else str(_small_model(folder / "model"))
    for size, passages in sizes.items():
        near = [count for count in given if 1 / NEAR <= count / passages <= NEAR]
        if near:
            yield Grown(size, given[near[0]], near[0], given=True)
        elif size != LARGE or options.large or options.quick:
            corpus = folder / f"{size}.jsonl"
            _write_passages(corpus, _passages(options, largest, passages))
            out = built_store(corpus, folder / size, limit=passages, model=model)
            corpus.unlink()
            yield Grown(size, out, len(Store.open(out)), given=False)


def _passages(options: Options, largest: Path | None, count: int) -> Iterator[Passage]:
    if largest is not None and len(opened := Store.open(largest)) >= count:
        return itertools.islice(opened.iter_passages(), count)
    return iter(read_passages(options, count))


def _write_passages(path: Path, passages: Iterator[Passage]) -> None:
    """As a corpus of ready passages."""
    with path.open("w", encoding="utf-8") as file:
        for p in passages:
            row = {"id": p.id, "document_id": p.document_id, "title": p.title, "text": p.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _small_model(folder: Path) -> Path:
    """A random model that reads little, with the default model's tokenizer."""
    default = checkpoint.default_checkpoint()
    config = checkpoint.load(default)[0].config.replace(**SMALL)
    model = MemoryModel(config)
    model.initialise(0)
    checkpoint.save(folder, model, TextTokenizer(checkpoint.read_tokenizer(default), config))
    return folder


def _questions(store: Path, count: int) -> list[str]:
    opened = Store.open(store)
    return questions_of(opened.passages(opened.ids([i * len(opened) // count for i in range(count)])))


def _bytes(store: Path) -> int:
    return sum(p.stat().st_size for p in store.rglob("*") if p.is_file())


# --- measuring ------------------------------------------------------------------------------------------------


def _measure(store: Path, questions: Path) -> dict[str, float]:
    """One round of one store: its stages' medians, milliseconds; and the peak memory of the process, in bytes."""
    with serving(store) as server:
        start_up = server.start_up
    command = [sys.executable, "-m", "benchmarks.growth", str(store), str(questions)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return {START_UP: start_up} | found


def ask_all(store: Path, questions: Sequence[str]) -> dict[str, float]:
    """The measuring process: opens a store, asks, and tells medians in milliseconds and its peak memory in bytes."""
    answerer = Answerer.open(store)
    k = min(RETRIEVE_K, len(answerer.store))
    asked = [Question(text=q, retrieve_k=k, keep_k=min(KEEP_K, k), max_new_tokens=NEW_TOKENS) for q in questions]
    rounds: list[dict[str, float]] = []
    for timed in (False, True):
        for question in asked:
            begin = time.perf_counter()
            (answer,) = answerer.answer([question])
            if timed:
                rounds.append({TOTAL: (time.perf_counter() - begin) * 1e3} | answer.usage.milliseconds)
    medians = {stage: statistics.median(r[stage] for r in rounds) for stage in rounds[0]}
    unit = 1 if sys.platform == "darwin" else 1024
    return medians | {MEMORY: float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}


# --- telling --------------------------------------------------------------------------------------------------


def _row(grown: Grown, times: Times, gigabytes: float) -> dict[str, float | int | str]:
    return {
        "passages": f"{grown.passages:,}",
        "per question, ms": times.median(),
        "of it retrieve": times.median("retrieve"),
        "load": times.median("load"),
        "peak memory, GB": max(times.of(MEMORY)) / 1e9,
        "start to ready, s": times.median(START_UP) / 1e3,
        "on disk, GB": gigabytes,
    }


def _milliseconds(times: Times) -> dict[str, dict[str, float]]:
    return {stage: values for stage, values in times.summary().items() if stage != MEMORY}


def _not_run(size: str) -> dict[str, float | int | str]:
    return {"passages": f"{size}: not run"}


if __name__ == "__main__":
    tune_allocator()
    print(json.dumps(ask_all(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))
