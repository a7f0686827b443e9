"""Reading: our GLIMMER with precomputed memories against FiD composed of stock `transformers` parts.

Both have the same question and the same 40 passages at the size of T5-base (or `--size`), the same random weights,
threads, device and number of generated tokens. FiD (arXiv 2007.01282) is written as a fair user would write it: the
stock encoder over the padded batch of [question; passage], its outputs concatenated, then stock `generate`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Options, Report, Subject, Times, ratio, take_turns
from benchmarks.inputs import glimmer_of, random_tokens, stock_t5, write_store
from benchmarks.peak import peak, share_row
from memstore import decode
from memstore.decode.prepared import PreparedDecoder
from memstore.machine import StageTimer, compute_dtype
from memstore.model import selection
from memstore.model.flops import answer_flops, fid_flops
from memstore.model.model import MemoryModel
from memstore.model.packed import Layout, Packed, Tokens
from memstore.model.ranking import rank
from memstore.store import Store

PASSAGES, KEEP, NEW_TOKENS, QUESTION_TOKENS = 40, 10, 16, 12
PASSAGE_TOKENS = (130, 151)
ENCODE = ("load", "question", "live_a", "live_b")
AIM = 5.0
FID, GLIMMER = "FiD, stock", "GLIMMER, memstore"


def run(options: Options) -> Report:
    """Time both, in turns. Then compute each stage's share of the device's peak."""
    dtype = compute_dtype(options.device)
    stock = stock_t5(options, dtype)
    model = glimmer_of(stock)
    shortest, longest = (6, 15) if options.quick else PASSAGE_TOKENS
    lengths = torch.randint(shortest, longest, (PASSAGES,), generator=torch.Generator().manual_seed(1)).tolist()
    passages = random_tokens(lengths, model.config.vocab_size, seed=2)
    question = random_tokens([QUESTION_TOKENS], model.config.vocab_size, seed=3)[0]
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder, torch.inference_mode():
        store = _store(Path(folder), model, passages)
        read = glimmer(model, store, question)
        kept = read(StageTimer(model.device))  # the same in every round
        subjects: dict[str, Subject] = {FID: fid(stock, question, passages), GLIMMER: read}
        times = take_turns(subjects, rounds=2 if options.quick else 7, device=options.device)
    theirs, ours = times[FID], times[GLIMMER]
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
            "device": options.device,
            **{k: getattr(model.config, k) for k in ("d_model", "num_layers")},
        },
        ratios=[
            ratio("end to end", theirs.of(), ours.of(), aim=None if options.quick else AIM),
            ratio("encoding (ours with loading)", theirs.of("encode"), ours.of(*ENCODE)),
            ratio("decoding", theirs.of("decode"), ours.of("decode")),
        ],
        times={name: t.summary() for name, t in times.items()},
        rows=_shares(options, model, times, lengths, [lengths[i] for i in kept]),
    )


def _shares(
    options: Options, model: MemoryModel, times: Mapping[str, Times], lengths: Sequence[int], kept: Sequence[int]
) -> list[dict[str, float | int | str]]:
    """Each stage's time, operations and share of the peak."""
    most = peak(options, model.dtype)
    counts = {"question_tokens": QUESTION_TOKENS, "passage_tokens": lengths, "new_tokens": NEW_TOKENS}
    theirs, ours = fid_flops(model.config, **counts), answer_flops(model.config, **counts, kept_tokens=kept)
    stages = [
        (FID, "encode", theirs.total - theirs.decode),
        (FID, "decode", theirs.decode),
        (GLIMMER, "live_a", ours.live_a),
        (GLIMMER, "live_b", ours.live_b),
        (GLIMMER, "decode", ours.decode),
    ]
    rows = [
        share_row(f"{who}: {stage}", milliseconds=times[who].median(stage), flops=flops, peak=most)
        for who, stage, flops in stages
    ]
    return [*rows, {"what": "one large product", "TFLOP/s": most / 1e12, "of the peak, %": 100.0}]


def _store(folder: Path, model: MemoryModel, passages: list[Tensor]) -> Store:
    memories = model.encode_passages(Tokens.of(passages).to(model.device))
    states = torch.split(memories.states.cpu(), memories.layout.lengths.tolist())
    pairs = [(ids.numpy(), s) for ids, s in zip(passages, states, strict=True)]
    return write_store(folder, pairs, count=len(pairs), config=model.config)


def glimmer(model: MemoryModel, store: Store, question: Tensor) -> Callable[[StageTimer], list[int]]:
    """What `Answerer` does between retrieval and text, as a function that returns the kept passages."""
    ids = [str(i) for i in range(PASSAGES)]
    tokens = Tokens.of([question]).to(model.device)
    question_of = torch.zeros(PASSAGES, dtype=torch.int64)
    banned = [model.config.pad_token_id, model.config.eos_token_id]
    prepared = PreparedDecoder(model)  # as `Answerer` does when it opens

    def read(stages: StageTimer) -> list[int]:
        """Answer once. Returns the numbers of the kept passages."""
        with stages("load"):
            loaded = store.load(ids, dtype=model.dtype, device=model.device)
            memories = Packed(loaded.states, loaded.token_ids, Layout(loaded.lengths))
        with stages("question"):
            encoded_question = model.encode_question(tokens)
        with stages("live_a"):
            ranked = rank(model, encoded_question, memories, question_of)
            assert ranked.scores is not None
            kept = selection.select(ranked.order(), question_of, KEEP)
            live = ranked.take(kept)
        with stages("live_b"):
            encoded = model.live_b(live)
        with stages("decode"):
            answer = decode.generate(model, encoded, max_new_tokens=NEW_TOKENS, banned=banned, prepared=prepared)[0]
        assert len(answer.ids) == NEW_TOKENS
        return [int(row) for row in kept]

    return read


def fid(stock: Any, question: Tensor, passages: list[Tensor]) -> Subject:
    """FiD: the stock encoder over padded [question; passage] rows, and the stock decoder over all of them."""
    from transformers.modeling_outputs import BaseModelOutput

    rows = [torch.cat([question, p]) for p in passages]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(stock.device)  # (40, L)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True).to(stock.device)

    def read(stages: StageTimer) -> None:
        """Answer once."""
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
