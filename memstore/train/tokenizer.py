"""Trains a subword tokenizer on plain text, for models trained from scratch. Knows text only."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = 100  # T5's span corruption marks masked spans by <extra_id_0> .. <extra_id_99>
ALPHABET = 400  # characters with a piece of their own; others are written as bytes

# A word has the same pieces everywhere: no space before punctuation, one between punctuation and a word.
_BEFORE_MARK = Regex(r"\s+(?=[^\w\s<])")
_MARK_LETTER = Regex(r"(?<=[^\w\s>])(?=\p{L})")
_MARK_DIGIT = Regex(r"(?<=[^\w\s.,:>])(?=\d)")  # "1,000" and "2.5" stay together
# Where decoding removes that space again: hyphens, apostrophes, initials, opening brackets.
_JOINED = Regex(r"(?<=\w[-'’–/]) (?=\w)|(?<=\b\w\.) (?=\w(?:[.,;:)]|$))|(?<=[(\[$£€“]) ")
_OPENING = Regex(r"(?<=[\w,])(?=[(\[“$£€])")


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, lowercase: bool = False) -> Tokenizer:
    """A tokenizer by byte-pair encoding (arXiv 1508.07909) over NFKC text, with byte fallback.

    Ids 0, 1 and 2 are pad, end and unknown. A word includes the space before it (`▁word`), and punctuation is its own
    token. So a name has the same pieces everywhere, and the copy head can copy it from a passage into the answer.
    Characters outside the vocabulary become bytes, so that decoding restores any script. Spaces around punctuation are
    restored by rules of English writing.

    Args:
        texts: paragraphs or documents; read once.
        vocab_size: number of pieces, with special tokens, sentinels and the 256 bytes.
        lowercase: make all text lower case, so that a question in lower case has the pieces of its passage.
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
    """The tokenizer with some special tokens made ordinary pieces: a text that spells "<0x41>" stays that text."""
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in set(ordinary)]
    return Tokenizer.from_str(json.dumps(values))
