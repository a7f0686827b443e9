"""Codecs that learn: how far their states are from those that went in, what their tables are, and their plain twins."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from memstore.codec import CODEC_NAMES, Codec, codec_from, get_codec, product
from memstore.codec.product import ProductCodec, balanced_rotation, nearest
from memstore.codec.scaled import best_scales
from memstore.codec.token_means import TokenMeans
from memstore.codec.weights import checked, normed_error
from memstore.errors import CodecMismatch, ConfigError, InvalidMemory, StoreFormatError

WIDTH, TOKENS = 32, 3000
LEARN = [name for name in CODEC_NAMES if get_codec(name).sample_tokens]


def memories(tokens: int, *, width: int = WIDTH, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States like a T5's: two huge dimensions, tokens of other sizes, a mean for each id, axes that hang together."""
    same = torch.Generator().manual_seed(9)
    means, mixing = torch.randn(20, width, generator=same), torch.randn(width, width, generator=same)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 20, (tokens,), generator=generator)
    falling = torch.logspace(0, -2, width)
    states = 4 * means[ids] + torch.randn(tokens, width, generator=generator) * falling @ mixing
    states[:, :2] *= 100
    return states * torch.logspace(-1, 2, tokens)[torch.randperm(tokens, generator=generator)][:, None], ids


WEIGHTS = torch.logspace(-1, 0, WIDTH)
STATES, IDS = memories(TOKENS)


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    return {name: get_codec(name).fit(STATES, IDS, weights=WEIGHTS) for name in CODEC_NAMES}


