"""Checking what else a store holds: earlier generations, and whether a document is left anywhere. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from memstore.errors import ChecksumMismatch, MemstoreError, MissingData
from memstore.store.check import Fault, check_dead, check_index, check_segment, check_tables, fault
from memstore.store.current import read_current, read_generation
from memstore.store.format import (
    CHANGE,
    DUPLICATES,
    JOBS,
    PASSAGES,
    TEMPORARY,
    Generation,
    hash_file,
    ids_path,
    index_path,
)
from memstore.store.history import numbers, unneeded

_TEXTS = (PASSAGES, DUPLICATES, "spool.jsonl")  # files whose lines are passages; the last one is a killed change's


def check_kept(store: Path) -> Iterator[Fault]:
    """Everything wrong with the generations that are not in force; what they share with others is read once.

    Raises:
        StoreNotFound: no store is at the path.
    """
    current = read_current(store).generation
    seals: set[tuple[str, str]] = set()
    hashes: dict[tuple[int, int], str] = {}
    if current in numbers(store):
        seals = {(s.id, s.seal) for s in read_generation(store, current).segments}
    for number in numbers(store):
        if number != current:
            yield from _check_one(store, number, seals, hashes)


def _check_one(
    store: Path, number: int, seals: set[tuple[str, str]], hashes: dict[tuple[int, int], str]
) -> Iterator[Fault]:
    try:
        generation = read_generation(store, number)
    except MemstoreError as error:
        yield fault(error, f"generations/{number:06d}.json")
        return
    tables_fine = True
    for problem in check_tables(store, generation):
        tables_fine = False
        yield problem
    for ref in generation.segments:
        if (ref.id, ref.seal) not in seals:
            seals.add((ref.id, ref.seal))
            yield from check_segment(store, ref, tables=generation.tables if tables_fine else None)
        yield from check_dead(store, ref)
    yield from _check_ids(store, generation, hashes)
    if generation.index is not None:
        yield from check_index(store, number, generation.index, hashes=hashes)


def _check_ids(store: Path, generation: Generation, hashes: dict[tuple[int, int], str]) -> Iterator[Fault]:
    path = ids_path(store, generation.number)
    where = path.relative_to(store).as_posix()
    try:
        found = path.stat()
        key = (found.st_dev, found.st_ino)
        if key not in hashes:
            hashes[key] = hash_file(path)
        if generation.ids is None or hashes[key] != generation.ids.sha256:
            yield fault(ChecksumMismatch(f"{where} is not what its generation was made with"), where)
    except FileNotFoundError:
        yield fault(MissingData(f"{where} is missing"), where)
    except MemstoreError as error:
        yield fault(error, where)


def find_present(store: Path, ids: Sequence[str]) -> Iterator[Fault]:
    """Where documents, or passages, of these ids are left on the disk, in force or not.

    A passage's memory lies in the folder of its text, and a search index holds rows of its generation's segments
    alone. So nothing is left when no file of texts in any folder names an id, no file is there that no generation
    names, and no index holds more passages than its generation. All these are looked at, file by file.

    Raises:
        StoreNotFound: no store is at the path.
        StoreCorrupt: a manifest is damaged, which `verify` has reported.
    """
    wanted = set(ids)
    for path in sorted(store.rglob("*.jsonl")):
        if path.name not in _TEXTS:
            continue
        where = path.relative_to(store).as_posix()
        with path.open("rb") as lines:
            named = ((number, wanted & _ids_in(line)) for number, line in enumerate(lines, start=1))
            number, found = next((pair for pair in named if pair[1]), (0, set()))
        if found:
            yield Fault("StillPresent", where, f"{min(found)!r} is in line {number}: {_ADVICE}")
    generations = [read_generation(store, number) for number in numbers(store)]
    waiting = sorted(store.glob(f"{JOBS}/*/input"))  # changes that a server accepted and has not made yet
    for path in (*unneeded(store, generations), *waiting, *sorted(store.glob(".*"))):
        if path.name in (".build", CHANGE) or path.name.startswith(TEMPORARY) or path.parent != store:
            where = path.relative_to(store).as_posix()
            yield Fault("StillPresent", where, f"it belongs to no generation, and may hold anything: {_ADVICE}")
    for generation in generations:
        yield from _check_count(store, generation)


_ADVICE = "`memstore compact` removes it, `memstore forget` what readers held then"


def _ids_in(line: bytes) -> set[str]:
    """Ids that a line names: its passage's and its document's. A damaged line names none; `check` reports it."""
    text = line[line.index(b"] ") + 2 :] if line.startswith(b"[") and b"] {" in line else line
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return set()
    if isinstance(values, dict):
        return {str(values.get("id")), str(values.get("document_id"))}
    return {str(value) for value in values[:2]} if isinstance(values, list) else set()


def _check_count(store: Path, generation: Generation) -> Iterator[Fault]:
    """Tantivy's segments hold no more than the rows of the generation, dead ones included."""
    for meta in sorted(index_path(store, generation.number).glob("*/meta.json")):
        held = sum(segment["max_doc"] for segment in json.loads(meta.read_text(encoding="utf-8"))["segments"])
        if held > generation.passages:
            where = meta.parent.relative_to(store).as_posix()
            said = f"it holds {held} passages, its generation {generation.passages}: {_ADVICE}"
            yield Fault("StillPresent", where, said)
