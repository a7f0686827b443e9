"""Publishing: a generation comes into force over sealed segments, whole or not at all. Knows no arrays."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from memstore.errors import ChecksumMismatch, ConfigError, CountMismatch, MemstoreError, SegmentNotSealed
from memstore.files import link_or_copy, sync
from memstore.store.codec_tables import read_tables, segment_codec
from memstore.store.format import (
    CHANGE,
    CURRENT,
    FOLDERS,
    HASHES,
    SEALED,
    TEMPORARY,
    Current,
    FileRef,
    Generation,
    Seal,
    SegmentRef,
    TablesRef,
    codec_path,
    deletions_path,
    file_ref,
    generation_path,
    hash_file,
    ids_path,
    index_path,
    lookups_path,
    read_bytes,
    segment_path,
    segment_ref,
)
from memstore.store.holding import unheld
from memstore.store.ids import Uint64, save_npy, sort_hashes
from memstore.store.lookups import ensure_lookup
from memstore.store.texts import PassageReader, repeated_id

# Rows that an id index may leave to be sorted when a store is opened, so that small changes do not write it again.
_UNSORTED_ROWS = 16_384
_UNSORTED_SHARE = 8  # an eighth of the rows that it covers, where that is more


def sealed_segment(store: Path, segment_id: str) -> SegmentRef | None:
    """The segment of that id if it was sealed, else None. Reads SEALED only; `check` reads the rest.

    Raises:
        ChecksumMismatch, StoreFormatError: SEALED is damaged, or of another format version.
        SegmentNotSealed: the folder has its final name but no SEALED.
    """
    folder = segment_path(store, segment_id)
    if not folder.exists():
        return None
    try:
        data = read_bytes(folder / SEALED)
    except FileNotFoundError:
        raise SegmentNotSealed(f"{folder} has no {SEALED} file; remove the folder and build again") from None
    return segment_ref(folder, Seal.from_bytes(data, path=folder / SEALED))


def publish(store: Path, generation: Generation) -> Generation:
    """Write the generation's id index and file, then put it in force through CURRENT, each by atomic rename.

    Returns:
        The generation as it was written, with its id index and its codecs' tables filled in.

    Raises:
        ConfigError: it has no segments, these keep memories in different ways, or another generation of its number
            was published.
        CountMismatch: its totals are not those of its segments, or two passages have the same id.
        SegmentNotSealed, ChecksumMismatch: a segment is not the sealed one that it names.
        MissingData, CodecMismatch: a codec's tables are absent, or not those that a segment was written with.
    """
    if not generation.segments:
        raise ConfigError(f"generation {generation.number} has no segments: there is nothing to publish")
    seals, readers = zip(*(_sealed(store, ref) for ref in generation.segments), strict=True)
    _check_totals(generation)
    _check_alike(generation, seals)
    _check_unpublished(store, generation)
    tables = _tables(store, seals)
    for ref, reader in zip(generation.segments, readers, strict=True):
        ensure_lookup(store, ref.id, reader)
    hashes = sort_hashes([reader.hashes for reader in readers])
    if (twice := repeated_id(hashes, readers)) is not None:
        raise CountMismatch(f"passage id {twice!r} is in more than one row of generation {generation.number}")
    generation_path(store, generation.number).parent.mkdir(parents=True, exist_ok=True)
    ids = _write_ids(store, generation.number, hashes)
    return _put_in_force(store, dataclasses.replace(generation, ids=ids, ids_passages=None, tables=tables))


def publish_change(store: Path, generation: Generation, *, of: Generation) -> Generation:
    """`publish` for a generation whose rows begin with all those of another one, at the cost of what was added.

    The caller holds the writer's lock, and has seen that no live passage's id comes twice.

    Raises:
        ConfigError: another generation of its number is there, or its segments keep memories in different ways.
        CountMismatch: its totals are not those of its segments, or its rows do not begin with those of `of`.
        SegmentNotSealed, ChecksumMismatch: a new segment is not the sealed one that it names.
    """
    known = {s.id for s in of.segments}
    added = [_sealed(store, ref) for ref in generation.segments if ref.id not in known]
    _check_totals(generation)
    first = segment_path(store, generation.segments[0].id) / SEALED
    _check_alike(generation, [Seal.from_bytes(read_bytes(first), path=first), *(seal for seal, _ in added)])
    if generation_path(store, generation.number).exists():
        raise ConfigError(f"generation {generation.number} of {store} was published and never changes")
    if generation.passages < of.passages:
        raise CountMismatch(f"generation {generation.number} has fewer rows than generation {of.number}")
    for seal, reader in added:
        ensure_lookup(store, seal.segment, reader)
        if not set(_tables(store, [seal])) <= set(of.tables):
            raise ConfigError(f"segment {seal.segment!r} decodes by tables that generation {of.number} does not name")
    return _put_in_force(store, _with_ids(store, generation, of))


def _with_ids(store: Path, generation: Generation, of: Generation) -> Generation:
    """The generation with its id index: that of the earlier one, unless too many rows are not in it."""
    covered = of.passages if of.ids_passages is None else of.ids_passages
    if of.ids is not None and generation.passages - covered <= max(_UNSORTED_ROWS, covered // _UNSORTED_SHARE):
        index = ids_path(store, generation.number)
        index.unlink(missing_ok=True)  # a killed change's
        link_or_copy(ids_path(store, of.number), index)
        sync(index.parent)
        return dataclasses.replace(generation, ids=of.ids, ids_passages=covered)
    readers = [PassageReader(segment_path(store, s.id), count=s.passages) for s in generation.segments]
    ids = _write_ids(store, generation.number, sort_hashes([reader.hashes for reader in readers]))
    return dataclasses.replace(generation, ids=ids, ids_passages=None)


def _write_ids(store: Path, number: int, hashes: Uint64) -> FileRef:
    index = ids_path(store, number)
    temporary = index.with_name(TEMPORARY + index.name)
    save_npy(temporary, hashes)
    _rename(temporary, index)
    return file_ref(index)


def _put_in_force(store: Path, generation: Generation) -> Generation:
    path = generation_path(store, generation.number)
    _write(path, generation.to_bytes())
    set_current(store, generation.number)
    return generation


def set_current(store: Path, number: int) -> None:
    """Put a generation in force whose files are all there: the one step that readers see."""
    path = store / CURRENT
    try:
        last = Current.from_bytes(read_bytes(path), path=path).last
    except FileNotFoundError:
        last = number
    sha256, highest = hash_file(generation_path(store, number)), last if last > number else None
    _write(path, Current(generation=number, sha256=sha256, highest=highest).to_bytes())


def remove_leftovers(store: Path) -> list[str]:
    """Remove unfinished work that killed processes left anywhere in a store; returns the names. Only while
    nothing else writes to it. What else begins so beside CURRENT may be another program's.
    """
    found = [p for folder, name in ((store, CURRENT), *((store / n, "*") for n in FOLDERS))
             for p in sorted(folder.glob(TEMPORARY + name))]  # fmt: skip
    found += store.glob(CHANGE)
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [p.relative_to(store).as_posix() for p in found]


def remove_other_generations(store: Path, generation: Generation, *, keep_manifests: bool = False) -> None:
    """Remove what only other generations than this one, which is in force, are made of, but those that a reader holds.
    Only while nothing else writes to the store. Of a mirror, their manifests stay: they are still elsewhere.
    """
    kept = parts_of(store, generation)
    others: list[tuple[Path, Generation]] = []
    for path in sorted((store / "generations").glob("*.json")):
        if path in kept:
            continue
        try:
            other = Generation.from_bytes(read_bytes(path), path=path)
        except MemstoreError:
            continue  # what it is made of is not known
        with unheld(store, other.number) as free:
            if free:
                others.append((path, other))
            else:
                kept |= parts_of(store, other)
    for path, other in others:
        last = [] if keep_manifests else [path]  # it names the others
        for part in [*sorted(parts_of(store, other) - kept - {path}), *last]:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)


def parts_of(store: Path, generation: Generation) -> set[Path]:
    """The files and folders that a generation is made of."""
    return {
        generation_path(store, generation.number),
        ids_path(store, generation.number),
        index_path(store, generation.number),
        *(codec_path(store, ref.file) for ref in generation.tables),
        *(segment_path(store, ref.id) for ref in generation.segments),
        *(lookups_path(store, ref.id) for ref in generation.segments),
        *(deletions_path(store, ref.id, ref.dead.number) for ref in generation.segments if ref.dead is not None),
    }


def sync_tree(folder: Path) -> None:
    """Fsync every file and folder of a tree, so that a power cut cannot undo what is then renamed."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def _sealed(store: Path, ref: SegmentRef) -> tuple[Seal, PassageReader]:
    """Seal and passages of a segment that must be the sealed one that `ref` names."""
    found = sealed_segment(store, ref.id)
    if found is None:
        raise SegmentNotSealed(f"segment {ref.id!r} is not in {store}; build it before it is published")
    if found != dataclasses.replace(ref, dead=None):
        raise ChecksumMismatch(f"segment {ref.id!r} on disk is {found}, not {ref}")
    folder = segment_path(store, ref.id)
    seal = Seal.from_bytes(read_bytes(folder / SEALED), path=folder / SEALED)
    if seal.files.get(HASHES) != file_ref(folder / HASHES):
        raise ChecksumMismatch(f"{folder / HASHES} is not what was sealed; remove the segment and build again")
    return seal, PassageReader(folder, count=ref.passages)


