"""How memories are kept: states to arrays and back. Below the store and the training; knows neither, nor the model."""

from memstore.codec.base import Arrays, ArraySpec, Codec, LearnsNothing, Tables
from memstore.codec.known import CODEC_NAMES, CODECS, codec_from, get_codec

__all__ = [
    "CODECS",
    "CODEC_NAMES",
    "ArraySpec",
    "Arrays",
    "Codec",
    "LearnsNothing",
    "Tables",
    "codec_from",
    "get_codec",
]
