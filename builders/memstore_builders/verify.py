"""`memstore verify`: is the store what was built, and are its memories what the model would make again?

Checksums and counts come from the store itself; the sample is encoded again. Knows the model; changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from memstore import checkpoint
from memstore.checkpoint.loading import model_of
from memstore.errors import (
    CheckpointError,
    CheckpointNotFound,
    ConfigError,
    MemstoreError,
    StoreCorrupt,
    StoreFormatError,
    StoreUnreadable,
)
from memstore.model.embedding import MemoryTextEncoder
from memstore.retrieve.open import open_retriever
from memstore.store import Codec, Generation, Store, get_codec, read_generation
from memstore.store.check import Fault, check_generation, fault
from memstore.store.check_kept import check_kept, find_present
from memstore.store.foreign import foreign_files
from memstore.store.history import dead_bytes, numbers
from memstore.store.mirror import waiting_inputs
from memstore.store.objects import StoreFile
from memstore.store.working import whole
from memstore_builders.encode import PassageEncoder

TOLERANCE = {"bfloat16": 0.03, "float32": 1e-3}
"""Relative error of a passage's memory against one encoded in another batch: kernels sum in another order for other
shapes. Of 2,000 memories of Simple Wikipedia in bfloat16, through int8, none differed by more than 0.012."""

_BATCH = 256
_UNNAMED = "no generation names the object, and it may hold anything: `memstore forget` removes it a day later"
_WAITING = "a change that a server of this machine accepted and has not made yet may hold anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. `sampled` passages were encoded again; `largest_difference` is the relative error of the worst.

    `foreign` are files that a system or a file manager left in the store; they are no problem.

    Of passages longer than the model reads, `split` were split, and `cut` have a memory without their end: no fault,
    but worth knowing. Stores of earlier versions do not know their number (None). `sampled_cut` were found in the
    sample.

    `generations` are those that are kept; `dead_passages` and `dead_bytes` of the one in force are what `memstore
    compact` frees. `absent` are ids of which nothing was found on the disk, of those asked for; what was found is
    among the problems.
    """

    problems: tuple[Fault, ...]
    passages: int
    sampled: int
    largest_difference: float
    foreign: tuple[str, ...] = ()
    split: int | None = None
    cut: int | None = None
    sampled_cut: int = 0
    generations: tuple[int, ...] = ()
    dead_passages: int = 0
    dead_bytes: int = 0
    absent: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def verify(
    path: Path, *, sample: int = 64, model: str | None = None, device: str = "cpu", absent: Sequence[str] = ()
) -> Verification:
    """Check every file against its checksum and every count; then encode `sample` passages again and compare.

    Args:
        path: the store.
        sample: passages to encode; 0 for none.
        model: the checkpoint, if it is no longer where the store was built from.
        device: where to encode.
        absent: ids of documents, or passages, of which nothing may be left in any file.

    Raises:
        StoreNotFound: there is no store.
        CheckpointNotFound: the model or the sentence encoder that the store names is not to be found.
        CheckpointError: one of them cannot be loaded.
        ConfigError: the retriever needs what is not installed, or is none that we know.
        FingerprintMismatch: the model given did not make the store.
    """
    with whole(path) as copy:
        found = _verify(copy.folder, sample=sample, model=model, device=device, absent=absent)
        problems = _with_reasons(found.problems, copy.wrong)
        left = [Fault("StillPresent", one.key, _UNNAMED) for one in copy.unnamed]
        left += [Fault("StillPresent", str(one), _WAITING) for one in waiting_inputs(path)]
        if not absent:
            left = []
        return replace(found, problems=(*problems, *left), absent=() if left else found.absent)


def _with_reasons(problems: Sequence[Fault], wrong: Sequence[tuple[StoreFile, MemstoreError]]) -> tuple[Fault, ...]:
    """What is wrong with a copy of a store: a file that is not in it is missing or damaged where the store is."""
    reasons = {file.path: fault(error, file.path) for file, error in wrong}
    if not reasons:
        return tuple(problems)
    others = [p for p in problems if p.where not in reasons and p.kind not in ("MissingData", "SegmentNotSealed")]
    return (*reasons.values(), *others)


def _verify(path: Path, *, sample: int, model: str | None, device: str, absent: Sequence[str]) -> Verification:
    """`verify` of a folder."""
    found = _verify_in_force(path, sample=sample, model=model, device=device)
    kept: list[int] = []
    generation: Generation | None = None
    problems = list(found.problems)
    with suppress(StoreCorrupt, StoreUnreadable, StoreFormatError):  # is reported already
        kept, generation = numbers(path), read_generation(path)
        problems += check_kept(path)
    present: list[Fault] = []
    if absent and problems:
        present = [Fault("StillPresent", "", f"{absent[0]!r} was not looked for, as the store is damaged")]
    elif absent:
        present = list(find_present(path, absent))
    return replace(
        found,
        problems=(*problems, *present),
        generations=tuple(kept),
        dead_passages=0 if generation is None else generation.dead,
        dead_bytes=0 if generation is None else dead_bytes(generation),
        absent=() if present else tuple(absent),
    )


