"""`memstore add`: documents of a corpus are put into a store, by their ids. Costs what is new; opens the model for it.

A document that is there with the same passages is unchanged. One that says something else is replaced: its passages
die, and the new ones follow all others, as if it had been deleted and added. As in a build, a passage whose title and
text an earlier one has is left out, and comes to life when that one dies.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from memstore import checkpoint
from memstore.checkpoint.loading import model_of, require_device
from memstore.errors import ConfigError, FingerprintMismatch
from memstore.metadata import require_few
from memstore.model.embedding import MemoryTextEncoder
from memstore.passage import Passage
from memstore.retrieve.dense import read_dense_settings
from memstore.retrieve.encoders import EncoderRef
from memstore.retrieve.open import DENSE
from memstore.retrieve.sentence import SentenceEncoder
from memstore.store import Codec, Store, index_path
from memstore.store.codec_tables import segment_codec
from memstore.store.contents import Contents, DocumentPlaces, add_signatures, signature
from memstore.store.duplicates import Duplicate, words_hash
from memstore.store.format import CHANGE, TablesRef
from memstore.store.ids import hash_id
from memstore.store.shard_list import refuse_shards, shard_name, shard_of
from memstore_builders.change import Change, ChangeReport, opened_change
from memstore_builders.corpus import open_corpus
from memstore_builders.corpus_files import find_files
from memstore_builders.encode import PassageEncoder
from memstore_builders.long_passages import Fitter
from memstore_builders.progress import Progress, Silent
from memstore_builders.segments import SEGMENT_SHARDS, encode_segment
from memstore_builders.spool import Spool, write_spool

OnExisting = Literal["replace", "skip", "fail"]
_CHUNK = 4096  # passages looked up at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """What to add, and to which store.

    Attributes:
        store: a finished store.
        corpus: files, or folders of files.
        on_existing: of a document that is there and says something else: "replace" it, "skip" it, or "fail".
        corpus_format: a format's name instead of detection.
        on_error: "fail" at the first bad row, or "skip" and count.
        model: the checkpoint, if it is no longer where the store was built from.
        device: where to encode.
    """

    store: Path
    corpus: tuple[Path, ...]
    on_existing: OnExisting = "replace"
    corpus_format: str | None = None
    on_error: Literal["fail", "skip"] = "fail"
    model: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class StoreEncoding:
    """How the passages of a store became memories; an `Encoding`."""

    encoder: PassageEncoder
    codec: Codec
    tables: TablesRef | None
    sentence: SentenceEncoder | None
    embedding_dim: int


@dataclass(slots=True)
class _Batch:
    """What the corpus holds, document by document: the signature of each, and those without text."""

    signatures: dict[str, int] = field(default_factory=dict)
    emptied: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Chosen:
    """What is written of a batch: places in the spool of the passages, and records of those left out."""

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    duplicates: list[Duplicate] = field(default_factory=list)
    left_out: array[int] = field(default_factory=lambda: array("Q"))


def add(options: AddOptions, progress: Progress | None = None) -> ChangeReport:
    """Add the documents of a corpus, or replace those that are there: one new generation, or nothing.

    Memory: the model, one shard a few times, 100 bytes per document and 50 per passage of the batch, and 33 bytes
    per passage of the store.

    Raises:
        StoreNotFound, StoreCorrupt: there is no store; something in it is damaged.
        CorpusError, CorpusFormatError, CorpusNotFound: from the corpus.
        InvalidMetadata: with the store's there would be too many different fields.
        CheckpointNotFound, CheckpointError, FingerprintMismatch: the store's model is not to be had.
        ConfigError: an option is impossible, a document is there (`on_existing="fail"`), a passage's id is another
            document's, or another process is changing the store.
        DiskSpaceError: the disk is full.
    """
    progress = progress or Silent()
    if options.on_existing not in ("replace", "skip", "fail"):
        raise ConfigError(f"on_existing must be replace, skip or fail, not {options.on_existing!r}")
    _refuse_inside(options)
    refuse_shards(options.store)
    with opened_change(options.store, progress) as change:
        work = change.path / CHANGE
        try:
            return _add(options, change, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _refuse_inside(options: AddOptions) -> None:
    real = Path(os.path.realpath(options.store))
    for path in options.corpus:
        if any(real.is_relative_to(folder) for folder in find_files(path).folders):
            raise ConfigError(f"the store {options.store} lies in the corpus folder {path}: name the files one by one")


def _add(options: AddOptions, change: Change, work: Path) -> ChangeReport:
    require_device(options.device)
    with change.timed("read"):
        spool, batch = _read(options, change, work)
    with change.timed("look up"):
        existing = change.contents.documents([*batch.signatures, *batch.emptied])
    unchanged = {i for i, places in existing.items() if batch.signatures.get(i) == places.signature}
    differing = [i for i in existing if i not in unchanged]
    if differing and options.on_existing == "fail":
        raise ConfigError(
            f"{len(differing)} documents are in {options.store} and say something else, {differing[0]!r} first: "
            "nothing was added (--on-existing replace or skip)"
        )
    replaced = [] if options.on_existing == "skip" else differing
    added = [i for i in batch.signatures if i not in existing]
    generation = change.store.generation
    counts = {"added": len(added), "replaced": len(replaced), "unchanged": len(unchanged)}
    if added or replaced:
        _write(change, options, spool, {*added, *replaced}, [existing[i] for i in replaced])
        generation = change.publish("add", counts)
    return change.report(
        "add",
        generation,
        skipped=len(differing) - len(replaced),
        rows_skipped=spool.counts.rows_skipped,
        errors=spool.counts.errors,
        **counts,
    )


def _read(options: AddOptions, change: Change, work: Path) -> tuple[Spool, _Batch]:
    """The corpus as a build reads it, and what it says of each document."""
    settings = change.store.generation.settings
    tokenizer = checkpoint.tokenizer_of(change.store, name=options.model)
    corpus = open_corpus(
        list(options.corpus),
        format=options.corpus_format,
        on_error=options.on_error,
        max_words=settings.get("max_words", 100),
    )
    batch = _Batch()
    corpus.on_empty = batch.emptied.append
    change.progress.begin("read", None)
    fit = Fitter(tokenizer, settings.get("on_long", "cut"))  # what builds did before they could split
    spool = write_spool(corpus, work, fit=fit, tick=change.progress.advance)
    change.progress.end()
    require_few({*change.store.generation.metadata, *spool.counts.fields})
    for _, passage in _distinct(spool):
        sum_before = batch.signatures.get(passage.document_id, 0)
        batch.signatures[passage.document_id] = add_signatures(sum_before, signature(passage, words_hash(passage)))
    new_fields = [name for name in spool.counts.fields if name not in change.store.generation.metadata]
    _require_shard(settings.get("shard"), [*batch.signatures, *batch.emptied], new_fields)
    batch.emptied = [i for i in dict.fromkeys(batch.emptied) if i not in batch.signatures]
    return spool, batch


def _require_shard(shard: Mapping[str, int] | None, documents: Sequence[str], new_fields: Sequence[str]) -> None:
    """Refuse documents that belong to another shard than the one that is changed, and metadata fields that the others
    have not: all shards are searched as one index, which numbers its fields.
    """
    if shard is None:
        return
    if new_fields:
        raise ConfigError(
            f"the documents have the metadata fields {', '.join(new_fields)}, which this store in shards has not: "
            "nothing was added. Leave them out, or build the store again from all documents"
        )
    others = {i: n for i in documents if (n := shard_of(i, shard["of"])) != shard["number"]}
    for document_id, number in others.items():
        raise ConfigError(
            f"{len(others)} documents belong to other shards than {shard_name(shard['number'])}, {document_id!r}, the "
            f"first, to {shard_name(number)}: nothing was added. Give each shard a corpus of its own documents"
        )


def _distinct(spool: Spool) -> Iterator[tuple[int, Passage]]:
    """All passages with their places, but those whose id came before: they say the same, or the spool had failed."""
    seen: set[int] = set()
    for offset, passage in spool.read_all():
        key = hash_id(passage.id)
        if key not in seen:
            seen.add(key)
            yield offset, passage


def _write(
    change: Change, options: AddOptions, spool: Spool, wanted: set[str], replaced: Sequence[DocumentPlaces]
) -> None:
    """New segments of the documents wanted, after those of passages that come to life."""
    with change.timed("look up"):
        heirs = change.kill(replaced)
        taken = {words_hash(passage) for passage in heirs}
        chosen = _choose(change.contents, spool, wanted, taken)
    if not chosen.offsets and not chosen.left_out:
        return
    if not chosen.offsets:  # a segment must have a row to keep records in: one that is dead
        chosen.offsets.append(chosen.left_out[0])
        change.skipped = frozenset([len(change.store) + change.written])
    with change.timed("open the model"):
        how = encoding_of(change.store, model=options.model, device=options.device)
    with change.timed("encode"):
        change.progress.begin("encode", len(chosen.offsets))
        for rows, duplicates in _segments(chosen, change.shard * SEGMENT_SHARDS):
            ref = encode_segment(
                change.path, how, lambda first, last: spool.read_at(chosen.offsets[first:last]),
                name=change.name(), rows=rows, shard=change.shard, advance=change.progress.advance,
                duplicates=duplicates,
            )  # fmt: skip
            change.append(ref)
        change.progress.end()


def _choose(contents: Contents, spool: Spool, wanted: set[str], taken: set[bytes]) -> _Chosen:
    """Which passages of the documents wanted are written, and which are left out as duplicates."""
    chosen = _Chosen()
    reserved = {contents.records[n][i].passage.id for n, i in contents.live_records()}
    source = (found for found in _distinct(spool) if found[1].document_id in wanted)
    while part := list(islice(source, _CHUNK)):
        _require_new_ids(contents, [passage for _, passage in part], reserved)
        words = [words_hash(passage) for _, passage in part]
        alive = contents.rows_with_words([w for w in words if w not in taken])
        for (offset, passage), digest in zip(part, words, strict=True):
            if digest in alive or digest in taken:
                chosen.duplicates.append(Duplicate.of(passage, before=len(chosen.offsets)))
                chosen.left_out.append(offset)
            else:
                taken.add(digest)
                chosen.offsets.append(offset)
    return chosen


def _require_new_ids(contents: Contents, passages: Iterable[Passage], reserved: set[str]) -> None:
    passages = list(passages)
    for passage, rows in zip(passages, contents.store.rows_of_ids([p.id for p in passages]), strict=True):
        other = next((contents.passage(row).document_id for row in rows if not contents.dead[row]), None)
        if other is not None or passage.id in reserved:
            of = "another document" if other is None else f"document {other!r}"
            raise ConfigError(
                f"passage {passage.id!r} of document {passage.document_id!r} has the id of a passage of {of} in "
                f"{contents.store.path}: ids must be unique; nothing was added"
            )


def _segments(chosen: _Chosen, size: int) -> Iterator[tuple[range, list[Duplicate]]]:
    """Rows of the batch, a segment's at a time, and the records that belong among them."""
    total = len(chosen.offsets)
    for first in range(0, total, size):
        rows = range(first, min(first + size, total))
        end = total if rows.stop == total else rows.stop - 1
        inside = [d for d in chosen.duplicates if rows.start <= d.before <= end]
        yield rows, [Duplicate(d.before - rows.start, d.words, d.passage) for d in inside]


