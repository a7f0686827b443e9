"""Growth: the time of a question, memory and start-up as the store grows from 1k to 30k to 350k passages.

A process for each store (this file as a program) opens it, and answers all questions once to warm the page cache. Then
all processes get the same questions, one at a time and in turns, so that a busy machine slows all of them equally.
Start-up is the time until `memstore serve` says that it is ready.

Given stores (`--store`) are used for the sizes that they have. Missing sizes are built in the run: from the first
passages of the largest given store, with its model; or from generated passages (60 to 100 words), with a very small
model, so that reading is cheap and what grows is visible. 350k passages are built only with `--large`. The baseline is
the smallest store.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Options, Report, Subject, ratio, take_turns
from benchmarks.inputs import questions_of, read_passages
from benchmarks.serving import built_store, serving
from memstore import checkpoint
from memstore.answer import Answerer, Question
from memstore.checkpoint.files import read_tokenizer
from memstore.errors import ConfigError
from memstore.machine import StageTimer, tune_allocator
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore.store import Store

SIZES = {"1k": 1000, "30k": 30_000, "350k": 350_000}
QUICK_SIZES = {"1k": 60, "30k": 120, "350k": 180}
LARGE = "350k"
NEAR = 1.25  # a given store is used for a size if it is within this factor of it
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
    """Build missing stores. Then start a server on every store, and ask every store, in turns."""
    sizes = QUICK_SIZES if options.quick else SIZES
    count, rounds = (2, 1) if options.quick else (QUESTIONS, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as name, ExitStack() as stack:
        stores = list(_stores(options, sizes, Path(name)))
        start_ups = take_turns({s.size: _start_up(s.store) for s in stores}, rounds=rounds, warm_ups=0)
        questions = _questions(stores[0].store, count)
        askers = {s.size: stack.enter_context(_asker(s.store)) for s in stores}
        for asker in askers.values():
            for question in questions:
                asker.ask(question)
        subjects = {size: _subject(asker, questions) for size, asker in askers.items()}
        times = take_turns(subjects, rounds=count, warm_ups=0)
        memory = {size: asker.ask("")[MEMORY] for size, asker in askers.items()}
        model = str(Store.open(stores[0].store).generation.settings.get("model"))
        gigabytes = {s.size: _bytes(s.store) / 1e9 for s in stores}
    smallest = stores[0]
    return Report(
        name="growth",
        claim=f"time per question of the store of {smallest.passages:,} passages over that of larger ones",
        settings={
            "questions": count,
            "start_ups": rounds,
            "retrieve_k": RETRIEVE_K,
            "keep_k": KEEP_K,
            "new_tokens": NEW_TOKENS,
            "model": "the stores'" if any(s.given for s in stores) else "very small",
            "page_cache": "warm",
        }
        | ({"model_name": Path(model).name} if any(s.given for s in stores) else {}),
        ratios=[ratio(f"{s.passages:,} passages", times[smallest.size].of(), times[s.size].of()) for s in stores[1:]],
        times={f"{s.passages:,} passages": times[s.size].summary() for s in stores}
        | {f"{s.passages:,} passages, server": start_ups[s.size].summary() for s in stores},
        rows=[
            {
                "passages": f"{s.passages:,}",
                "per question, ms": times[s.size].median(),
                "of it retrieve": times[s.size].median("retrieve"),
                "load": times[s.size].median("load"),
                "peak memory, GB": memory[s.size] / 1e9,
                "start to ready, s": start_ups[s.size].median(START_UP) / 1e3,
                "on disk, GB": gigabytes[s.size],
            }
            for s in stores
        ]
        + [{"passages": f"{size}: not run"} for size in sizes if size not in askers],
    )


# --- stores ---------------------------------------------------------------------------------------------------


def _stores(options: Options, sizes: Mapping[str, int], folder: Path) -> Iterator[Grown]:
    """A store for each size, ascending; the largest only if it is given, asked for, or tiny."""
    opened = [Store.open(path) for path in options.stores]
    if len({store.fingerprint for store in opened}) > 1:
        raise ConfigError("the stores were made by different models, so their times cannot be compared: give others")
    given = {len(store): store.path for store in opened}
    largest = given[max(given)] if given else None
    model = str(Store.open(largest).generation.settings["model"]) if largest else str(small_model(folder / "model"))
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
    """Write a corpus of ready passages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for p in passages:
            row = {"id": p.id, "document_id": p.document_id, "title": p.title, "text": p.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def small_model(folder: Path, *, embedding_dim: int = 0) -> Path:
    """The folder of a very small random model, with the default model's tokenizer."""
    default = checkpoint.default_checkpoint()
    config = checkpoint.read_config(default).replace(**SMALL | {"embedding_dim": embedding_dim})
    model = MemoryModel(config)
    model.initialise(0)
    checkpoint.save(folder, model, TextTokenizer(read_tokenizer(default), config))
    return folder


def _questions(store: Path, count: int) -> list[str]:
    opened = Store.open(store)
    return questions_of(opened.passages(opened.ids([i * len(opened) // count for i in range(count)])))


def _bytes(store: Path) -> int:
    return sum(p.stat().st_size for p in store.rglob("*") if p.is_file())


# --- measuring ------------------------------------------------------------------------------------------------


def _start_up(store: Path) -> Subject:
    def work(stages: StageTimer) -> None:
        with serving(store) as server:
            stages.milliseconds[START_UP] = server.start_up

    return work


def _subject(asker: Asker, questions: Sequence[str]) -> Subject:
    rest = iter(questions)

    def work(stages: StageTimer) -> None:
        stages.milliseconds |= asker.ask(next(rest))

    return work


@dataclass(frozen=True, slots=True)
class Asker:
    """A process that has a store open."""

    process: subprocess.Popen[str]

    def ask(self, question: str) -> dict[str, float]:
        """The milliseconds of an answer by stage. For an empty question, the process's peak memory in bytes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # the process has ended, and there is no line to read
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the asking process ended with code {self.process.wait()}: its own message is above")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def _asker(store: Path) -> Iterator[Asker]:
    command = [sys.executable, "-m", "benchmarks.growth", str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Asker(process)
        finally:
            process.terminate()
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()


def _answer_questions(store: Path) -> None:
    """The measuring process: reads questions, one in each line as JSON, and prints a line of figures for each."""
    answerer = Answerer.open(store)
    k = min(RETRIEVE_K, len(answerer.store))
    for line in sys.stdin:
        if text := json.loads(line):
            question = Question(text=text, retrieve_k=k, keep_k=min(KEEP_K, k), max_new_tokens=NEW_TOKENS)
            found = answerer.answer([question])[0].usage.milliseconds
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            found = {MEMORY: float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    tune_allocator()
    _answer_questions(Path(sys.argv[1]))
