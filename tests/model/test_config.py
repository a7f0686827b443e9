"""Settings refuse what cannot be, naming it; layer counts follow GLIMMER, section 3."""

from __future__ import annotations

import json
import math

import pytest

from memstore.errors import ConfigError
from memstore.model.config import ModelConfig
from memstore.model.layers import RelativeBias
from tests import tiny


@pytest.mark.parametrize(
    ("layers", "system", "alpha", "beta", "counts"),
    [
        (24, "glimmer", 1 / 3, 1 / 4, (16, 2, 6)),
        (12, "glimmer", 1 / 3, 1 / 4, (8, 1, 3)),
        (6, "glimmer", 1 / 3, 1 / 2, (4, 1, 1)),
        (6, "glimmer", 0.01, 0.01, (5, 1, 0)),
        (10, "glimmer", 0.26, 0.6, (7, 2, 1)),  # rounded: 2.6 live layers, 1.8 of them before the scorer
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
        ({"d_kv": 0}, "d_kv must be at least 1"),
        ({"max_question_tokens": 0}, "max_question_tokens must be at least 1"),
        ({"max_passage_tokens": 0}, "max_passage_tokens must be at least 1"),
        ({"d_model": "32"}, "d_model must be int, not '32'"),
        ({"d_model": True}, "d_model must be int, not True"),
        ({"d_model": 32.0}, "d_model must be int"),
        ({"alpha": "all"}, "alpha must be float"),
        ({"trained": 1}, "trained must be bool, not 1"),
        ({"tasks": ["nq"]}, "tasks must be dict"),
        ({"system": "rag"}, "system must be fid, lumen or glimmer"),
        ({"feed_forward": "silu"}, "feed_forward must be"),
        ({"alpha": 0.0}, "alpha and beta"),
        ({"alpha": math.nan}, "alpha must be finite, not nan"),
        ({"retrieval_prior": math.inf}, "retrieval_prior must be finite, not inf"),
        ({"retrieval_prior": -0.5}, "retrieval_prior must be at least 0, not -0.5"),
        ({"score_bias": -1.0}, "score_bias must be at least 0, not -1.0"),
        ({"dropout_rate": -0.1}, r"dropout_rate must be in \[0, 1\], not -0.1"),
        ({"dropout_rate": 1.5}, r"dropout_rate must be in \[0, 1\], not 1.5"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon must be at least 0"),
        ({"embedding_dim": -1}, "embedding_dim must be at least 0, not -1"),
        ({"pad_token_id": -1}, r"pad_token_id must be in \[0, 192\), not -1"),
        ({"eos_token_id": 192}, "eos_token_id must be in"),
        ({"decoder_start_token_id": 500}, "decoder_start_token_id must be in"),
        ({"relative_attention_num_buckets": 3}, "num_buckets must be at least 4, not 3"),
        ({"relative_attention_max_distance": 16}, r"more than half of .*_buckets \(32\), not 16"),
        ({"spellings": {"yes": True}}, "spellings must hold strings by name"),
        ({"tasks": {"nq": 3}}, "tasks must hold strings by name"),
        ({"tasks": {3: "{question}"}}, "tasks must hold strings by name"),
        ({"copy_previous": True}, "copy_previous, which memstore has no more: answer with the version that made it"),
        ({"copy_previous": True, "extractive": True}, "copy_previous and extractive, which memstore has no more"),
        ({"beta": 1.5}, "alpha and beta"),
        ({"beta": 0.0}, "alpha and beta"),
        ({"system": "fid", "alpha": 0.5}, "alpha must be 1"),
        ({"question_template": "why"}, "question_template must contain {question}"),
        ({"passage_template": "{title}"}, "passage_template must contain {text}"),
        ({"passage_template": "text"}, "passage_template must contain {text}"),
        ({"tasks": {"nq": "why"}}, "task 'nq'"),
        ({"betta": 1}, "unknown key"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.config(**changes)


@pytest.mark.parametrize("changes", [{"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3},
                                     {"relative_attention_max_distance": 17}])  # fmt: skip
def test_the_least_that_can_be_runs(changes: dict[str, int]) -> None:
    for bidirectional in (True, False):
        bias = RelativeBias(tiny.config(**changes), bidirectional=bidirectional)
        assert bias(70, 70).shape == (1, 3, 70, 70)


def test_settings_that_a_config_does_not_name_stay_what_they_were() -> None:
    """Checkpoints of every age are read with these: another default would be another model."""
    required = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers")
    assert ModelConfig.from_dict(dict.fromkeys(required, 8)).to_dict() == dict.fromkeys(required, 8) | {
        "system": "glimmer", "alpha": 1 / 3, "beta": 1 / 4, "feed_forward": "gated-gelu",
        "tie_word_embeddings": False, "scale_head": False, "copy_head": False,
        "match_embedding": False, "match_scale": 1.0, "head_norms": False, "embedding_dim": 0, "retrieval_prior": 0.0,
        "score_bias": 0.0,
        "num_beams": 1,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
        "max_question_tokens": 64, "max_passage_tokens": 256, "question_template": "{question}",
        "passage_template": "title: {title} context: {text}", "tasks": {}, "spellings": {}, "name": "",
        "trained": True,
    }  # fmt: skip


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError, match=r"missing key.*d_model.*vocab_size"):
        ModelConfig.from_dict({})


def test_json_and_back() -> None:
    c = tiny.config(tasks={"nq": "q: {question}"}, copy_head=True)
    assert ModelConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c
    assert c.replace(beta=1).beta == 1