def encoding_of(store: Store, *, model: str | None = None, device: str = "cpu") -> StoreEncoding:
    """What made a store's memories and vectors, to make more of them.

    Raises:
        CheckpointNotFound, CheckpointError: it is not where the store was built from, or cannot be loaded.
        FingerprintMismatch: it is there, and is another.
        ConfigError: the store's vectors need what the model has not.
    """
    loaded, tokenizer = model_of(store, name=model, device=device)
    store.fingerprint.require(checkpoint.fingerprint(loaded, tokenizer))
    first = store.segment(0)
    made_by, sentence = vectors_made_by(store), None
    if made_by is not None and made_by.kind == "sentence":
        sentence = SentenceEncoder(made_by.name, device=device)
        _require_same(made_by, sentence.ref())
    elif made_by is not None:
        if loaded.projection is None:
            raise ConfigError("the store's vectors are the model's own, and this model has no projection for them")
        _require_same(made_by, MemoryTextEncoder(loaded, tokenizer).ref())
    own = made_by is not None and sentence is None
    encoder = PassageEncoder(loaded, tokenizer, embed=own)
    return StoreEncoding(
        encoder, first.codec, segment_codec(first.path, first.seal)[1], sentence, first.seal.embedding_dim
    )


def vectors_made_by(store: Store) -> EncoderRef | None:
    """The encoder of a store's dense index; None if it has none."""
    index = store.generation.index
    parts: Mapping[str, object] = index.parts if index is not None else {}
    return (
        read_dense_settings(index_path(store.path, store.generation.number) / DENSE).encoder if DENSE in parts else None
    )


def _require_same(made_by: EncoderRef, found: EncoderRef) -> None:
    if found != made_by:
        raise FingerprintMismatch({f"{made_by.kind} encoder of the dense index": (made_by.sha256, found.sha256)})