def _verify_in_force(path: Path, *, sample: int, model: str | None, device: str) -> Verification:
    """The generation in force, and a sample of its memories."""
    problems, foreign = list(check_generation(path)), tuple(foreign_files(path))
    if problems:
        return Verification(problems=tuple(problems), passages=0, sampled=0, largest_difference=0.0, foreign=foreign)
    store = Store.open(path)
    found = partial(
        Verification,
        passages=store.live,
        split=store.generation.source.get("split"),
        cut=store.generation.source.get("cut"),
        foreign=foreign,
    )
    if not sample and store.generation.retriever == "bm25":
        return found(problems=tuple(_check_retriever(store, None)), sampled=0, largest_difference=0.0)
    loaded, tokenizer = model_of(store, name=model, device=device)
    store.fingerprint.require(checkpoint.fingerprint(loaded, tokenizer))
    encoder = PassageEncoder(loaded, tokenizer)
    own = MemoryTextEncoder(loaded, tokenizer) if loaded.projection is not None else None
    problems += _check_retriever(store, own)
    rows = _live_rows(store, sample)
    largest, cut = 0.0, 0
    for first in range(0, len(rows), _BATCH):
        some = rows[first : first + _BATCH]
        difference, differing = _compare(store, encoder, some)
        largest = max(largest, difference)
        problems += differing
        lengths = tokenizer.lengths(store.passages(store.ids(some)))
        cut += sum(length > store.fingerprint.max_passage_tokens for length in lengths)
    return found(problems=tuple(problems), sampled=len(rows), largest_difference=largest, sampled_cut=cut)


def _live_rows(store: Store, most: int) -> list[int]:
    """Some rows whose passages are in the collection, ascending, the same every time."""
    live = np.setdiff1d(np.arange(len(store)), store.dead_rows())
    return sorted(random.Random(0).sample(live.tolist(), min(most, len(live))))  # noqa: S311 - no secret


def _check_retriever(store: Store, own: MemoryTextEncoder | None) -> list[Fault]:
    """The index opens, holds exactly the generation's passages, and answers."""
    try:
        retriever = open_retriever(store, memory_encoder=own)
        if rows := _live_rows(store, 1):
            retriever.search([store.at(rows)[0].passage.text], 1)
    except (CheckpointNotFound, CheckpointError, ConfigError):  # what the store needs, not what it holds
        raise
    except MemstoreError as error:
        where = f"index/{store.generation.number:06d}"
        return [Fault(kind=type(error).__name__, where=where, message=str(error))]
    return []


def _compare(store: Store, encoder: PassageEncoder, rows: list[int]) -> tuple[float, list[Fault]]:
    """The largest relative difference of these passages' memories to new ones, and what is beyond tolerance."""
    ids = store.ids(rows)
    passages = store.passages(ids)
    try:
        stored = store.load(ids, dtype=torch.float32)
    except StoreCorrupt as error:
        return 0.0, [Fault(kind=type(error).__name__, where="segments", message=str(error))]
    made = encoder.encode(passages)
    largest, problems = 0.0, []
    parts = torch.split(stored.states, stored.lengths.tolist())
    tokens = torch.split(stored.token_ids, stored.lengths.tolist())
    for passage, old, old_ids, states, new_ids in zip(
        passages, parts, tokens, made.states, made.token_ids, strict=True
    ):
        if old_ids.tolist() != new_ids.tolist():
            problems.append(_mismatch(passage.id, "its token ids are not those of its text"))
            continue
        codec, new_tokens = store.codec_of(passage.id), torch.from_numpy(new_ids.astype(np.int64))
        difference = min(_differences(old, codec, _origins(store, states, new_tokens), new_tokens))
        largest = max(largest, difference)
        if not difference <= TOLERANCE[store.fingerprint.dtype]:
            message = f"its memory differs from one made again by {difference:.1%} (relative norm)"
            problems.append(_mismatch(passage.id, message))
    return largest, problems


def _origins(store: Store, states: torch.Tensor, token_ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a memory may have been encoded from: the states, and in a store made by `recompress` what its first codec
    made of them.
    """
    yield states
    if (name := store.generation.settings.get("recompressed", {}).get("codec")) is not None:
        yield _through(get_codec(name), states, token_ids)


def _differences(
    old: torch.Tensor, codec: Codec, origins: Iterable[torch.Tensor], token_ids: torch.Tensor
) -> Iterator[float]:
    for states in origins:
        new = _through(codec, states, token_ids)
        yield _difference(old, new, states.float() if codec.sample_tokens else new)


def _through(codec: Codec, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    return codec.decode(codec.encode(states, token_ids), token_ids, dtype=torch.float32, device="cpu")


def _difference(old: torch.Tensor, new: torch.Tensor, states: torch.Tensor) -> float:
    """How much farther the stored memory is from what is encoded than one made again is, in relative norm.

    A codec of few bits may choose another code of nearly the same error for states that differ in their last bit. So
    with those that learn, `states` are what was encoded; with the others, `new` itself.
    """
    farther = (old - states).norm() - (new - states).norm()
    return max(0.0, float(farther / states.norm().clamp_min(1e-12)))


def _mismatch(passage_id: str, message: str) -> Fault:
    return Fault(kind="MemoryMismatch", where=f"passage {passage_id}", message=message)
