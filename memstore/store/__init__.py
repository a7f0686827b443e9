"""The store: memories, passages and their manifests on disk. Knows arrays, never the model."""

from memstore.codec import CODEC_NAMES, ArraySpec, Codec, codec_from, get_codec
from memstore.fingerprint import Fingerprint
from memstore.store.check import Fault, check_generation
from memstore.store.codec_tables import find_codec, write_tables
from memstore.store.current import read_generation
from memstore.store.foreign import foreign_files, is_foreign
from memstore.store.format import (
    FileRef,
    Generation,
    IndexRef,
    SegmentRef,
    TablesRef,
    generation_path,
    hash_file,
    hash_folder,
    index_path,
    segment_path,
)
from memstore.store.manifest import FORMAT_VERSION
from memstore.store.memories import Memories
from memstore.store.publish import publish, remove_leftovers, remove_other_generations, sealed_segment, sync_tree
from memstore.store.reader import Store
from memstore.store.sharded import AnyStore, ShardedStore, in_force, open_store
from memstore.store.writer import SegmentWriter

__all__ = [
    "CODEC_NAMES",
    "FORMAT_VERSION",
    "AnyStore",
    "ArraySpec",
    "Codec",
    "Fault",
    "FileRef",
    "Fingerprint",
    "Generation",
    "IndexRef",
    "Memories",
    "SegmentRef",
    "SegmentWriter",
    "ShardedStore",
    "Store",
    "TablesRef",
    "check_generation",
    "codec_from",
    "find_codec",
    "foreign_files",
    "generation_path",
    "get_codec",
    "hash_file",
    "hash_folder",
    "in_force",
    "index_path",
    "is_foreign",
    "open_store",
    "publish",
    "read_generation",
    "remove_leftovers",
    "remove_other_generations",
    "sealed_segment",
    "segment_path",
    "sync_tree",
    "write_tables",
]
