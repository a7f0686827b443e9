"""The recipe's first step: the numbers and names of an int8 ONNX graph become those of a stock T5."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from memstore.checkpoint import from_t5
from tests import tiny

SCRIPT = Path(__file__).parents[2] / "recipes" / "default" / "pretrained.py"
SHAPE = {"d_ff": 3, "d_kv": 2, "d_model": 4, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 1}
CONFIG = SHAPE | {"vocab_size": tiny.VOCAB_SIZE, "relative_attention_num_buckets": 4}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_pretrained", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def graph(side: str, recipe: ModuleType) -> tuple[dict[str, np.ndarray], list[tuple[str, str]], dict[str, np.ndarray]]:
    """The initializers and products of one side's ONNX graph, and the stock parameters that they hold."""
    rng, want = np.random.default_rng(len(side)), {}
    initializers: dict[str, np.ndarray] = {"onnx::Gather_1": np.array([1, 2]), "/Constant": np.array(0.5, np.float32)}
    products, root = [], {"encoder": "enc", "decoder": "m.decoder"}[side]
    for name, shape in recipe.expected_shapes(CONFIG).items():
        traced = {"shared.weight": {"encoder": "enc.embed_tokens.weight", "decoder": "m.shared.weight"}[side]}
        if name == "lm_head.weight" and side == "decoder":
            traced["lm_head.weight"] = "m.lm_head.weight"
        path = traced.get(name, name.replace(side, root, 1) if name.startswith(side) else "")
        if not path:
            continue
        if name.endswith("norm.weight"):
            initializers[path] = want[name] = rng.random(shape, dtype=np.float32)
            continue
        looked_up = "shared" in name or "bias" in name
        if looked_up:  # unsigned, with a zero of its own; the embedding must be the same on both sides
            q = np.random.default_rng(7).integers(0, 256, shape).astype(np.uint8)
            zero, scale = np.uint8(138), np.float32(1.25)
        else:
            q, zero, scale = rng.integers(-127, 128, shape).astype(np.int8), np.int8(0), np.float32(rng.random())
        want[name] = (q.astype(np.float32) - np.float32(zero)) * scale
        base = path if looked_up else f"onnx::MatMul_{len(products)}"
        if not looked_up:
            products.append((f"/{path.removesuffix('.weight').replace('.', '/')}/MatMul_quant", f"{base}_quantized"))
            q = q.T
        initializers |= {f"{base}_quantized": q, f"{base}_zero_point": np.array(zero), f"{base}_scale": np.array(scale)}
    return initializers, products, want


def test_every_number_is_its_distance_from_zero_in_steps(recipe: ModuleType) -> None:
    unsigned = recipe.dequantised(np.array([[0, 138], [139, 255]], np.uint8), np.array(138, np.uint8), np.array(0.5))
    np.testing.assert_array_equal(unsigned, [[-69, 0], [0.5, 58.5]])
    assert unsigned.dtype == np.float32
    by_column = recipe.dequantised(np.array([[-2, 4]], np.int8), np.array([0, 1], np.int8), np.array([0.5, 2.0]))
    np.testing.assert_array_equal(by_column, [[-1, 6]])


@pytest.mark.parametrize(
    ("traced", "stock"),
    [
        ("/enc/block.0/layer.0/SelfAttention/q/MatMul_quant", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        ("/m/decoder/block.7/layer.2/DenseReluDense/wi_1/MatMul_quant",
         "decoder.block.7.layer.2.DenseReluDense.wi_1.weight"),
        ("/m/lm_head/MatMul_quant", "lm_head.weight"),
        ("m.shared.weight_quantized", "shared.weight"),
        ("enc.final_layer_norm.weight", "encoder.final_layer_norm.weight"),
    ],
)  # fmt: skip
def test_names(recipe: ModuleType, traced: str, stock: str) -> None:
    assert recipe.stock_name(traced) == stock


@pytest.mark.parametrize("traced", ["onnx::MatMul_1022_quantized", "/other/q/MatMul_quant", "m"])
def test_other_names_are_refused(recipe: ModuleType, traced: str) -> None:
    with pytest.raises(ValueError, match="no name of a T5's parameter"):
        recipe.stock_name(traced)


def test_two_graphs_make_a_stock_checkpoint_that_converts(recipe: ModuleType, tmp_path: Path) -> None:
    (*encoder, of_encoder), (*decoder, of_decoder) = (graph(side, recipe) for side in ("encoder", "decoder"))
    tensors = recipe.merged(recipe.stock_tensors(*encoder), recipe.stock_tensors(*decoder))
    recipe.check_shapes(tensors, CONFIG)
    for name, values in (of_encoder | of_decoder).items():
        np.testing.assert_array_equal(tensors[name], values, err_msg=name)
    save_file(tensors, tmp_path / "model.safetensors")
    values: dict[str, Any] = recipe.CONFIG | CONFIG | {"relative_attention_max_distance": 8}
    (tmp_path / "config.json").write_text(json.dumps(values))
    tiny.tokenizer().save(str(tmp_path / "tokenizer.json"))
    model, _ = from_t5(tmp_path)
    assert model.head is not None
    assert torch.equal(model.head.weight, torch.from_numpy(of_decoder["lm_head.weight"]))
    assert not model.config.scale_head


def test_what_is_not_this_t5_is_named(recipe: ModuleType) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in recipe.expected_shapes(CONFIG).items()}
    recipe.check_shapes(tensors, CONFIG)
    head = tensors.pop("lm_head.weight")
    with pytest.raises(ValueError, match=r"1 parameter.*lm_head.weight: missing"):
        recipe.check_shapes(tensors, CONFIG)
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        recipe.check_shapes(tensors | {"lm_head.weight": head.T}, CONFIG)
    embedding = {"encoder.embed_tokens.weight": head}
    with pytest.raises(ValueError, match="different embeddings"):
        recipe.merged(embedding, {"shared.weight": head + 1})
