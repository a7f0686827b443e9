"""The inputs of the benchmarks: random models, generated documents, random stores. The same seed gives the same.

Nothing here needs a download or a private file. A given corpus replaces the generated one.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import Options
from memstore import checkpoint
from memstore.checkpoint import t5
from memstore.checkpoint.files import read_tokenizer
from memstore.codec import Codec, get_codec
from memstore.model.config import ModelConfig
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore.store import Fingerprint, Generation, SegmentWriter, Store, publish, write_tables
from memstore_builders.corpus import open_corpus, sample_corpus

T5_SHAPES = {  # of T5 v1.1 (arXiv 2002.05202)
    "base": {"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12},
    "large": {"vocab_size": 32_128, "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_heads": 16, "num_layers": 24},
}
TINY = {"vocab_size": 32_128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 12}
SPECIAL_IDS = 3  # pad, eos, unknown
QUESTION_WORDS = 8


# --- models ---------------------------------------------------------------------------------------------------


def stock_t5(options: Options, dtype: torch.dtype) -> Any:
    """The T5 v1.1 of `transformers` with random weights, of the options' size (base by default), on their device."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = TINY if options.quick else T5_SHAPES[options.size or "base"]
    config = T5Config(
        **shape, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, dropout_rate=0.0
    )
    stock = T5ForConditionalGeneration(config)
    head = torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5
    stock.lm_head.weight = torch.nn.Parameter(head)
    return stock.to(options.device, dtype).eval()


def glimmer_of(stock: Any) -> MemoryModel:
    """Our GLIMMER, alpha 1/3 and beta 1/4, with the weights of a stock T5."""
    values = stock.config.to_dict()
    tensors, tied = t5.merge_embeddings(stock.state_dict(), values, source="stock")
    config = ModelConfig.from_dict(
        t5.settings(values, tied=tied, source="stock")
        | {"system": "glimmer", "alpha": 1 / 3, "beta": 1 / 4, "name": "random", "trained": False}
    )
    with torch.device("meta"):
        model = MemoryModel(config)
    shapes = {name: p.shape for name, p in model.state_dict().items()}
    converted = t5.convert(tensors, shapes, config, source="stock")
    checkpoint.assign(model, converted, dtype=None, source="stock")
    return model.to(stock.device).eval()


def glimmer_checkpoint(options: Options, folder: Path) -> Path:
    """The folder of a `glimmer_of` checkpoint, with the default model's tokenizer."""
    tokenizer = read_tokenizer(checkpoint.resolve("default"))
    model = glimmer_of(stock_t5(replace(options, device="cpu"), torch.bfloat16))
    checkpoint.save(folder, model, TextTokenizer(tokenizer, model.config))
    return folder


def random_tokens(lengths: Sequence[int], vocab_size: int, *, seed: int) -> list[torch.Tensor]:
    """Rows of random token ids, without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(SPECIAL_IDS, vocab_size, (n,), generator=generator) for n in lengths]


# --- text -----------------------------------------------------------------------------------------------------


def read_passages(options: Options, limit: int) -> list[Passage]:
    """The first passages of the given corpus, or generated ones."""
    if options.corpus is not None:
        return list(open_corpus([options.corpus], limit=limit))
    return list(itertools.islice(_zipf_passages(), limit))


def _zipf_passages() -> Iterator[Passage]:
    """Passages of 60 to 100 made-up words, whose frequencies follow Zipf's law like those of a language."""
    rng = np.random.default_rng(0)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    names = ["".join(s) for n in (1, 2, 3) for s in itertools.islice(itertools.product(syllables, repeat=n), 60_000)]
    probability = 1 / (np.arange(len(names)) + 10.0)
    probability /= probability.sum()
    for block in itertools.count():
        lengths = rng.integers(60, 101, size=1000)
        words = iter(rng.choice(len(names), size=int(lengths.sum()), p=probability).tolist())
        for i, length in enumerate(lengths.tolist()):
            text = " ".join(names[w] for w in itertools.islice(words, length))
            row = block * 1000 + i
            yield Passage(id=f"{row}:0", document_id=str(row), title=text.split(" ", 1)[0], text=text, end=len(text))


def questions_of(passages: Sequence[Passage]) -> list[str]:
    """A question for each passage: some words of it in a row."""
    rng = random.Random(0)
    questions = []
    for passage in passages:
        words = passage.text.split()
        first = rng.randrange(max(1, len(words) - QUESTION_WORDS))
        questions.append(" ".join(words[first : first + QUESTION_WORDS]))
    return questions


def corpus_file(options: Options, folder: Path, documents: int) -> Path:
    """The given corpus, or a file of documents made of random sentences of the bundled sample."""
    if options.corpus is not None:
        return options.corpus
    rng = random.Random(0)
    sample = [json.loads(line) for line in sample_corpus().read_text(encoding="utf-8").splitlines()]
    sentences = [s.strip() + "." for d in sample for s in d["text"].replace("\n", " ").split(". ") if len(s) > 20]
    path = folder / "documents.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(documents):
            text = " ".join(rng.sample(sentences, rng.randint(3, 20)))
            file.write(json.dumps({"id": str(i), "title": rng.choice(sample)["title"], "text": text}) + "\n")
    return path


# --- stores ---------------------------------------------------------------------------------------------------


def write_store(
    folder: Path,
    memories: Iterable[tuple[npt.NDArray[np.int64], torch.Tensor]],
    *,
    count: int,
    config: ModelConfig,
    codec: Codec | None = None,
) -> Store:
    """A published store of `count` passages "0", "1", ..., each with token ids `(len,)` and states `(len, D)`.

    It does not record a model: such a store can be read, but not used for answering. `codec` is int8, or one fitted.
    """
    codec = codec or get_codec("int8")
    shard = min(count, 1024)
    writer = SegmentWriter(
        folder,
        segment_id="random",
        codec=codec,
        d_model=config.d_model,
        max_tokens=config.max_passage_tokens,
        vocab_size=config.vocab_size,
        num_passages=count,
        shard_passages=shard,
        tables=write_tables(folder, "random", codec),
    )
    rest = iter(memories)
    for first in range(0, count, shard):
        ids, states = zip(*itertools.islice(rest, shard), strict=True)
        rows = range(first, first + len(ids))
        writer.write_shard([Passage(id=str(r), document_id=str(r), title="", text="") for r in rows], ids, states)
    segment = writer.seal()
    fingerprint = Fingerprint(
        encoder="random", tokenizer="none", memory_layers=config.num_memory_layers, passage_template="",
        max_passage_tokens=config.max_passage_tokens, d_model=config.d_model, dtype="bfloat16",
    )  # fmt: skip
    generation = Generation(
        number=1, fingerprint=fingerprint, codec=codec.name, vocab_size=config.vocab_size, settings={},
        segments=(segment,), passages=segment.passages, tokens=segment.tokens, retriever="bm25",
    )  # fmt: skip
    publish(folder, generation)
    return Store.open(folder)
