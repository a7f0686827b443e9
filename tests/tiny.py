"""Tiny tokenizers, models, checkpoints and passages for all tests: made on the spot, the same every time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from memstore import checkpoint
from memstore.model.config import ModelConfig
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage

CPU = torch.device("cpu")
SPECIAL = ("<pad>", "</s>", "<unk>")
WORDS = ["the", "of", "and", "in", "to", "a", "is", "was", "who", "what", "where", "when", "which", "river",
         "city", "lake", "born", "capital", "longest", "largest", "country", "Paris", "France", "Nile",
         "Africa", "Berlin", "Germany", "Rhine", "Danube", "Everest", "mountain",
         "title:", "context:", "question:"]  # fmt: skip
CHARACTERS = [chr(c) for c in range(33, 127)]
VOCAB_SIZE = 192  # more embeddings than tokens, as in T5


def tokenizer() -> Tokenizer:
    """A unigram tokenizer over some words and all printable ASCII characters: lossless for ASCII text."""
    pieces = [(piece, 0.0) for piece in SPECIAL]
    pieces += [("▁", -6.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    pieces += [(c, -6.0) for c in CHARACTERS]
    assert len(pieces) <= VOCAB_SIZE
    made = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(list(SPECIAL))
    return made


def config(**changes: Any) -> ModelConfig:
    """A GLIMMER of six encoder layers, cut in 4 + 1 + 1, whose heads do not fill its width."""
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 3,
        "num_layers": 6, "num_decoder_layers": 2, "alpha": 1 / 3, "beta": 1 / 2,
        "max_question_tokens": 16, "max_passage_tokens": 48, "name": "tiny",
    }  # fmt: skip
    return ModelConfig.from_dict(values | changes)


def model(seed: int = 0, **changes: Any) -> MemoryModel:
    """A random model in evaluation mode, norms and copy gate included, so that no part is the identity."""
    made = MemoryModel(config(**changes))
    made.initialise(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
            elif name.endswith("table.weight"):  # position biases large enough to be missed if they are wrong
                p.copy_(torch.randn(p.shape, generator=generator))
    if made.memory_embedding is not None and made.question_encoder is not None:
        made.question_encoder.load_state_dict(made.memory_encoder.state_dict())
    return made.eval()


def text_tokenizer(**changes: Any) -> TextTokenizer:
    """The tiny tokenizer with the tiny config's templates and limits."""
    return TextTokenizer(tokenizer(), config(**changes))


def save_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A tiny checkpoint of ours on disk."""
    made = model(seed, **changes)
    checkpoint.save(folder, made, TextTokenizer(tokenizer(), made.config))
    return folder


def passages(count: int, *, seed: int = 0, max_words: int = 12, prefix: str = "d") -> list[Passage]:
    """Passages of random words, some of them repeated, of ragged lengths."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        text = " ".join(rng.choice(WORDS[:31]) for _ in range(rng.randint(1, max_words)))
        title = rng.choice(WORDS[21:30])
        made.append(Passage(id=f"{prefix}{i}:0", document_id=f"{prefix}{i}", title=title, text=text, end=len(text)))
    return made


def token_rows(lengths: list[int], *, seed: int = 0) -> list[torch.Tensor]:
    """Random token ids (no specials) in rows of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB_SIZE, (n,), generator=generator) for n in lengths]


Flavour = Literal["v1.0", "v1.1", "flan", "mt5"]


def save_stock_t5(folder: Path, flavour: Flavour = "v1.0", *, seed: int = 0, **changes: Any) -> Path:
    """A random T5 as `transformers` saves it, with the tiny tokenizer.

    v1.0 has a plain feed-forward and a tied, scaled head; v1.1 a gated one and its own head, saved as
    transformers 5 does; Flan is v1.1 as older versions saved it: an old config, and each tied embedding under
    all its names; mT5 is v1.1 of another class, which transformers 5 saves without a word about the head's scale.
    """
    from safetensors.torch import load_file, save_file
    from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 6, "num_heads": 3,
        "num_decoder_layers": 2, "decoder_start_token_id": 0, "tie_word_embeddings": flavour == "v1.0",
        "feed_forward_proj": "relu" if flavour == "v1.0" else "gated-gelu",
    }  # fmt: skip
    stock: Any
    if flavour == "mt5":
        stock = MT5ForConditionalGeneration(MT5Config(**(values | changes)))
    else:
        stock = T5ForConditionalGeneration(T5Config(**(values | changes)))
    generator = torch.Generator().manual_seed(seed)
    if flavour != "v1.0":
        stock.lm_head.weight = torch.nn.Parameter(torch.empty_like(stock.shared.weight))
    with torch.no_grad():
        for name, p in stock.named_parameters():  # larger than T5's own start, so that every part counts
            large = p.ndim == 1 or "relative_attention" in name or name == "shared.weight"
            scale = 1.0 if large else p.shape[1] ** -0.5
            p.copy_((p.ndim == 1) + scale * 0.7 * torch.randn(p.shape, generator=generator))
    stock.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer().to_str(), encoding="utf-8")
    if flavour == "flan":
        path = folder / "config.json"
        old = json.loads(path.read_text()) | {"tie_word_embeddings": False, "transformers_version": "4.23.1"}
        del old["scale_decoder_outputs"]
        path.write_text(json.dumps(old))
        tensors = load_file(folder / "model.safetensors")
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            tensors[name] = tensors["shared.weight"].clone()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
