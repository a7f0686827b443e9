"""A random sentence encoder on disk: a BERT of one layer over single characters, mean pooled."""

from __future__ import annotations

import string
from pathlib import Path

import torch

CHARACTERS = string.ascii_lowercase + string.digits + ".?"


def save_sentence_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Saves it below `folder` and returns where. Imports are in here, as they take seconds."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    torch.manual_seed(seed)
    bert = BertModel(
        BertConfig(
            vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=128,
        )
    )  # fmt: skip
    bert.save_pretrained(folder / "bert")
    BertTokenizerFast({piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=128)
    SentenceTransformer(modules=[transformer, Pooling(16, "mean")], device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"
