"""Codecs that learn nothing: how far the states that come back are from those that went in."""

import numpy as np
import pytest
import torch

from memstore.codec import CODEC_NAMES, ArraySpec, codec_from, get_codec
from memstore.errors import ConfigError, InvalidMemory, StoreFormatError

PLAIN = [name for name in CODEC_NAMES if not get_codec(name).sample_tokens]


def states(tokens, d_model=8):
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, d_model, generator=generator) * torch.logspace(-3, 4, tokens)[:, None]


def ids(tokens):
    return torch.arange(tokens)  # these codecs have no use for them


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_arrays_are_as_announced(name, tokens, dtype):
    codec = get_codec(name)
    encoded = codec.encode(states(tokens).to(dtype), ids(tokens))
    specs = codec.arrays(d_model=8, max_tokens=20)
    assert {s.name: (s.dtype, s.shape[1:]) for s in specs} == {
        k: (str(v.dtype), v.shape[1:]) for k, v in encoded.items()
    }
    assert all(s.shape[0] == 20 for s in specs)
    decoded = codec.decode(encoded, ids(0), dtype=dtype, device="cpu")
    assert (decoded.shape, decoded.dtype) == ((tokens, 8), dtype)


def test_bf16_is_exact_for_bfloat16_and_rounds_float32():
    codec, values = get_codec("bf16"), states(50)
    for dtype in (torch.bfloat16, torch.float32):
        decoded = codec.decode(codec.encode(values.to(dtype), ids(0)), ids(0), dtype=dtype, device="cpu")
        assert torch.equal(decoded, values.to(torch.bfloat16).to(dtype))


@pytest.mark.parametrize("tokens", [50, 9000])
def test_int8_is_within_half_a_scale(tokens):
    codec, values = get_codec("int8"), states(tokens)  # 9000 tokens take more than one block
    encoded = codec.encode(values, ids(0))
    decoded = codec.decode(encoded, ids(0), dtype=torch.float32, device="cpu")
    half = torch.from_numpy(encoded["scales"])[:, None] / 2
    assert bool(((decoded - values).abs() <= half * (1 + 1e-5)).all())
    assert encoded["states"].min() >= -127
    rounded = codec.decode(encoded, ids(0), dtype=torch.bfloat16, device="cpu")
    assert torch.equal(rounded, decoded.to(torch.bfloat16))  # rounded once


def test_int8_by_hand():
    encoded = get_codec("int8").encode(torch.tensor([[127.0, -63.4, 0.0], [0.0, 0.0, 0.0], [-0.5, 0.25, 0.1]]), ids(0))
    assert encoded["states"].tolist() == [[127, -63, 0], [0, 0, 0], [-127, 64, 25]]
    assert np.allclose(encoded["scales"], [1, 0, 0.5 / 127])


def test_int8_survives_the_smallest_and_largest_values():
    values = torch.tensor([[1e-45, 0.0], [1e38, -1.0]])
    decoded = get_codec("int8").decode(
        get_codec("int8").encode(values, ids(0)), ids(0), dtype=torch.float32, device="cpu"
    )
    assert bool(torch.isfinite(decoded).all())
    assert torch.allclose(decoded[1, 0], values[1, 0])


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(name, value):
    values = states(4)
    values[2, 1] = value
    with pytest.raises(InvalidMemory, match="states of token 2 of 4 are not finite"):
        get_codec(name).encode(values, ids(0))


def test_float32_beyond_bfloat16_is_refused():
    with pytest.raises(InvalidMemory, match="not finite"):
        get_codec("bf16").encode(torch.tensor([[torch.finfo(torch.float32).max]]), ids(0))


def test_codecs_are_found_by_name_and_by_attributes():
    for name in PLAIN:
        assert codec_from(get_codec(name).attributes()) == get_codec(name)
    with pytest.raises(ConfigError, match="unknown codec 'int4'; known: bf16, int8, int8-fitted, pq, pq16"):
        get_codec("int4")


@pytest.mark.parametrize("attributes", [{}, {"name": "zip"}, {"name": [1]}, {"name": "int8", "version": 2}])
def test_unknown_attributes_are_refused(attributes):
    with pytest.raises(StoreFormatError, match="codec that this memstore does not know"):
        codec_from(attributes)


def test_bytes_per_token():
    assert ArraySpec("states", "uint16", (20, 8)).bytes_per_token == 16
    assert ArraySpec("scales", "float32", (20,)).bytes_per_token == 4
