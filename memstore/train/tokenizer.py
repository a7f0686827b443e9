"""Train a subword tokenizer from plain text, for models trained from scratch. Knows text only."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = 100  # T5's span corruption names masked spans <extra_id_0> .. <extra_id_99>
ALPHABET = 400  # characters with a piece of their own; the others are written in bytes

# A word has the same pieces wherever it stands: no space before punctuation, one between punctuation and a word.
_BEFORE_MARK = Regex(r"\s+(?=[^\w\s<])")
_MARK_LETTER = Regex(r"(?<=[^\w\s>])(?=\p{L})")
_MARK_DIGIT = Regex(r"(?<=[^\w\s.,:>])(?=\d)")  # "1,000" and "2.5" stay together
# What decoding takes back: hyphens, apostrophes, initials, opening brackets.
_JOINED = Regex(r"(?<=\w[-'’–/]) (?=\w)|(?<=\b\w\.) (?=\w(?:[.,;:)]|$))|(?<=[(\[$£€“]) ")
_OPENING = Regex(r"(?<=[\w,])(?=[(\[“$£€])")


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, lowercase: bool = False) -> Tokenizer:
    """Byte-pair encoding (arXiv 1508.07909) over NFKC text with byte fallback, ids 0, 1, 2 = pad, end, unknown.

    Words carry their leading space (`▁word`) and punctuation stands apart, so a name has the same pieces wherever it
    stands: what the copy head copies is what the answer is made of. Characters outside the vocabulary become bytes,
    so any script survives a round trip; spaces around punctuation do so only by rules of English writing.

    Args:
        texts: paragraphs or documents; read once.
        vocab_size: pieces in all, special tokens, sentinels and the 256 bytes included.
        lowercase: fold case, so that a question in small letters has the pieces of the passage it asks about.
    """
    special = [PAD, EOS, UNK, *(f"<extra_id_{i}>" for i in range(SENTINELS))]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=False))
    fold = [normalizers.Lowercase()] if lowercase else []
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            *fold,
            normalizers.Replace(_BEFORE_MARK, ""),
            normalizers.Replace(_MARK_LETTER, " "),
            normalizers.Replace(_MARK_DIGIT, " "),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special + bytes_,
        limit_alphabet=ALPHABET,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer = _without_added(tokenizer, bytes_)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(_JOINED, ""),
            decoders.Replace(_OPENING, " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[(EOS, 1)]
    )
    return tokenizer


def _without_added(tokenizer: Tokenizer, ordinary: list[str]) -> Tokenizer:
    """The same tokenizer with some special tokens made ordinary pieces: text that spells a byte piece is text."""
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in set(ordinary)]
    return Tokenizer.from_str(json.dumps(values))
