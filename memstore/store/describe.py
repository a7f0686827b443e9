"""What is in a store, and what made it: read from manifests alone, without a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from memstore.errors import StoreUnreadable
from memstore.storage import as_url
from memstore.store import in_force, index_path, read_generation
from memstore.store.history import dead_bytes, numbers
from memstore.store.mirror import mirror_of
from memstore.store.shard_list import ShardList, is_sharded
from memstore.store.working import index_bytes


def inspect(store: Path) -> dict[str, Any]:
    """A store's generation, sizes, settings and fingerprint, as plain values.

    Raises:
        StoreNotFound, StoreUnreadable, StoreCorrupt, StoreFormatError: there is none, it is closed to us, or its
            manifests cannot be understood.
    """
    if is_sharded(store):
        return _inspect_shards(store)
    generation = read_generation(store)
    segment_bytes = sum(s.bytes for s in generation.segments)
    files = generation.index.files if generation.index is not None else {}
    folder = index_path(store, generation.number)
    return {
        "store": as_url(store) or str(store),
        "format_version": generation.format_version,
        "generation": generation.number,
        "passages": generation.live,
        "deleted": generation.dead,
        "dead_bytes": dead_bytes(generation),
        "generations": numbers(store),
        "change": dict(generation.change),
        "tokens": generation.tokens,
        "codec": generation.codec,
        "retriever": generation.retriever,
        "segments": len(generation.segments),
        "segment_bytes": segment_bytes,
        "codec_bytes": sum(ref.size for ref in generation.tables),
        "index_bytes": sum(_size(folder / name) for name in files) if mirror_of(store) is None else index_bytes(store),
        "bytes_per_token": segment_bytes / max(1, generation.tokens),
        "settings": dict(generation.settings),
        "source": dict(generation.source),
        "fingerprint": asdict(generation.fingerprint),
        "metadata": {name: list(kinds) for name, kinds in generation.metadata.items()},
        "index": dict(generation.index.parts) if generation.index is not None else {},
        "made_by": dict(generation.made_by),
    }


def _inspect_shards(root: Path) -> dict[str, Any]:
    """`inspect` of a store in shards: what there is in all, and of each shard under "shards"."""
    listed, whole = ShardList.read(root), in_force(root)
    each = [inspect(root / name) for name in listed.names]
    names = ("dead_bytes", "segments", "segment_bytes", "codec_bytes", "index_bytes")
    return (
        each[0]
        | {name: sum(one[name] for one in each) for name in names}
        | {
            "store": str(root),
            "generation": whole.number,
            "passages": whole.live,
            "deleted": whole.dead,
            "generations": sorted({number for one in each for number in one["generations"]}),
            "change": {},
            "tokens": whole.tokens,
            "bytes_per_token": sum(one["segment_bytes"] for one in each) / max(1, whole.tokens),
            "metadata": {name: list(kinds) for name, kinds in whole.metadata.items()},
            "index": {},
            "rule": listed.rule,
            "shards": dict(zip(listed.names, each, strict=True)),
        }
    )


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it is lost, which `verify` reports."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreUnreadable(f"{path} cannot be read: {error}") from error
