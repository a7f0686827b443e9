"""Publishing: a generation comes into force over sealed segments, whole or not at all. Knows no arrays."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from memstore.errors import ChecksumMismatch, ConfigError, CountMismatch, MemstoreError, SegmentNotSealed
from memstore.files import sync
from memstore.store.codec_tables import read_tables, segment_codec
from memstore.store.format import (
    CURRENT,
    FOLDERS,
    HASHES,
    SEALED,
    TEMPORARY,
    Current,
    Generation,
    Seal,
    SegmentRef,
    TablesRef,
    codec_path,
    file_ref,
    generation_path,
    hash_file,
    ids_path,
    index_path,
    read_bytes,
    segment_path,
    segment_ref,
)
from memstore.store.ids import save_npy, sort_hashes
from memstore.store.texts import PassageReader, repeated_id


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
    tables = _tables(store, generation, seals)
    hashes = sort_hashes([reader.hashes for reader in readers])
    if (twice := repeated_id(hashes, readers)) is not None:
        raise CountMismatch(f"passage id {twice!r} is in more than one row of generation {generation.number}")
    path, index = generation_path(store, generation.number), ids_path(store, generation.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = index.with_name(TEMPORARY + index.name)
    save_npy(temporary, hashes)
    _rename(temporary, index)
    generation = dataclasses.replace(generation, ids=file_ref(index), tables=tables)
    _write(path, generation.to_bytes())
    _write(store / CURRENT, Current(generation=generation.number, sha256=hash_file(path)).to_bytes())
    return generation


def remove_leftovers(store: Path) -> list[str]:
    """Remove unfinished work that killed processes left anywhere in a store; returns the names. Only while
    nothing else writes to it. What else begins so beside CURRENT may be another program's.
    """
    found = [p for folder, name in ((store, CURRENT), *((store / n, "*") for n in FOLDERS))
             for p in sorted(folder.glob(TEMPORARY + name))]  # fmt: skip
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [p.relative_to(store).as_posix() for p in found]


def remove_other_generations(store: Path, generation: Generation) -> None:
    """Remove what only other generations than this one, which is in force, are made of. Only while nothing else writes
    to the store. A process that reads another generation may miss what it has not yet opened.
    """
    kept = _parts(store, generation)
    for path in sorted((store / "generations").glob("*.json")):
        if path in kept:
            continue
        try:
            other = Generation.from_bytes(read_bytes(path), path=path)
        except MemstoreError:
            continue  # what it is made of is not known
        for part in [*sorted(_parts(store, other) - kept - {path}), path]:  # the manifest last: it names the others
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)


def _parts(store: Path, generation: Generation) -> set[Path]:
    """The files and folders that a generation is made of."""
    return {
        generation_path(store, generation.number),
        ids_path(store, generation.number),
        index_path(store, generation.number),
        *(segment_path(store, ref.id) for ref in generation.segments),
        *(codec_path(store, ref.file) for ref in generation.tables),
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
    if found != ref:
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
                f"generation {generation.number} {wanted}; write the segment anew, as the others are"
            )


def _tables(store: Path, generation: Generation, seals: Sequence[Seal]) -> tuple[TablesRef, ...]:
    """The tables that the segments' codecs decode by, each once, by name; all of them are there."""
    folders = [segment_path(store, ref.id) for ref in generation.segments]
    named = [segment_codec(folder, seal)[1] for folder, seal in zip(folders, seals, strict=True)]
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