def through(codec: Codec, states: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return codec.decode(codec.encode(states, ids), ids, dtype=dtype, device="cpu")


@pytest.mark.parametrize("name", LEARN)
@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_arrays_are_as_announced(codecs: dict[str, Codec], name: str, tokens: int, dtype: torch.dtype) -> None:
    codec, specs = codecs[name], codecs[name].arrays(d_model=WIDTH, max_tokens=20)
    encoded = codec.encode(STATES[:tokens].to(dtype), IDS[:tokens])
    assert {s.name: (s.dtype, s.shape[1:]) for s in specs} == {
        n: (str(v.dtype), v.shape[1:]) for n, v in encoded.items()
    }
    assert all(s.shape[0] == 20 for s in specs)
    decoded = codec.decode(encoded, IDS[:tokens], dtype=dtype, device="cpu")
    assert (decoded.shape, decoded.dtype) == ((tokens, WIDTH), dtype)


def test_bytes_of_a_token() -> None:
    sizes = {name: sum(a.bytes_per_token for a in get_codec(name).arrays(d_model=512, max_tokens=9)) for name in LEARN}
    assert sizes == {"int8-fitted": 516, "pq": 66, "pq16": 34}


def test_each_codec_keeps_what_the_next_ones_bits_cannot(codecs: dict[str, Codec]) -> None:
    states, ids = memories(500, seed=1)  # others than it was fitted on
    order = ["bf16", "int8-fitted", "int8", "pq", "pq16"]
    errors = [normed_error(states, through(codecs[name], states, ids), WEIGHTS) for name in order]
    assert all(a < b for a, b in pairwise(errors)), errors
    assert errors[1] < 0.5 * errors[2]
    assert errors[3] < 0.35
    assert errors[4] < 0.7


def test_products_are_of_float32_where_bfloat16_is_slow(
    codecs: dict[str, Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a product of bfloat16 takes 30 times as long."""
    monkeypatch.setattr(product, "compute_dtype", lambda device: torch.float32)
    states, ids = memories(50, seed=1)
    found = through(codecs["pq"], states, ids, torch.bfloat16)
    assert torch.equal(found, through(codecs["pq"], states, ids).to(torch.bfloat16))


def test_weights_are_heeded(codecs: dict[str, Codec]) -> None:
    states, ids = memories(500, seed=1)
    for name in LEARN:
        blind = get_codec(name).fit(STATES, IDS)
        errors = [normed_error(states, through(c, states, ids), WEIGHTS) for c in (codecs[name], blind)]
        assert errors[0] < errors[1], name


def test_the_mean_of_a_token_id_is_heeded(codecs: dict[str, Codec]) -> None:
    """Decoded with other ids, the means of those come back."""
    codec, others = codecs["pq"], (IDS[:300] + 1) % 20
    right = normed_error(STATES[:300], through(codec, STATES[:300], IDS[:300]), WEIGHTS)
    arrays = codec.encode(STATES[:300], IDS[:300])
    wrong = codec.decode(arrays, others, dtype=torch.float32, device="cpu")
    assert normed_error(STATES[:300], wrong, WEIGHTS) > 3 * right


@pytest.mark.parametrize("name", ["pq", "pq16"])
@pytest.mark.parametrize("tokens", [1, 9000])  # 9,000 take more than one block
def test_a_product_quantizer_decodes_as_its_plain_twin(codecs: dict[str, Codec], name: str, tokens: int) -> None:
    codec = codecs[name]
    assert isinstance(codec, ProductCodec)
    states, ids = memories(tokens, seed=2)
    arrays = codec.encode(states, ids)
    wanted = codec.plain_decode(arrays, ids)
    decoded = codec.decode(arrays, ids, dtype=torch.float32, device="cpu")
    assert float((decoded - wanted).norm() / wanted.norm()) < 1e-5
    short = codec.decode(arrays, ids, dtype=torch.bfloat16, device="cpu").float()
    assert normed_error(wanted, short, WEIGHTS) < 0.01


def test_the_nearest_centroid_is_found_as_by_all_distances() -> None:
    generator = torch.Generator().manual_seed(3)
    centroids, values = torch.randn(3, 256, 4, generator=generator), torch.randn(5000, 12, generator=generator)
    distances = torch.cdist(values.view(-1, 3, 4).transpose(0, 1), centroids)  # (M, T, 256)
    chosen = distances.gather(2, nearest(values, centroids).T[..., None].long()).squeeze(2)
    assert torch.allclose(chosen, distances.amin(2), atol=1e-5)


def test_an_int8_by_hand() -> None:
    codec = get_codec("int8-fitted").with_tables({"scales": np.array([1, 100], np.float32)})
    arrays = codec.encode(torch.tensor([[127.0, -6350.0], [0.0, 0.0]]), torch.zeros(2).long())
    assert arrays["states"].tolist() == [[127, -64], [0, 0]]  # -63.5 to even
    assert arrays["scales"].tolist() == [1, 0]
    decoded = codec.decode(arrays, torch.zeros(2).long(), dtype=torch.float32, device="cpu")
    assert decoded.tolist() == [[127, -6400], [0, 0]]


def test_the_best_scales_are_better_than_those_near_them() -> None:
    of = checked(WEIGHTS, WIDTH)

    def error(scales: torch.Tensor) -> float:
        codec = get_codec("int8-fitted").with_tables({"scales": scales.numpy()})
        return normed_error(STATES, through(codec, STATES, IDS), WEIGHTS)

    best = best_scales(STATES, of)
    largest, root = STATES.abs().amax(0), STATES.pow(2).mean(0).sqrt()
    assert error(best) < min(error(largest), error(root), error(root.sqrt()), error(torch.ones(WIDTH)))
    generator = torch.Generator().manual_seed(0)
    moved = [best * torch.exp(0.5 * torch.randn(WIDTH, generator=generator)) for _ in range(5)]
    assert all(error(best) < error(scales) for scales in moved)


def test_means_of_token_ids_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 8.0]])
    means = TokenMeans.fit(states, torch.tensor([5, 5, 2]))
    common = [4 / 3, 8 / 3]  # of all; id 2 was seen once only
    own = [(4 + 2 * common[0]) / 4, 2 * common[1] / 4]
    assert means.ids.tolist() == [5]
    got = means.of(torch.tensor([5, 2, 0, 6, 10_000])).float()
    assert torch.allclose(got, torch.tensor([own, *[common] * 4]), rtol=0.01)


def test_parts_of_a_rotation_vary_alike() -> None:
    variances = torch.tensor([64.0, 32, 16, 8, 4, 2, 1, 0.5])
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, 8, generator=generator) * variances.sqrt()
    rotation = balanced_rotation(values, parts=2, axes=2)  # the first four axes: 64 with 8, 32 with 16
    assert torch.allclose(rotation.T @ rotation, torch.eye(4), atol=1e-5)
    products = (values @ rotation).var(0).view(2, 2).prod(1)
    assert torch.allclose(products, torch.full((2,), 512.0), rtol=0.1)


@pytest.mark.parametrize("name", LEARN)
@pytest.mark.parametrize("width", [1, 6, 12, 17, 40])
def test_any_width_will_do(name: str, width: int) -> None:
    states, ids = memories(600, width=width)
    codec = get_codec(name).fit(states, ids)
    arrays = codec.encode(states, ids)
    if name != "int8-fitted":
        assert arrays["states"].shape == (600, -(-width // get_codec(name).attributes()["dims"]))
    assert normed_error(states, codec.decode(arrays, ids, dtype=torch.float32, device="cpu")) < 1


@pytest.mark.parametrize("name", LEARN)
@pytest.mark.parametrize("tokens", [1, 2, 30, 300])
def test_a_small_sample_will_do(name: str, tokens: int, capfd: pytest.CaptureFixture[str]) -> None:
    codec = get_codec(name).fit(STATES[:tokens], IDS[:tokens], weights=WEIGHTS)
    assert bool(torch.isfinite(through(codec, STATES[:50], IDS[:50])).all())
    assert capfd.readouterr() == ("", "")  # faiss warns of few tokens by itself


@pytest.mark.parametrize("name", LEARN)
def test_tokens_of_zeros_and_a_sample_of_nothing_else(name: str) -> None:
    zeros = torch.zeros(40, WIDTH)
    codec = get_codec(name).fit(zeros, IDS[:40])
    assert torch.equal(through(codec, zeros, IDS[:40]), zeros)
    assert bool(torch.isfinite(through(codec, STATES[:40], IDS[:40])).all())


@pytest.mark.parametrize("name", LEARN)
def test_the_same_sample_gives_the_same_tables(codecs: dict[str, Codec], name: str) -> None:
    again = get_codec(name).fit(STATES, IDS, weights=WEIGHTS).tables()
    assert {n: t.tobytes() for n, t in again.items()} == {n: t.tobytes() for n, t in codecs[name].tables().items()}


@pytest.mark.parametrize("name", LEARN)
def test_a_codec_comes_back_from_its_attributes_and_tables(codecs: dict[str, Codec], name: str) -> None:
    codec = codec_from(codecs[name].attributes(), codecs[name].tables())
    assert torch.equal(through(codec, STATES[:90], IDS[:90]), through(codecs[name], STATES[:90], IDS[:90]))
    with pytest.raises(CodecMismatch, match="decodes by tables that it learned, and none are named"):
        codec_from(codec.attributes())
    with pytest.raises(StoreFormatError, match="a codec that this memstore does not know"):
        codec_from(codec.attributes() | {"version": 2}, codecs[name].tables())


@pytest.mark.parametrize("name", LEARN)
def test_tables_of_another_shape_are_refused(codecs: dict[str, Codec], name: str) -> None:
    tables = dict(codecs[name].tables())
    first = min(tables)
    changes: list[dict[str, Any]] = [
        {n: t for n, t in tables.items() if n != first},
        tables | {"more": tables[first]},
        tables | {first: tables[first][None]},
        tables | {first: tables[first].astype("float64")},
    ]
    if name != "int8-fitted":
        changes += [tables | {"mean_ids": tables["mean_ids"][::-1]}, tables | {"means": tables["means"][1:]}]
    for changed in changes:
        with pytest.raises(CodecMismatch, match=f"the codec '{name}'"):
            codec_from(codecs[name].attributes(), changed)


@pytest.mark.parametrize("name", LEARN)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(codecs: dict[str, Codec], name: str, value: float) -> None:
    states = STATES[:4].clone()
    states[2, 1] = value
    with pytest.raises(InvalidMemory, match="states of token 2 of 4 are not finite"):
        codecs[name].encode(states, IDS[:4])
    with pytest.raises(InvalidMemory, match="states of token 2 of 4 are not finite"):
        get_codec(name).fit(states, IDS[:4])


@pytest.mark.parametrize("name", LEARN)
def test_a_codec_that_was_not_fitted_says_so(name: str) -> None:
    assert get_codec(name).tables() == {}
    with pytest.raises(ConfigError, match="has not been fitted"):
        get_codec(name).encode(STATES[:3], IDS[:3])
    with pytest.raises(ConfigError, match="32 finite weights"):
        get_codec(name).fit(STATES, IDS, weights=torch.ones(31))
