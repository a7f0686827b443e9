"""All codecs by name: what `--codec` and the manifests call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from memstore.codec.base import Codec, Tables
from memstore.codec.plain import Bfloat16Codec, Int8Codec
from memstore.codec.product import ProductCodec
from memstore.codec.scaled import ScaledInt8Codec
from memstore.errors import CodecMismatch, ConfigError, StoreFormatError

CODECS: dict[str, Callable[[], Codec]] = {
    "bf16": Bfloat16Codec,
    "int8": Int8Codec,
    "int8-fitted": ScaledInt8Codec,
    "pq": lambda: ProductCodec(dims=8, name="pq"),
    "pq16": lambda: ProductCodec(dims=16, name="pq16"),
}
"""What makes each codec, by the name that `--codec` and the manifests call it; before `fit`, if it learns."""

CODEC_NAMES = tuple(CODECS)


def get_codec(name: str) -> Codec:
    """The codec of that name, for writing; one with `sample_tokens` must be fitted first.

    Raises:
        ConfigError: there is none.
    """
    if name not in CODECS:
        raise ConfigError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    return CODECS[name]()


def codec_from(attributes: Mapping[str, Any], tables: Tables | None = None) -> Codec:
    """The codec that a segment's attributes and its tables describe, for reading.

    Raises:
        StoreFormatError: unknown name, version or setting.
        CodecMismatch: the tables are not of that codec, or it needs some.
    """
    name = attributes.get("name")
    make = CODECS.get(name) if isinstance(name, str) else None
    codec = None if make is None else _with_tables(make(), tables or {})
    if codec is None or codec.attributes() != dict(attributes):
        raise StoreFormatError(
            f"the memories are in a codec that this memstore does not know: {dict(attributes)!r}; "
            f"known: {', '.join(CODECS)}. Read them with the memstore version that wrote them."
        )
    return codec


def _with_tables(codec: Codec, tables: Tables) -> Codec:
    if codec.sample_tokens and not tables:
        raise CodecMismatch(f"the codec {codec.name!r} decodes by tables that it learned, and none are named")
    try:
        return codec.with_tables(tables)
    except ValueError as error:
        raise CodecMismatch(f"the tables are not of the codec {codec.name!r}: {error}") from error
