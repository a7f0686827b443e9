"""Memories as a store will give them: encoded and decoded by a codec before the live layers read them.

The gradient passes as if nothing had happened (straight-through). What the codec learns it learns once, before the
first step, from memories of the first batches. It is kept in the run's folder, so that a resumed run reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from memstore.codec import Codec, get_codec
from memstore.errors import ConfigError, InvalidMemory, TrainingDiverged
from memstore.model.packed import Packed

Through = Callable[[Packed], Packed]
_NAME = "memories"  # of the tables: out/codecs/memories.safetensors
_MOST_BATCHES = 64  # that are read for a sample


def as_they_are(memories: Packed) -> Packed:
    """Memories without a codec."""
    return memories


@dataclass(frozen=True, slots=True)
class ThroughCodec:
    """A `Through`: what a codec makes of memories, with their gradient."""

    codec: Codec

    def __call__(self, memories: Packed) -> Packed:
        """The memories (T, D) decoded, exactly; their gradient is that of what is given.

        Raises:
            TrainingDiverged: they are not finite.
        """
        states, token_ids = memories.states, memories.token_ids
        detached = states.detach()
        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):  # a store computes in no other way
            try:
                arrays = self.codec.encode(detached, token_ids)
            except InvalidMemory as error:
                raise TrainingDiverged(f"memories cannot be encoded: {error}. Lower optimizer.lr.") from error
            decoded = self.codec.decode(arrays, token_ids, dtype=states.dtype, device=states.device)
        return Packed(decoded + (states - detached), token_ids, memories.layout)


def fit(name: str, out: Path, memories: Iterator[Packed], weights: torch.Tensor) -> None:
    """Fit a codec on memories, and write what it learned into a run's folder. Nothing for one that learns nothing.

    Args:
        name: of the codec.
        out: the run's folder.
        memories: of the first batches; as many are taken as the codec wants, at most `_MOST_BATCHES`.
        weights: (D,) of the live stack's first norm.
    """
    from memstore.store.codec_tables import write_tables  # here: only runs with a codec need what reads stores

    codec = get_codec(name)
    if not codec.sample_tokens:
        return
    states: list[torch.Tensor] = []
    token_ids: list[torch.Tensor] = []
    for some in memories:
        states.append(some.states.detach().float().cpu())
        token_ids.append(some.token_ids.cpu())
        if sum(map(len, states)) >= codec.sample_tokens or len(states) == _MOST_BATCHES:
            break
    tokens = slice(codec.sample_tokens)
    write_tables(out, _NAME, codec.fit(torch.cat(states)[tokens], torch.cat(token_ids)[tokens], weights=weights))


def read(name: str, out: Path) -> ThroughCodec:
    """The codec of a run, with what it learned at its beginning.

    Raises:
        ConfigError: that is not in the run's folder.
        ChecksumMismatch, CodecMismatch: it is damaged, or of another codec.
    """
    from memstore.store.codec_tables import find_codec

    codec = get_codec(name)
    if not codec.sample_tokens:
        return ThroughCodec(codec)
    found = find_codec(out, _NAME)
    if found is None or found[0].name != name:
        raise ConfigError(
            f"{out} has no tables of the codec {name!r}, which the run began with: restore "
            f"{out / 'codecs'} from a copy, or name another `out`"
        )
    return ThroughCodec(found[0])
