"""Train a subword tokenizer from plain text, for models trained from scratch. Knows text only."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = 100  # T5's span corruption names masked spans <extra_id_0> .. <extra_id_99>


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A unigram tokenizer (Kudo, 2018) over NFKC text with byte fallback, ids 0, 1, 2 = pad, end, unknown.

    Words carry their leading space (`▁word`), so a name has the same tokens wherever it stands: what the copy
    head copies is what the answer is made of. Characters outside the vocabulary become bytes, so any script
    survives a round trip.

    Args:
        texts: paragraphs or documents; read once.
        vocab_size: pieces in all, special tokens, sentinels and the 256 bytes included.
    """
    special = [PAD, EOS, UNK, *(f"<extra_id_{i}>" for i in range(SENTINELS))]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - len(bytes_), special_tokens=special, unk_token=UNK, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return _with_byte_fallback(tokenizer, special, bytes_, vocab_size)


def _with_byte_fallback(trained: Tokenizer, special: list[str], bytes_: list[str], vocab_size: int) -> Tokenizer:
    """The trainer knows no byte fallback: rebuild the model with the byte pieces behind the special ones."""
    learned = json.loads(trained.to_str())["model"]["vocab"]
    pieces = [(piece, score) for piece, score in learned if piece not in set(special)]
    vocab = [*((s, 0.0) for s in special), *((b, 0.0) for b in bytes_), *pieces][:vocab_size]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[(EOS, 1)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer
