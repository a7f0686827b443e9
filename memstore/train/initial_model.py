"""Opens the model that a run starts from, and prepares it: freezes, compiles, or saves memory by computing twice.

Knows checkpoints and tokenizers; refuses to know losses, batches and optimizers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from memstore import checkpoint
from memstore.checkpoint.files import TOKENIZER, read_tokenizer
from memstore.errors import ConfigError
from memstore.model.config import ModelConfig
from memstore.model.layers import EncoderStack
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.train.config import DevConfig, LossConfig, ModelTable

_MAY_BE_NEW = (
    "scorer_norm.",
    "scorer.",
    "copy_head.",
    "match_embedding.",
    "projection_norm.",
    "projection.",
)  # parts that the config may add to a checkpoint, or leave out
# The last maps of a layer's two halves: if they are zero, the layer adds nothing to its input.
_OUT_OF_A_LAYER = ("attention.o.weight", "feed_forward.wo.weight")


def open_model(table: ModelTable, *, seed: int) -> tuple[MemoryModel, TextTokenizer]:
    """The model and tokenizer that `[model]` names, in float32 and training mode, frozen parts frozen.

    Raises:
        CheckpointNotFound, CheckpointError, CheckpointMismatch, ConfigError: see `memstore.checkpoint.loading`.
    """
    if table.source == "scratch":
        model, tokenizer = _from_scratch(table, seed)
    elif table.source == "t5":
        model, tokenizer = checkpoint.from_t5(table.path, **table.config)
    else:
        model, tokenizer = _from_checkpoint(table, seed)
    model.config = model.config.replace(trained=True)
    model = model.float().train()
    freeze(model, memories=table.frozen_memories)
    return model, TextTokenizer(Tokenizer.from_str(tokenizer.json), model.config)


def freeze(model: MemoryModel, *, memories: bool = False) -> None:
    """Switch off the gradient of the memory encoder and its embedding: for LUMEN, or for any model with `memories`."""
    if memories or model.config.system == "lumen":
        model.memory_encoder.requires_grad_(requires_grad=False)
        (model.memory_embedding or model.embedding).requires_grad_(requires_grad=False)


def check_losses(model: MemoryModel, config: LossConfig) -> None:
    """Check that the model has the parts that the losses train.

    Raises:
        ConfigError: a loss needs a scorer or a projection that the model lacks.
    """
    system = model.config.system
    if model.scorer is None and (config.gold_weight or config.dense_distill_weight):
        raise ConfigError(f"gold_weight and dense_distill_weight need a scorer, and {system} has none; leave them 0")
    if model.projection is None and (config.dense_weight or config.dense_distill_weight):
        raise ConfigError("dense_weight and dense_distill_weight need a model with embedding_dim > 0")


def check_dev(model: MemoryModel, config: DevConfig) -> None:
    """Check that the model has the score by which the best one is kept.

    Raises:
        ConfigError: `best_by` is the scorer's recall, and the model has no scorer.
    """
    if model.scorer is None and config.best_by == "recall" and config.every_steps:
        raise ConfigError(
            f'best_by = "recall" needs a scorer, and {model.config.system} has none; use em, f1, accuracy'
        )


def compile_blocks(model: MemoryModel) -> None:
    """Compile every block, for any number of tokens, as every batch has another shape."""
    for stack in _stacks(model):
        for block in stack.blocks:
            block.compile(dynamic=True)


def checkpoint_activations(model: MemoryModel) -> None:
    """Make encoder blocks keep only their input, and compute the rest again in the backward pass.

    Changes the blocks' `forward` and wraps no module, so that names of parameters stay the same.
    """
    for stack in _stacks(model):
        for block in stack.blocks:
            block.forward = partial(recomputed, block.forward, use_reentrant=False)


def _stacks(model: MemoryModel) -> list[EncoderStack]:
    return [m for m in model.modules() if isinstance(m, EncoderStack)]


def _from_scratch(table: ModelTable, seed: int) -> tuple[MemoryModel, TextTokenizer]:
    path = Path(table.tokenizer)
    file = os.path.isfile(path)  # noqa: PTH113 - False, not an error, in a closed folder: `resolve` reports it
    if file and path.name != TOKENIZER:
        raise ConfigError(f"model.tokenizer must be a {TOKENIZER} or a folder that holds one, not {path}")
    folder = path.parent if file else checkpoint.resolve(table.tokenizer)
    return checkpoint.from_scratch(table.config, tokenizer=read_tokenizer(folder), seed=seed)


def _from_checkpoint(table: ModelTable, seed: int) -> tuple[MemoryModel, TextTokenizer]:
    """A checkpoint, changed as the table says.

    Parts may be added, left out, or copied (LUMEN), layers added, decoder layers left out, and the cut between memory
    and live layers may move.
    """
    loaded, tokenizer = checkpoint.load(table.path, dtype=torch.float32)
    if not (table.config or table.deepen or table.renew or table.decoder_layers):
        return loaded, tokenizer
    grown = {"num_layers": loaded.config.num_layers + len(table.deepen)}
    if table.decoder_layers:
        grown["num_decoder_layers"] = len(table.decoder_layers)
    changed = MemoryModel(ModelConfig.from_dict(loaded.config.to_dict() | grown | table.config))
    changed.initialise(seed)
    new: dict[str, Tensor] = changed.state_dict()
    held: dict[str, Tensor] = _placed(changed.config.num_memory_layers, loaded, table.deepen)
    if table.decoder_layers:
        held = _with_decoder_layers(table.decoder_layers, held, of=loaded.config.num_decoder_layers)
    if changed.question_encoder is not None and loaded.question_encoder is None:
        # LUMEN from another system: its question encoder begins as a copy of the memory encoder.
        held |= {"memory_embedding.weight": loaded.embedding.weight.detach()}
        memory = {n: p for n, p in held.items() if n.startswith("memory_encoder.")}
        held |= {n.replace("memory_encoder.", "question_encoder.", 1): p for n, p in memory.items()}
    renewed = tuple(f"{part}{end}" for part in table.renew for end in (".", "_norm."))
    held = {n: p for n, p in held.items() if not n.startswith(renewed)}
    tensors = {n: p for n, p in held.items() if n in new or not n.startswith(_MAY_BE_NEW)}
    tensors |= {n: p for n, p in new.items() if n not in held and n.startswith(_MAY_BE_NEW)}
    checkpoint.assign(changed, {n: p.clone() for n, p in tensors.items()}, dtype=torch.float32, source=table.path)
    return changed, tokenizer


def _with_decoder_layers(kept: Sequence[int], held: dict[str, Tensor], *, of: int) -> dict[str, Tensor]:
    """The parameters with only the `kept` of the decoder's `of` layers, numbered from 0 again.

    Raises:
        ConfigError: the decoder has no such layer.
    """
    if max(kept) >= of or min(kept) < 0:
        raise ConfigError(f"decoder_layers names layer {max(kept)}, but the decoder's are 0 to {of - 1}")
    chosen, prefix = {}, "decoder.blocks."
    for name, p in held.items():
        number, _, part = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            chosen[name] = p
        elif int(number) in kept:
            chosen[f"{prefix}{kept.index(int(number))}.{part}"] = p
    return chosen


def _placed(memory_layers: int, model: MemoryModel, deepen: Sequence[int] = ()) -> dict[str, Tensor]:
    """The parameters, moved so that the first `memory_layers` encoder layers are the memory encoder's.

    After each layer of `deepen` comes a copy that adds nothing to its input: its last maps are zero. A stack takes the
    position biases of the old stack that most of its layers come from.

    Raises:
        ConfigError: there is no such layer, or the cut of a LUMEN would move, whose question encoder was trained apart
            from its memory encoder.
    """
    held: dict[str, Tensor] = model.state_dict()
    was, layers = model.config.num_memory_layers, model.config.num_layers
    if was == memory_layers and not deepen:
        return held
    if model.question_encoder is not None:
        raise ConfigError("a LUMEN's cut cannot move, nor its layers: train from a FiD or GLIMMER, or keep both")
    if unknown := sorted(set(deepen) - set(range(layers))):
        raise ConfigError(f"deepen names layer {unknown[0]}, but the encoder's are 0 to {layers - 1}")
    order = [(layer, copy) for layer in range(layers) for copy in (False, *[True] * list(deepen).count(layer))]
    # `order` lists the new layers, each as the old layer it comes from; `places` says where each old layer goes.
    places: dict[int, list[tuple[str, bool]]] = {}
    for place, (layer, copy) in enumerate(order):
        side, number = ("memory_encoder", place) if place < memory_layers else ("live", place - memory_layers)
        places.setdefault(layer, []).append((f"{side}.blocks.{number}", copy))
    moved = {}
    for name, p in held.items():
        stack, _, rest = name.partition(".blocks.")
        if stack in ("memory_encoder", "live") and rest:
            at, _, part = rest.partition(".")
            # Live layers were numbered from 0: with `was` added, layers of both stacks count through.
            for block, copy in places[int(at) + (was if stack == "live" else 0)]:
                moved[f"{block}.{part}"] = torch.zeros_like(p) if copy and part in _OUT_OF_A_LAYER else p
        else:
            moved[name] = p
    bias = "{}.bias.table.weight".format
    for side, own in (("memory_encoder", order[:memory_layers]), ("live", order[memory_layers:])):
        if own:
            from_memory = sum(layer < was for layer, _ in own)
            moved[bias(side)] = held[bias("memory_encoder" if 2 * from_memory > len(own) else "live")]
    return moved
