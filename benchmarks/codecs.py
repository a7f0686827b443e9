"""Every codec of memories: bytes on disk, error, loading and decoding times, and the answers of the same model.

    python -m benchmarks codecs --store BF16_STORE --data squad.dev.jsonl

The store must be of bfloat16. Without `--store` the bundled sample's is built, or one of the first `--limit` passages
of `--corpus`; without `--data` the sample's questions are asked. The codecs are fitted on tokens of that store, as a
build fits them. Each question is answered once for each codec, with memories that went through it. Bytes and loading
times are of stores with the same memories, of at most 8,192 passages, read from a warm page cache.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import TOTAL, Options, Report, Subject, ratio, take_turns
from benchmarks.inputs import write_store
from memstore.answer import Answerer, Question
from memstore.codec import CODEC_NAMES, Codec, get_codec
from memstore.codec.weights import normed_error
from memstore.errors import ConfigError
from memstore.questions.files import read_questions
from memstore.questions.metrics import exact_match
from memstore.store import Store, segment_path
from memstore.store.format import MEMORY
from memstore.store.memories import Memories
from memstore_builders.build import build
from memstore_builders.corpus import sample_corpus
from memstore_builders.job import BuildOptions

QUESTIONS, RETRIEVE_K, KEEP_K, NEW_TOKENS = 300, 40, 10, 24
LOADED, STORED, HELD = 50, 8192, 200  # passages: loaded at a time, of the stores, whose error is measured
EXACT = "bf16"


@dataclass(frozen=True, slots=True)
class _Subject:
    """A codec that was fitted, a store with it, and its bytes a token on disk without token ids and texts."""

    codec: Codec
    store: Store
    disk: float


def run(options: Options) -> Report:
    """Fit all codecs, write a store of each, load, and ask.

    Raises:
        ConfigError: the store is not of bfloat16.
    """
    rounds, warm_ups = (3, 1) if options.quick else (40, 10)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memstore-bench-")))
        answerer = Answerer.open(options.store or _built(options, folder / EXACT))
        if answerer.store.generation.codec != EXACT:
            raise ConfigError(f"{answerer.store.path} keeps memories as {answerer.store.generation.codec}, not {EXACT}")
        rows = _spread(answerer.store, STORED)
        weights = answerer.model.first_live_weights
        held, fitting = rows[:: max(2, len(rows) // HELD)], set(rows)
        fitting -= set(held)
        subjects = {name: _subject(name, answerer, sorted(fitting), rows, folder / "stores") for name in CODEC_NAMES}
        loads = {f"{name}, load": _loading(s.store) for name, s in subjects.items()}
        decodes = {f"{name}, decode": _decoding(s, answerer.model.dtype) for name, s in subjects.items()}
        times = take_turns(loads | decodes, rounds=rounds, warm_ups=warm_ups)
        exact = answerer.store.load(answerer.store.at(held), dtype=torch.float32)
        errors = {name: normed_error(exact.states, _through(s.codec, exact, torch.float32).states, weights)
                  for name, s in subjects.items()}  # fmt: skip
        asked = _questions(options)
        texts = {name: _answers(answerer, s.codec, [q for q, _ in asked]) for name, s in subjects.items()}
        table = [_row(name, s, errors[name], times, asked, texts) for name, s in subjects.items()]
        settings = {"passages": answerer.store.live, "questions": len(asked), "retrieve_k": RETRIEVE_K,
                    "keep_k": KEEP_K, "model": answerer.model.config.name, "d_model": answerer.model.config.d_model,
                    "loaded": LOADED, "threads": torch.get_num_threads()}  # fmt: skip
    return Report(
        name="codecs",
        claim=f"loading {LOADED} passages: other codecs' times over bfloat16's; a table of their bytes and answers",
        settings=settings,
        ratios=[ratio(name, times[f"{name}, load"].of(), times[f"{EXACT}, load"].of())
                for name in CODEC_NAMES if name != EXACT],
        times={name: t.summary() for name, t in times.items()},
        rows=table,
    )  # fmt: skip


def _built(options: Options, out: Path) -> Path:
    limit = 64 if options.quick else options.limit
    build(BuildOptions(corpus=(options.corpus or sample_corpus(),), out=out, codec=EXACT, limit=limit))
    return out


def _spread(store: Store, most: int) -> list[int]:
    """At most so many live rows, evenly spread, ascending."""
    dead = set(store.dead_rows().tolist())
    live = [row for row in range(len(store)) if row not in dead]
    wanted = min(most, len(live))
    return [live[i * len(live) // wanted] for i in range(wanted)]


def _subject(name: str, answerer: Answerer, fitting: Sequence[int], rows: Sequence[int], folder: Path) -> _Subject:
    """Fit on passages that are not held out, and write a store of all."""
    source, codec = answerer.store, get_codec(name)
    if codec.sample_tokens:
        tokens = max(1, source.generation.tokens // len(source))
        wanted = min(len(fitting), codec.sample_tokens // tokens + 1)
        sample = source.load(source.at([fitting[i * len(fitting) // wanted] for i in range(wanted)]))
        codec = codec.fit(sample.states, sample.token_ids, weights=answerer.model.first_live_weights)
    each = (source.load(source.at([row])) for row in rows)
    memories = ((m.token_ids.numpy(), m.states) for m in each)
    store = write_store(folder / name, memories, count=len(rows), config=answerer.model.config, codec=codec)
    arrays = codec.arrays(d_model=answerer.model.config.d_model, max_tokens=answerer.model.config.max_passage_tokens)
    memory = segment_path(store.path, store.generation.segments[0].id) / MEMORY
    disk = sum(f.stat().st_size for spec in arrays for f in (memory / spec.name).rglob("*") if f.is_file())
    return _Subject(codec, store, disk / store.generation.tokens)


def _loading(store: Store) -> Subject:
    choose = random.Random(0)
    names = store.ids(range(len(store)))

    def load(_: object) -> None:
        store.load(choose.sample(names, min(LOADED, len(names))))

    return load


def _decoding(subject: _Subject, dtype: torch.dtype) -> Subject:
    names = subject.store.ids(range(min(LOADED, len(subject.store))))
    loaded = subject.store.load(names, dtype=torch.float32)
    arrays = subject.codec.encode(loaded.states, loaded.token_ids)
    return lambda _: subject.codec.decode(arrays, loaded.token_ids, dtype=dtype, device="cpu")


def _through(codec: Codec, memories: Memories, dtype: torch.dtype) -> Memories:
    """The memories as they come back from a codec."""
    arrays = codec.encode(memories.states, memories.token_ids)
    states = codec.decode(arrays, memories.token_ids, dtype=dtype, device=memories.states.device)
    return replace(memories, states=states)


def _questions(options: Options) -> list[tuple[str, tuple[str, ...]]]:
    data = options.data or sample_corpus().with_name("questions.jsonl")
    rows = [(row.input, tuple(row.answers)) for row in read_questions(data)]
    wanted = min(4 if options.quick else QUESTIONS, len(rows))
    return [rows[i * len(rows) // wanted] for i in range(wanted)]


def _answers(answerer: Answerer, codec: Codec, questions: Sequence[str]) -> list[str]:
    """Answers with memories that went through a codec."""
    store = answerer.store
    exact = store.load

    def load(*args: Any, **kwargs: Any) -> Memories:
        loaded = exact(*args, **kwargs)
        return _through(codec, loaded, loaded.states.dtype)

    store.load = load  # type: ignore[method-assign]
    try:
        return [answerer.ask(Question(q, retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS)).text
                for q in questions]  # fmt: skip
    finally:
        store.load = exact  # type: ignore[method-assign]


def _row(
    name: str,
    subject: _Subject,
    error: float,
    times: Any,
    asked: Sequence[tuple[str, tuple[str, ...]]],
    texts: dict[str, list[str]],
) -> dict[str, float | str]:
    """Bytes are of a token; shares in per cent."""
    config = subject.store.fingerprint
    specs = subject.codec.arrays(d_model=config.d_model, max_tokens=config.max_passage_tokens)
    share = 100 / len(asked)
    pairs = list(zip(texts[name], asked, strict=True))
    return {
        "codec": name,
        "bytes": float(sum(spec.bytes_per_token for spec in specs)),
        "bytes on disk": subject.disk,
        "tables, MB": sum(table.nbytes for table in subject.codec.tables().values()) / 1e6,
        "error, %": 100 * error,
        "load, ms": times[f"{name}, load"].median(TOTAL),
        "decode, ms": times[f"{name}, decode"].median(TOTAL),
        "exact match, %": share * sum(exact_match(text, answers) for text, (_, answers) in pairs),
        "as bf16, %": share * sum(a == b for a, b in zip(texts[name], texts[EXACT], strict=True)),
    }
