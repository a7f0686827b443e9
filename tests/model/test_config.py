"""Settings refuse what cannot be, naming it; layer counts follow GLIMMER, section 3."""

from __future__ import annotations

import json

import pytest

from memstore.config import ModelConfig
from memstore.errors import ConfigError
from tests import tiny


@pytest.mark.parametrize(
    ("layers", "system", "alpha", "beta", "counts"),
    [
        (24, "glimmer", 1 / 3, 1 / 4, (16, 2, 6)),
        (12, "glimmer", 1 / 3, 1 / 4, (8, 1, 3)),
        (6, "glimmer", 1 / 3, 1 / 2, (4, 1, 1)),
        (6, "glimmer", 0.01, 0.01, (5, 1, 0)),
        (6, "lumen", 1 / 3, 1 / 2, (4, 0, 2)),
        (6, "fid", 1, 1 / 2, (0, 0, 6)),
    ],
)
def test_layer_counts(layers: int, system: str, alpha: float, beta: float, counts: tuple[int, int, int]) -> None:
    c = tiny.config(num_layers=layers, system=system, alpha=alpha, beta=beta)
    assert (c.num_memory_layers, c.num_live_a_layers, c.num_live_b_layers) == counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"d_model": "32"}, "d_model must be int, not '32'"),
        ({"d_model": True}, "d_model must be int, not True"),
        ({"d_model": 32.0}, "d_model must be int"),
        ({"alpha": "all"}, "alpha must be float"),
        ({"trained": 1}, "trained must be bool, not 1"),
        ({"tasks": ["nq"]}, "tasks must be dict"),
        ({"system": "rag"}, "system must be fid, lumen or glimmer"),
        ({"feed_forward": "silu"}, "feed_forward must be"),
        ({"alpha": 0.0}, "alpha and beta"),
        ({"copy_previous": True}, "it needs copy_head"),
        ({"beta": 1.5}, "alpha and beta"),
        ({"system": "fid", "alpha": 0.5}, "alpha must be 1"),
        ({"question_template": "why"}, "question_template must contain {question}"),
        ({"passage_template": "{title}"}, "passage_template must contain {text}"),
        ({"tasks": {"nq": "why"}}, "task 'nq'"),
        ({"betta": 1}, "unknown key"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.config(**changes)


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError, match=r"missing key.*d_model.*vocab_size"):
        ModelConfig.from_dict({})


def test_json_and_back() -> None:
    c = tiny.config(tasks={"nq": "q: {question}"}, copy_head=True)
    assert ModelConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c
    assert c.replace(beta=1).beta == 1
