"""Answers that are spans of what is read: what may come next, against enumerating all spans."""

from __future__ import annotations

import pytest
import torch

from memstore import decode
from memstore.decode.prepared import PreparedDecoder
from memstore.decode.spans import Spans
from memstore.model.model import Encoded
from memstore.model.packed import Layout
from tests import tiny
from tests.tiny import CPU

EOS, VOCAB = 1, 64
PHRASES = [[5, 6, 7], [5, 8], [9]]
LENGTHS = (50, 7, 64, 3, 30)
SETTINGS = [
    pytest.param({}, id="plain"),
    pytest.param({"copy_head": True, "copy_previous": True}, id="copy"),
]


def encoded(*, copied: float = 0.8, seed: int = 0, lengths: tuple[int, ...] = LENGTHS, d_model: int = 16) -> Encoded:
    """Something to read for each question; few different tokens, eos among them, `copied` of them from passages."""
    generator, layout = torch.Generator().manual_seed(seed), Layout(lengths)
    tokens = sum(lengths)
    states = torch.randn(tokens, d_model, generator=generator)
    token_ids = torch.randint(1, 12, (tokens,), generator=generator)
    from_passage = torch.rand(tokens, generator=generator) < copied
    from_passage[layout.on(CPU).starts] = False  # rows begin with their questions
    return Encoded(states, token_ids, from_passage, layout)


def spans_of(read: Encoded, question: int) -> set[tuple[int, ...]]:
    """All spans of a question's passages, by enumeration."""
    start, length = int(read.layout.on(CPU).starts[question]), int(read.layout.lengths[question])
    ids = read.token_ids[start : start + length].tolist()
    inside = read.from_passage[start : start + length].tolist()
    found = set()
    for a in range(length):
        for b in range(a, length):
            if not inside[b] or ids[b] == EOS:
                break
            found.add(tuple(ids[a : b + 1]))
    return found


def next_tokens(written: list[int], spans: set[tuple[int, ...]], phrases: list[list[int]]) -> set[int]:
    """What may come behind the tokens written, eos included."""
    whole, n = {*spans, *map(tuple, phrases)}, len(written)
    following = {answer[n] for answer in whole if len(answer) > n and list(answer[:n]) == written}
    return following | ({EOS} if tuple(written) in whole else set())


@pytest.mark.parametrize("phrases", [PHRASES, []], ids=["phrases", "none"])
def test_what_may_come_next_is_what_enumeration_says(phrases: list[list[int]]) -> None:
    read = encoded()
    all_spans = [spans_of(read, q) for q in range(len(LENGTHS))]
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        spans = Spans.of(read, phrases, vocab_size=VOCAB, eos=EOS)
        written: list[list[int]] = [[] for _ in LENGTHS]
        while True:
            allowed = spans.allowed()
            for q, own in enumerate(all_spans):
                if not written[q] or written[q][-1] != EOS:
                    expected = next_tokens(written[q], own, phrases)
                    assert set(allowed[q].nonzero().flatten().tolist()) == (expected or set(range(VOCAB)))
            tokens = torch.multinomial(allowed.float(), 1, generator=generator).flatten()
            for line, token in zip(written, tokens.tolist(), strict=True):
                line.append(token)
            if all(EOS in line for line in written):
                break
            spans.extend(tokens)


def test_beams_of_a_question_go_on_from_one_another_and_questions_leave() -> None:
    read = encoded()
    spans = Spans.of(read, PHRASES, vocab_size=VOCAB, eos=EOS, beams=2)
    spans.extend(torch.tensor([5, 9, 5, 5, 9, 4, 5, 9, 8, 3]))
    before = spans.allowed()
    rows = torch.tensor([1, 1, 2, 3, 5, 4, 6, 6, 9, 8])
    spans.reorder(rows)
    assert torch.equal(spans.allowed(), before[rows])
    spans.take(torch.tensor([0, 4, 2]))
    assert torch.equal(spans.allowed(), before[[1, 1, 9, 8, 5, 4]])
    spans.extend(torch.tensor([EOS, 5, 6, 7, 8, 9]))
    for row, question, written in ((1, 0, (9, 5)), (2, 4, (3, 6)), (3, 4, (8, 7))):
        alone = Spans.of(read, PHRASES, vocab_size=VOCAB, eos=EOS)
        for token in written:
            alone.extend(torch.full((len(LENGTHS),), token))
        assert torch.equal(spans.allowed()[row], alone.allowed()[question])


def test_without_passages_phrases_are_left_and_without_these_everything() -> None:
    read = encoded(copied=0.0)
    allowed = Spans.of(read, PHRASES, vocab_size=VOCAB, eos=EOS).allowed()
    assert all(set(row.nonzero().flatten().tolist()) == {5, 9} for row in allowed)
    assert Spans.of(read, [], vocab_size=VOCAB, eos=EOS).allowed().all()


def allowed_answers(read: Encoded, question: int) -> set[tuple[int, ...]]:
    return spans_of(read, question) | {tuple(p) for p in PHRASES}


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("changes", SETTINGS)
def test_answers_are_spans_or_phrases(changes: dict[str, bool], num_beams: int) -> None:
    free = finished = 0
    for seed in range(6):
        model = tiny.model(seed, **changes)
        read = encoded(seed=seed, d_model=model.config.d_model)
        answers = decode.generate(model, read, max_new_tokens=8, num_beams=num_beams, phrases=PHRASES)
        for q, answer in enumerate(answers):
            allowed = allowed_answers(read, q)
            starts = {a[: len(answer.ids)] for a in allowed}
            assert tuple(answer.ids) in (allowed if answer.finished else starts)
            finished += answer.finished
        plain = decode.generate(model, read, max_new_tokens=8, num_beams=num_beams)
        free += sum(tuple(a.ids) not in allowed_answers(read, q) for q, a in enumerate(plain))
    assert free > 10  # unbound, the same models write something else
    assert finished > 3


@pytest.mark.parametrize("changes", SETTINGS)
def test_greedy_takes_the_best_of_what_may_come(changes: dict[str, bool]) -> None:
    model = tiny.model(3, **changes)
    read = encoded(seed=3, d_model=model.config.d_model)
    answers = decode.generate(model, read, max_new_tokens=6, phrases=PHRASES)
    for q, answer in enumerate(answers):
        start, length = int(read.layout.on(CPU).starts[q]), int(read.layout.lengths[q])
        part = slice(start, start + length)
        own = Encoded(read.states[part], read.token_ids[part], read.from_passage[part], Layout([length]))
        written: list[int] = []
        for _ in range(6):
            with torch.inference_mode():
                log_probs = model.log_probs(own, torch.tensor([[*written, 2]]))[0, -1]
            written.append(max(next_tokens(written, spans_of(read, q), PHRASES), key=lambda t: float(log_probs[t])))
            if written[-1] == EOS:
                break
        assert answer.ids == [t for t in written if t != EOS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", SETTINGS)
def test_prepared_gives_the_same(changes: dict[str, bool], dtype: torch.dtype) -> None:
    for seed in range(4):
        model = tiny.model(seed, **changes).to(dtype)
        read = encoded(seed=seed, d_model=model.config.d_model)
        read = Encoded(read.states.to(dtype), read.token_ids, read.from_passage, read.layout)
        plain, prepared = (
            decode.generate(model, read, max_new_tokens=8, banned=[0], phrases=PHRASES, prepared=p)
            for p in (None, PreparedDecoder(model))
        )
        assert [a.ids for a in plain] == [a.ids for a in prepared]
        assert [a.score for a in plain] == pytest.approx([a.score for a in prepared], abs=2e-2)
