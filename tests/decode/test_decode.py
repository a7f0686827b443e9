"""Greedy decoding, and what greedy and beam search have in common."""

import math
from types import SimpleNamespace

import pytest
import torch

from memstore import decode
from memstore.errors import RequestError
from memstore.model.model import Encoded
from memstore.model.packed import Layout, Tokens
from memstore.model.selection import select
from tests import tiny
from tests.tiny import CPU

EOS = 1
SETTINGS = [
    pytest.param({}, id="plain"),
    pytest.param({"copy_head": True}, id="copy"),
    pytest.param({"tie_word_embeddings": True, "scale_head": True, "feed_forward": "relu"}, id="tied"),
    pytest.param({"decoder_start_token_id": 7}, id="another start"),
]


def reader(seed: int = 0, **changes):
    """A tiny model whose answers end: 12 tokens take nearly all probability, and eos is one of them."""
    model = tiny.model(seed, **changes)
    with torch.no_grad():
        head = model.embedding if model.head is None else model.head
        head.weight[12:] *= 0.05
        head.weight[:12] *= 2.0
        head.weight[EOS] *= 2.0
    return model


def encode(model, *, seed: int = 0, questions: tuple[int, ...] = (3, 9, 5, 2, 7)) -> Encoded:
    """Questions of the given lengths with one to three passages each, ragged throughout."""
    question_of = torch.tensor([q for q in range(len(questions)) for _ in range(1 + (q + seed) % 3)])
    passages = [3 + (5 * row + seed) % 11 for row in range(len(question_of))]
    with torch.inference_mode():
        q = model.encode_question(Tokens.of(tiny.token_rows(list(questions), seed=seed)))
        p = model.encode_passages(Tokens.of(tiny.token_rows(passages, seed=seed + 1)))
        rows = model.live_a(q, p, question_of)
        return model.live_b(rows.take(select(model.score(rows), question_of, 2)))


def single(encoded: Encoded, question: int) -> Encoded:
    """One question of a batch by itself."""
    length = int(encoded.layout.lengths[question])
    start = int(encoded.layout.on(CPU).starts[question])
    part = slice(start, start + length)
    return Encoded(encoded.states[part], encoded.token_ids[part], encoded.from_passage[part], Layout([length]))


def assert_same(ours: list[decode.Decoded], theirs: list[decode.Decoded]) -> None:
    assert [(d.ids, d.finished, d.steps) for d in ours] == [(d.ids, d.finished, d.steps) for d in theirs]
    assert [d.score for d in ours] == pytest.approx([d.score for d in theirs], abs=1e-4)


class Chain:
    """Stands in for a model: what follows a token is a table; counts the rows of each step."""

    def __init__(self, following: dict[int, dict[int, float]], questions: int = 1, vocab_size: int = 8) -> None:
        self.config = SimpleNamespace(eos_token_id=EOS, decoder_start_token_id=0)
        self.encoded = Encoded(torch.zeros(questions, 1), torch.zeros(0), torch.zeros(0), Layout([1] * questions))
        self.table = torch.full((vocab_size, vocab_size), 1e-6)
        for token, row in following.items():
            for successor, probability in row.items():
                self.table[token, successor] = probability
        self.rows: list[int] = []

    def start(self, encoded, *, capacity, beams=1):
        return SimpleNamespace(cache=SimpleNamespace(reorder=lambda index: None), take=lambda questions: None)

    def step(self, ids, state):
        self.rows.append(len(ids))
        return self.table[ids].log()

    def generate(self, **options) -> list[decode.Decoded]:
        return decode.generate(self, self.encoded, **options)


# Greedy takes 2 (0.5), then can only reach 0.5 * 0.4 * 1.0; by 3 the answer has 0.4 * 0.9 * 1.0.
GARDEN_PATH = {
    0: {2: 0.5, 3: 0.4},
    2: {4: 0.4, 5: 0.35},
    3: {6: 0.9},
    4: {EOS: 1.0},
    5: {EOS: 1.0},
    6: {EOS: 1.0},
}


@pytest.mark.parametrize(
    ("following", "options", "ids", "probability", "finished"),
    [
        ({0: {EOS: 0.9}}, {}, [], 0.9, True),
        ({0: {EOS: 0.9}}, {"num_beams": 3}, [], 0.9, True),
        (GARDEN_PATH, {}, [2, 4], 0.2, True),
        (GARDEN_PATH, {"num_beams": 2}, [3, 6], 0.36, True),
        (GARDEN_PATH, {"max_new_tokens": 3}, [2, 4], 0.2, True),  # eos is the last token allowed
        (GARDEN_PATH, {"max_new_tokens": 2}, [2, 4], 0.2, False),
        (GARDEN_PATH, {"max_new_tokens": 2, "num_beams": 2}, [3, 6], 0.36, False),
        (GARDEN_PATH, {"max_new_tokens": 1, "num_beams": 3}, [2], 0.5, False),
        ({0: {3: 0.4, 5: 0.4}, 3: {EOS: 1.0}}, {}, [3], 0.4, True),  # of equal tokens the lower
        ({0: {2: 0.6, EOS: 0.3}, 2: {3: 0.5}, 3: {EOS: 0.9}}, {"num_beams": 2}, [2, 3], 0.27, True),
        # an ending takes no beam from what runs on: 3 is third
        ({0: {EOS: 0.45, 2: 0.3, 3: 0.25}, 2: {4: 0.1}, 3: {EOS: 1.0}}, {"num_beams": 2}, [3], 0.25, True),
        (  # ranked by the sum alone, the empty answer's 0.3 beats 0.27
            {0: {2: 0.6, EOS: 0.3}, 2: {3: 0.5}, 3: {EOS: 0.9}},
            {"num_beams": 2, "length_penalty": 0.0},
            [],
            0.3,
            True,
        ),
    ],
)
def test_answers_by_hand(following, options, ids, probability, finished):
    (answer,) = Chain(following).generate(**({"max_new_tokens": 6} | options))
    assert (answer.ids, answer.finished) == (ids, finished)
    assert answer.score == pytest.approx(math.log(probability), abs=1e-5)


