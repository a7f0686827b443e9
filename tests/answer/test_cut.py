"""Whether an answer was cut is what decoding found: no end came within the length limit."""

from __future__ import annotations

import pytest

from memstore.answer import Question, Usage
from memstore.answer.certainty import Judge, judged
from memstore.decode.steps import Decoded

USAGE = Usage(milliseconds={}, bytes_read=0, flops={}, fid_flops=0.0, questions_in_batch=1)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("min_confidence", [0.0, 1.0])
def test_an_answer_without_an_end_is_cut(finished: bool, min_confidence: float) -> None:
    decoded = Decoded(ids=[5], score=-1.0, finished=finished, steps=1, log_probs=(-1.0,))
    answer = judged(Question("why?", min_confidence=min_confidence), "so", decoded, (), USAGE, by=Judge())
    assert answer.cut is not finished