def _check_unpublished(store: Path, generation: Generation) -> None:
    """A generation that was in force never changes; publishing the same one again is harmless."""
    try:
        current = Current.from_bytes(read_bytes(store / CURRENT), path=store / CURRENT)
    except FileNotFoundError:
        return
    if generation.number > current.generation:
        return
    path = generation_path(store, generation.number)
    try:
        published = Generation.from_bytes(read_bytes(path), path=path)
    except FileNotFoundError:
        raise ConfigError(
            f"generation {generation.number} comes before generation {current.generation}, which is in force; "
            f"publish number {current.generation + 1}"
        ) from None
    if dataclasses.replace(published, ids=None, tables=()) != dataclasses.replace(generation, ids=None, tables=()):
        raise ConfigError(
            f"generation {generation.number} of {store} was published and never changes; "
            f"publish number {current.generation + 1}"
        )


def _check_totals(generation: Generation) -> None:
    for name in ("passages", "tokens"):
        total = sum(getattr(s, name) for s in generation.segments)
        if getattr(generation, name) != total:
            raise CountMismatch(
                f"generation {generation.number} has {getattr(generation, name)} {name}, its segments {total}"
            )


def _check_alike(generation: Generation, seals: Sequence[Seal]) -> None:
    """A load reads the memories of all segments in one way."""
    first = seals[0]
    wanted = (generation.codec, first.d_model, first.max_tokens, first.embedding_dim)
    for seal in seals:
        found = (seal.codec, seal.d_model, seal.max_tokens, seal.embedding_dim)
        if found != wanted:
            raise ConfigError(
                f"codec, d_model, max_tokens and embedding_dim of segment {seal.segment!r} are {found}, those of "
                f"generation {generation.number} {wanted}; write the segment again, as the others are"
            )


def _tables(store: Path, seals: Sequence[Seal]) -> tuple[TablesRef, ...]:
    """The tables that the segments' codecs decode by, each once, by name; all of them are there."""
    named = [segment_codec(segment_path(store, seal.segment), seal)[1] for seal in seals]
    found = sorted({ref for ref in named if ref is not None}, key=lambda ref: (ref.file, ref.sha256))
    for ref in found:
        read_tables(store, ref)
    return tuple(found)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.write_bytes(data)
    _rename(temporary, path)


def _rename(temporary: Path, path: Path) -> None:
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