def test_a_search_is_over_when_what_runs_on_is_no_better_than_the_worst_of_enough_endings():
    """Not before there are as many as beams; and steps count until then, not to the end of the answer."""
    (answer,) = Chain({0: {EOS: 0.5, 2: 0.5}, 2: {EOS: 0.4, 3: 0.4}, 3: {EOS: 1.0}}).generate(
        max_new_tokens=6, num_beams=2, length_penalty=0.0
    )
    assert (answer.ids, answer.finished, answer.steps) == ([], True, 2)


def test_beams_beyond_the_vocabulary():
    """More beams than continuations there are: the dead ones never come back as answers."""
    chain = Chain({0: {2: 0.7, EOS: 0.3}, 2: {EOS: 0.8}}, vocab_size=3)
    (answer,) = chain.generate(max_new_tokens=4, num_beams=6)
    assert (answer.ids, answer.finished) == ([2], True)
    assert answer.score == pytest.approx(math.log(0.56), abs=1e-5)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_questions_that_are_done_leave_the_batch_by_halves(num_beams):
    chain = Chain({0: {2: 0.9}, 2: {3: 0.9}, 3: {2: 0.9}}, questions=5)
    answers = chain.generate(max_new_tokens=[1, 7, 2, 2, 4], num_beams=num_beams)
    assert [a.steps for a in answers] == [1, 7, 2, 2, 4]
    assert [len(a.ids) for a in answers] == [1, 7, 2, 2, 4]
    assert [rows // num_beams for rows in chain.rows] == [5, 5, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"max_new_tokens": -3}, "max_new_tokens must be at least 1, not -3"),
        ({"max_new_tokens": [4, 0]}, r"not 0 \(question 1\)"),
        ({"max_new_tokens": [4]}, "1 length limits for 2 questions"),
    ],
)
def test_impossible_limits_are_refused(options, message, num_beams):
    chain = Chain({}, questions=2)
    with pytest.raises(RequestError, match=message):
        chain.generate(**options, num_beams=num_beams)
    assert chain.rows == []


@pytest.mark.parametrize("num_beams", [0, -1])
def test_no_beams_are_refused(num_beams):
    with pytest.raises(RequestError, match=f"num_beams must be at least 1, not {num_beams}"):
        Chain({}).generate(max_new_tokens=4, num_beams=num_beams)


def test_nothing_to_read_is_refused():
    chain = Chain({}, questions=2)
    chain.encoded = Encoded(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3), Layout([3, 0]))
    with pytest.raises(RequestError, match="question 1 has no tokens to read"):
        chain.generate(max_new_tokens=4)


def test_no_questions_give_no_answers():
    assert Chain({}, questions=0).generate(max_new_tokens=4) == []
    assert Chain({}, questions=0).generate(max_new_tokens=[], num_beams=2) == []


@pytest.mark.parametrize("changes", SETTINGS)
def test_cached_equals_uncached(changes):
    endings = set()
    for seed in range(3):
        model = reader(seed, **changes)
        encoded = encode(model, seed=seed)
        limits = [9, 1, 4, 9, 6]
        answers = decode.generate(model, encoded, max_new_tokens=limits)
        assert_same(answers, decode.greedy_uncached(model, encoded, limits=limits))
        endings |= {a.finished for a in answers}
    assert endings == {True, False}


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("changes", SETTINGS)
def test_batch_equals_singles(changes, num_beams):
    model = reader(3, **changes)
    encoded = encode(model, seed=3)
    limits = [8, 3, 8, 1, 5]
    together = decode.generate(model, encoded, max_new_tokens=limits, num_beams=num_beams)
    alone = [
        decode.generate(model, single(encoded, i), max_new_tokens=limit, num_beams=num_beams)[0]
        for i, limit in enumerate(limits)
    ]
    assert_same(together, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("changes", SETTINGS)
def test_score_is_what_teacher_forcing_gives(changes, num_beams, dtype):
    model = reader(5, **changes).to(dtype)
    encoded = encode(model, seed=5)
    answers = decode.generate(model, encoded, max_new_tokens=6, num_beams=num_beams)
    for i, answer in enumerate(answers):
        targets = torch.tensor([[*answer.ids, EOS] if answer.finished else answer.ids])
        with torch.inference_mode():
            log_probs = model.log_probs(single(encoded, i), targets)
        forced = log_probs.gather(2, targets[:, :, None]).sum().item()
        # bfloat16 holds 8 bits: steps of one token and of all at once round differently
        assert answer.score == pytest.approx(forced, abs=1e-4 if dtype == torch.float32 else 0.05 * len(targets[0]))
