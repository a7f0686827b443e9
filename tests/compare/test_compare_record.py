"""The fingerprint of a model, with which results are kept."""

from __future__ import annotations

import torch

from memstore.compare.record import model_fingerprint
from memstore.model.tokens import TextTokenizer
from tests import tiny
from tests.compare import compare_cases as cases


def test_a_fingerprint_sees_the_last_bit_of_a_weight() -> None:
    model = tiny.model(**cases.SHAPE)
    tokenizer = TextTokenizer(cases.data_cases.tokenizer()._tokenizer, model.config)
    before = model_fingerprint(model, tokenizer)
    assert model_fingerprint(tiny.model(**cases.SHAPE), tokenizer) == before
    weight = model.embedding.weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))
    assert model_fingerprint(model, tokenizer) != before
