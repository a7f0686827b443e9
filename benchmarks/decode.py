"""Decoding: our greedy and beam search against stock `generate`, over the same encoder output and weights.

The model has the size of T5-base. The decoder reads the encoder states of ten passages of about 150 tokens, for one
question, and for four of different lengths at once. Computing the cross keys and values is part of decoding.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.common import Options, Ratio, Report, Subject, ratio, take_turns
from benchmarks.inputs import glimmer_of, stock_t5
from memstore import decode
from memstore.decode.prepared import PreparedDecoder
from memstore.machine import compute_dtype
from memstore.model.model import Encoded, MemoryModel
from memstore.model.packed import Layout

NEW_TOKENS, BEAMS = 16, 4
CASES = {"greedy, 1 question": (1, 1), "greedy, 4 questions": (4, 1), f"{BEAMS} beams, 1 question": (1, BEAMS)}
READ_TOKENS = (1500, 1380, 1600, 1450)  # of each question


@torch.inference_mode()
def run(options: Options) -> Report:
    """Time both in turns, for every case."""
    dtype = compute_dtype("cpu")
    stock = stock_t5(options, dtype)
    model = glimmer_of(stock)
    lengths = [n // 50 for n in READ_TOKENS] if options.quick else list(READ_TOKENS)
    states = torch.randn(sum(lengths), model.config.d_model, generator=torch.Generator().manual_seed(4)).to(dtype)
    ratios: list[Ratio] = []
    times: dict[str, dict[str, dict[str, float]]] = {}
    for case, (questions, beams) in CASES.items():
        layout = Layout(lengths[:questions])
        read = states[: layout.tokens]
        subjects = {"stock": _stock(stock, read, layout, beams), "memstore": _ours(model, read, layout, beams)}
        timed = take_turns(subjects, rounds=2 if options.quick else 7)
        ratios.append(ratio(case, timed["stock"].of(), timed["memstore"].of()))
        times |= {f"{case}: {name}": t.summary() for name, t in timed.items()}
    return Report(
        name="decode",
        claim=f"stock generate over ours, {NEW_TOKENS} tokens",
        settings={
            "tokens_read": lengths,
            "new_tokens": NEW_TOKENS,
            "dtype": str(dtype).removeprefix("torch."),
            "d_model": model.config.d_model,
            "layers": model.config.num_decoder_layers,
        },
        ratios=ratios,
        times=times,
    )


def _ours(model: MemoryModel, states: torch.Tensor, layout: Layout, beams: int) -> Subject:
    ids = torch.zeros(layout.tokens, dtype=torch.int64)
    encoded = Encoded(states=states, token_ids=ids, from_passage=ids.bool(), layout=layout)
    banned = [model.config.pad_token_id, model.config.eos_token_id]
    prepared = PreparedDecoder(model)  # as `Answerer` does when it opens

    def work(_: object) -> None:
        answers = decode.generate(
            model, encoded, max_new_tokens=NEW_TOKENS, num_beams=beams, banned=banned, prepared=prepared
        )
        assert [len(a.ids) for a in answers] == [NEW_TOKENS] * layout.rows

    return work


def _stock(stock: Any, states: torch.Tensor, layout: Layout, beams: int) -> Subject:
    from transformers.modeling_outputs import BaseModelOutput

    padded = layout.pad(states)  # (B, L, D)
    mask = layout.pad(torch.ones(layout.tokens, dtype=torch.int64))

    def work(_: object) -> None:
        answers = stock.generate(
            encoder_outputs=BaseModelOutput(padded),
            attention_mask=mask,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=beams,
            use_cache=True,
        )
        assert answers.shape == (layout.rows, NEW_TOKENS + 1)

    return work
