"""Reading: our GLIMMER with precomputed memories against FiD composed of stock `transformers` parts.

The same question and the same 40 passages at T5-base size, the same random weights, threads and number of generated
tokens. FiD (arXiv 2007.01282) as a fair user would write it: the stock encoder over the padded batch of
[question; passage], its outputs behind one another, stock `generate`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Options, Report, Subject, ratio, take_turns
from benchmarks.inputs import glimmer_of, random_tokens, stock_t5, write_store
from memstore import decode, rerank
from memstore.answer import Stages
from memstore.model import MemoryModel
from memstore.packed import Layout, Packed, Tokens
from memstore.prepared import PreparedDecoder
from memstore.runtime import compute_dtype
from memstore.store import Store

PASSAGES, KEEP, NEW_TOKENS, QUESTION_TOKENS = 40, 10, 16, 12
PASSAGE_TOKENS = (130, 151)
ENCODE = ("load", "question", "live_a", "live_b")
AIM = 5.0


def run(options: Options) -> Report:
    """Time both, in turns."""
    dtype = compute_dtype("cpu")
    stock = stock_t5(options, dtype)
    model = glimmer_of(stock)
    shortest, longest = (6, 15) if options.quick else PASSAGE_TOKENS
    lengths = torch.randint(shortest, longest, (PASSAGES,), generator=torch.Generator().manual_seed(1)).tolist()
    passages = random_tokens(lengths, model.config.vocab_size, seed=2)
    question = random_tokens([QUESTION_TOKENS], model.config.vocab_size, seed=3)[0]
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder, torch.inference_mode():
        store = _store(Path(folder), model, passages)
        subjects = {"FiD, stock": fid(stock, question, passages), "GLIMMER, memstore": glimmer(model, store, question)}
        times = take_turns(subjects, rounds=2 if options.quick else 7)
    theirs, ours = times["FiD, stock"], times["GLIMMER, memstore"]
    return Report(
        name="reader",
        claim="stock FiD over our GLIMMER (alpha 1/3, beta 1/4) reading the same passages",
        settings={
            "passages": PASSAGES,
            "kept": KEEP,
            "passage_tokens": f"{min(lengths)}-{max(lengths)}",
            "question_tokens": QUESTION_TOKENS,
            "new_tokens": NEW_TOKENS,
            "attention": stock.config._attn_implementation,
            "dtype": str(dtype).removeprefix("torch."),
            **{k: getattr(model.config, k) for k in ("d_model", "num_layers")},
        },
        ratios=[
            ratio("end to end", theirs.of(), ours.of(), aim=None if options.quick else AIM),
            ratio("encoding (ours with loading)", theirs.of("encode"), ours.of(*ENCODE)),
            ratio("decoding", theirs.of("decode"), ours.of("decode")),
        ],
        times={name: t.summary() for name, t in times.items()},
    )


def _store(folder: Path, model: MemoryModel, passages: list[Tensor]) -> Store:
    memories = model.encode_passages(Tokens.of(passages))
    states = torch.split(memories.states, memories.layout.lengths.tolist())
    pairs = [(ids.numpy(), s) for ids, s in zip(passages, states, strict=True)]
    return write_store(folder, pairs, count=len(pairs), config=model.config)


def glimmer(model: MemoryModel, store: Store, question: Tensor) -> Subject:
    """What `Answerer` does between retrieval and text."""
    ids = [str(i) for i in range(PASSAGES)]
    tokens, question_of = Tokens.of([question]), torch.zeros(PASSAGES, dtype=torch.int64)
    banned = [model.config.pad_token_id, model.config.eos_token_id]
    prepared = PreparedDecoder(model)  # as `Answerer` does when it opens

    def read(stages: Stages) -> None:
        with stages("load"):
            loaded = store.load(ids, dtype=model.dtype)
            memories = Packed(loaded.states, loaded.token_ids, Layout(loaded.lengths))
        with stages("question"):
            encoded_question = model.encode_question(tokens)
        with stages("live_a"):
            live = model.live_a(encoded_question, memories, question_of)
            kept = rerank.select(model.score(live), question_of, KEEP)
        with stages("live_b"):
            encoded = model.live_b(live.take(kept))
        with stages("decode"):
            answer = decode.generate(model, encoded, max_new_tokens=NEW_TOKENS, banned=banned, prepared=prepared)[0]
        assert len(answer.ids) == NEW_TOKENS

    return read


def fid(stock: Any, question: Tensor, passages: list[Tensor]) -> Subject:
    """Stock encoder over [question; passage], padded; stock decoder over all of it."""
    from transformers.modeling_outputs import BaseModelOutput

    rows = [torch.cat([question, p]) for p in passages]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (40, L)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)

    def read(stages: Stages) -> None:
        with stages("encode"):
            states = stock.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (40, L, D)
        with stages("decode"):
            answer = stock.generate(
                encoder_outputs=BaseModelOutput(states.reshape(1, -1, states.shape[-1])),
                attention_mask=mask.reshape(1, -1),
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                num_beams=1,
                use_cache=True,
            )
        assert answer.shape == (1, NEW_TOKENS + 1)  # with the start token

    return read
