"""What a codec learned, on disk: `codecs/<name>.safetensors`, written once before the first segment. Knows no model.

The header carries the codec's attributes and a sha256 of the tables, so that a damaged file is not taken for the
tables of another fit. Each segment written with them names the file with its size and sha256 in its group's
attributes, beside the codec's; the generation names them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from memstore.codec import Codec, Tables, codec_from
from memstore.errors import ChecksumMismatch, CodecMismatch, ConfigError, MissingData, StoreFormatError
from memstore.files import sync
from memstore.store.format import (
    MEMORY,
    TEMPORARY,
    Seal,
    TablesRef,
    codec_path,
    hash_bytes,
    read_bytes,
    read_sealed_file,
    tables_ref,
)

_RESTORE = "Restore it from a copy, or remove the store and build it again."
_KEY = "memstore"  # of the header; one key alone, as the order of several is left to chance
_CODEC, _TABLES = "codec", "codec_tables"  # of a segment's attributes; the second only where there are tables


def write_tables(store: Path, name: str, codec: Codec) -> TablesRef | None:
    """Write what a codec learned under a name, whole or not at all; None for a codec that learns nothing.

    Raises:
        ConfigError: the codec was not fitted.
    """
    tables = codec.tables()
    if not tables:
        if codec.sample_tokens:
            raise ConfigError(f"the codec {codec.name!r} learns tables: fit it before anything is written with it")
        return None
    tables = {key: np.ascontiguousarray(table) for key, table in tables.items()}
    header = json.dumps({"codec": codec.attributes(), "sha256": _digest(tables)}, sort_keys=True)
    data, path = save(tables, metadata={_KEY: header}), codec_path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.write_bytes(data)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
    sync(store)
    return TablesRef(file=name, size=len(data), sha256=hash_bytes(data))


def find_codec(store: Path, name: str) -> tuple[Codec, TablesRef] | None:
    """The codec whose tables were written under a name, with what names them; None if there are none.

    Raises:
        ChecksumMismatch, StoreUnreadable: the file is damaged; the system cannot read it.
        CodecMismatch, StoreFormatError: its tables are not of the codec that it names; that is not known.
    """
    path = codec_path(store, name)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return None
    attributes, tables = _parse(data, path)
    return _made(attributes, tables, path), TablesRef(file=name, size=len(data), sha256=hash_bytes(data))


def open_codec(store: Path, attributes: Mapping[str, Any], ref: TablesRef | None) -> Codec:
    """The codec that a segment's attributes describe, with the tables that it was written with.

    Raises:
        MissingData, ChecksumMismatch, StoreUnreadable: the tables are absent or damaged; the system cannot read them.
        CodecMismatch: they are of another fit or another codec, or the segment names none where it must.
        StoreFormatError: an unknown codec.
    """
    return codec_from(attributes) if ref is None else _made(attributes, read_tables(store, ref), _path(store, ref))


def read_tables(store: Path, ref: TablesRef) -> Tables:
    """The tables that were written as `ref` says.

    Raises:
        MissingData, ChecksumMismatch, StoreUnreadable, CodecMismatch: see `open_codec`.
    """
    path = _path(store, ref)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise MissingData(f"{path} is missing: the tables that the codec decodes by. {_RESTORE}") from None
    attributes, tables = _parse(data, path)
    if (len(data), hash_bytes(data)) != (ref.size, ref.sha256):
        raise CodecMismatch(
            f"{path} holds tables of another fit of the codec {attributes.get('name')!r} than the memories were "
            f"written with: its sha256 is {hash_bytes(data)[:12]}..., not {ref.sha256[:12]}... {_RESTORE}"
        )
    return tables


def segment_codec(folder: Path, seal: Seal) -> tuple[dict[str, Any], TablesRef | None]:
    """A sealed segment's codec attributes, and what names its tables.

    Raises:
        MissingData, ChecksumMismatch, StoreUnreadable, StoreFormatError: its attributes cannot be read.
    """
    name = f"{MEMORY}/zarr.json"
    attributes = json.loads(read_sealed_file(folder, seal, name))["attributes"]
    ref = attributes.get(_TABLES)
    return attributes[_CODEC], None if ref is None else tables_ref(ref, folder / name)


def group_attributes(codec: Codec, ref: TablesRef | None) -> dict[str, Any]:
    """What `segment_codec` reads, for writing.

    Raises:
        ConfigError: the codec was not fitted, or its tables are not in the store.
    """
    attributes = {_CODEC: dict(codec.attributes())}
    if ref is None and (codec.sample_tokens or codec.tables()):
        raise ConfigError(f"the codec {codec.name!r} learns tables: fit it and write them before the first segment")
    return attributes if ref is None else attributes | {_TABLES: ref_values(ref)}


def ref_values(ref: TablesRef) -> dict[str, Any]:
    """Plain values of a reference, for JSON."""
    return {"file": ref.file, "size": ref.size, "sha256": ref.sha256}


def _path(store: Path, ref: TablesRef) -> Path:
    try:
        return codec_path(store, ref.file)
    except ConfigError as error:
        raise StoreFormatError(str(error)) from error


def _made(attributes: Mapping[str, Any], tables: Tables, path: Path) -> Codec:
    try:
        return codec_from(attributes, tables)
    except (CodecMismatch, StoreFormatError) as error:
        raise type(error)(f"{path}: {error}") from error


def _parse(data: bytes, path: Path) -> tuple[dict[str, Any], Tables]:
    """The codec's attributes and the tables of a file whose header fits them."""
    try:
        tables = load(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        attributes, sha256 = dict(header["codec"]), header["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ChecksumMismatch(_damaged(path)) from error
    if _digest(tables) != sha256:
        raise ChecksumMismatch(_damaged(path))
    return attributes, tables


def _damaged(path: Path) -> str:
    return f"{path} is damaged: the tables that the codec decodes by. {_RESTORE}"


def _digest(tables: Tables) -> str:
    digest = hashlib.sha256()
    for name, table in sorted(tables.items()):
        digest.update(json.dumps([name, str(table.dtype), list(table.shape)]).encode())
        digest.update(np.ascontiguousarray(table).tobytes())
    return digest.hexdigest()
