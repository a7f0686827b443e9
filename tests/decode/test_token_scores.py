"""What an answer says of its tokens' log-probabilities, and of the second best answer."""

from __future__ import annotations

import pytest
import torch

from memstore import decode
from memstore.model.model import Encoded
from memstore.model.packed import Layout
from tests import tiny


def encoded_of(questions: int) -> Encoded:
    lengths = [9 + i for i in range(questions)]
    generator = torch.Generator().manual_seed(3)
    return Encoded(
        states=torch.randn(sum(lengths), 32, generator=generator),
        token_ids=torch.randint(3, 99, (sum(lengths),), generator=generator),
        from_passage=torch.ones(sum(lengths), dtype=torch.bool),
        layout=Layout(lengths),
    )


@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_each_token_has_its_log_probability(beams: int) -> None:
    model, encoded = tiny.model(), encoded_of(2)
    for at, found in enumerate(decode.generate(model, encoded, max_new_tokens=5, num_beams=beams)):
        ids = [*found.ids, model.config.eos_token_id] if found.finished else found.ids
        targets = torch.zeros(2, len(ids), dtype=torch.int64)
        targets[at] = torch.tensor(ids)
        expected = model.log_probs(encoded, targets)[at].gather(1, targets[at, :, None])[:, 0]
        assert found.log_probs == pytest.approx(expected.tolist(), abs=1e-4)
        assert sum(found.log_probs) == pytest.approx(found.score, abs=1e-4)


@torch.inference_mode()
def test_beam_search_knows_the_second_best_answer() -> None:
    model, encoded = tiny.model(), encoded_of(1)
    [one] = decode.generate(model, encoded, max_new_tokens=1, num_beams=2)
    first, second = model.log_probs(encoded, torch.zeros(1, 1, dtype=torch.int64))[0, 0].topk(2).values.tolist()
    assert (one.score, one.runner_up) == (pytest.approx(first, abs=1e-4), pytest.approx(second, abs=1e-4))
    [alone] = decode.generate(model, encoded, max_new_tokens=1)
    assert alone.runner_up is None
