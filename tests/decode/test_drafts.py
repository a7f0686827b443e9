"""Answers drafted out of the passages are those that would be written token by token, in fewer steps."""

import pytest
import torch

from memstore import decode
from memstore.decode.drafts import MOST, Drafts
from memstore.decode.prepared import PreparedDecoder, PreparedDecoding
from tests.decode.test_prepared import EOS, SETTINGS, encoded, model

LIMIT = 12


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens the prepared decoder is fed, at each of its steps."""
    counts: list[int] = []
    plain = PreparedDecoding.best

    def best(self, ids, **options):
        counts.append(len(ids))
        return plain(self, ids, **options)

    monkeypatch.setattr(PreparedDecoding, "best", best)
    return counts


def answers(made, read, **options):
    """One question's answer, token by token and by drafts."""
    (plain,) = decode.generate(made, read, max_new_tokens=LIMIT, **options)
    (drafted,) = decode.generate(made, read, max_new_tokens=LIMIT, **options, prepared=PreparedDecoder(made))
    return plain, drafted


def wordy(seed: int, **changes):
    """A model whose answers go on to the limit: eos is not among what it likes."""
    made = model(seed, **changes)
    with torch.no_grad():
        (made.embedding if made.head is None else made.head).weight[EOS] *= -1.0
    return made


def test_an_answer_that_stands_in_a_passage_takes_fewer_steps(fed):
    made = wordy(1)
    read = encoded(made, (40,), copied=1.0)
    plain, _ = answers(made, read)
    assert len(plain.ids) == LIMIT
    read.token_ids[5 : 5 + LIMIT] = torch.tensor(plain.ids)
    read.token_ids[:5] = read.token_ids[5 + LIMIT :] = 100  # nowhere else
    fed.clear()
    again, drafted = answers(made, read)
    assert again.ids == plain.ids == drafted.ids  # what was read did not change: only a copy head looks at token ids
    assert drafted.score == pytest.approx(plain.score, abs=1e-4)
    assert len(fed) < LIMIT / 2
    assert drafted.steps == sum(fed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", SETTINGS)
def test_whatever_the_passages_suggest_the_answer_is_the_same(changes, dtype, fed):
    """The passages hold pieces of the answer, with other tokens between them, so that drafts are right in part."""
    wrong = right = 0
    for seed in range(4):
        made = (wordy if seed % 2 else model)(seed, **changes).to(dtype)
        read = encoded(made, (60,), seed=seed, copied=0.9)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):  # with a copy head the answer changes with the passages
            plain, _ = answers(made, read, banned=[0])
            for start in range(3, 55, 5):
                piece = plain.ids[start % LIMIT :][: int(torch.randint(1, 5, (), generator=generator))]
                read.token_ids[start : start + len(piece)] = torch.tensor(piece, dtype=torch.int64)
        fed.clear()
        plain, drafted = answers(made, read, banned=[0])
        assert (drafted.ids, drafted.finished) == (plain.ids, plain.finished)
        assert drafted.score == pytest.approx(plain.score, abs=1e-4 if dtype is torch.float32 else 0.05)
        assert drafted.steps == sum(fed)
        right += plain.steps - len(fed)
        wrong += sum(fed) - plain.steps
    assert right > 0
    assert wrong > 0


def test_no_more_is_fed_than_the_limit_allows(fed):
    made = wordy(1)
    read = encoded(made, (40,), copied=1.0)
    whole, _ = answers(made, read)
    read.token_ids[:LIMIT] = torch.tensor(whole.ids)
    for limit in range(1, LIMIT):
        (drafted,) = decode.generate(made, read, max_new_tokens=limit, prepared=PreparedDecoder(made))
        assert drafted.ids == whole.ids[:limit]
        assert not drafted.finished


def test_several_questions_are_answered_token_by_token(fed):
    made = model(2)
    decode.generate(made, encoded(made, (20, 20)), max_new_tokens=4, prepared=PreparedDecoder(made))
    assert set(fed) <= {1, 2}


def test_drafts_begin_where_most_of_the_last_tokens_stand():
    drafts = Drafts([7, 8, 9, 4, 8, 5, 6, 8, 9, 3], [True] * 10, eos=EOS)
    assert drafts.after([8], most=MOST) == [9, 4, 8, 5]  # the first of equals
    assert drafts.after([4, 8], most=2) == [5, 6]
    assert drafts.after([2, 6, 8], most=MOST) == [9, 3]
    assert drafts.after([3], most=MOST) == []  # the end
    assert drafts.after([2], most=MOST) == []  # nowhere
    assert drafts.after([], most=MOST) == []
    assert drafts.after([8], most=0) == []


def test_drafts_stay_within_a_passage():
    """Questions' tokens, and the eos between passages, are never drafted, nor looked up."""
    drafts = Drafts([8, 2, 8, 9, EOS, 8, 5], [False, False, True, True, True, True, True], eos=EOS)
    assert drafts.after([8], most=MOST) == [9]
    assert drafts.after([9], most=MOST) == []
    assert drafts.after([2], most=MOST) == []
    assert drafts.after([EOS, 8], most=MOST) == [9]
