"""All settings of a training run, frozen and typed, read from one TOML file. Knows no tensors and no texts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from memstore.errors import ConfigError
from memstore.tables import read_table, read_toml, require
from memstore.train.data.settings import DataSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """`[model]`: the model to train.

    Attributes:
        source: "checkpoint" (a folder of ours, a hub id or "default"), "t5" (a stock one) or "scratch".
        path: of the checkpoint; leave it out for "scratch".
        tokenizer: for "scratch", the `tokenizer.json` to use (or a folder that holds one).
        config: values of `ModelConfig`. For "scratch" they make the model (`vocab_size` comes from the tokenizer if
            it is left out); otherwise they change the checkpoint's.
        deepen: for "checkpoint", encoder layers (from 0). After each a copy of it is added, which changes nothing
            until it has been trained (as in Net2Net, arXiv 1511.05641, section 2.3). `config` should give alpha and
            beta for the new number of layers.
        renew: for "checkpoint", the parts that begin at random again: "scorer", "copy_head", "match_embedding",
            "projection".
        decoder_layers: for "checkpoint", the decoder layers (from 0) that are kept, ascending; empty keeps all.
        frozen_memories: the parts that make memories (the embedding and the memory encoder) are not trained, in any
            system. Stores built before training then fit the model after it, and passages cost no gradient.
    """

    source: Literal["checkpoint", "t5", "scratch"]
    path: str = ""
    tokenizer: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    deepen: tuple[int, ...] = ()
    renew: tuple[Literal["scorer", "copy_head", "match_embedding", "projection"], ...] = ()
    decoder_layers: tuple[int, ...] = ()
    frozen_memories: bool = False

    def __post_init__(self) -> None:
        need, other = ("tokenizer", "path") if self.source == "scratch" else ("path", "tokenizer")
        if not getattr(self, need) or getattr(self, other):
            raise ConfigError(f"source = {self.source!r} needs {need}, and takes no {other}")
        if (self.deepen or self.renew or self.decoder_layers) and self.source != "checkpoint":
            raise ConfigError('deepen, renew and decoder_layers are for source = "checkpoint"')
        if list(self.decoder_layers) != sorted(set(self.decoder_layers)):
            raise ConfigError(f"decoder_layers must ascend, each once, not {list(self.decoder_layers)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """`[loss]`: the loss that is minimised. A weight of 0 switches a part off, and saves its work.

    Attributes:
        answer_mean: "token": every answer token weighs the same; "question": every question does.
        keep_k: passages that pass to the reader: the best by score, or the first ones without a scorer.
        gold_in_reader: share of the questions for which a gold passage is kept even if its score is too low.
        distill_weight: of perplexity distillation, for models with a scorer.
        distill_direction: which KL divergence between the reader's ranking (lm) and the scorer's (rank):
            "lm||rank" is KL(lm || rank), the cross-entropy to the reader's ranking up to a constant.
        distill_passages: only the first passages of each question take part; 0 for all.
        score_temperature, lm_temperature: what scores and log-likelihoods are divided by.
        lm_log_probability: whether log p(answer | question, passage) is a "sum" over tokens or their "mean".
        lm_rows_at_once: rows that are decoded together for it; fewer take less memory.
        gold_weight: of training the scorer with marked gold passages, which GLIMMER does not do.
        dense_weight: of the retrieval projection's contrast of gold passages with all others in the batch.
        dense_temperature: what its cosines are divided by.
        dense_distill_weight: of KL(rerank || dense) over each question's own passages.
        dense_trains_encoder: whether the two dense losses train the memory encoder, or only the projection.
    """

    answer_mean: Literal["token", "question"] = "token"
    keep_k: int = 10
    gold_in_reader: float = 0.0
    distill_weight: float = 1.0
    distill_direction: Literal["lm||rank", "rank||lm"] = "lm||rank"
    distill_passages: int = 0
    score_temperature: float = 1.0
    lm_temperature: float = 1.0
    lm_log_probability: Literal["sum", "mean"] = "sum"
    lm_rows_at_once: int = 256
    gold_weight: float = 0.0
    dense_weight: float = 0.0
    dense_temperature: float = 0.05
    dense_distill_weight: float = 0.0
    dense_trains_encoder: bool = True

    def __post_init__(self) -> None:
        require(self, positive=("keep_k", "score_temperature", "lm_temperature", "lm_rows_at_once",
                                "dense_temperature"),
                shares=("gold_in_reader",),
                natural=("distill_weight", "distill_passages", "gold_weight", "dense_weight",
                         "dense_distill_weight"))  # fmt: skip
        if self.distill_weight and self.distill_passages == 1:
            raise ConfigError("distill_passages = 1 teaches the scorer nothing, as a ranking needs two; 0 is for all")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """`[optimizer]`: how parameters are updated.

    Attributes:
        name: "adamw", "adafactor", or "muon" (matrices inside blocks; everything else by AdamW, at the same
            learning rate: updates are scaled to AdamW's size).
        schedule: of the learning rate after warm-up. "constant" keeps it. "linear" and "cosine" keep it, then lower it
            to `final_lr_share` of itself over the last `decay_share` of all steps. "inverse_sqrt" divides it by the
            square root of steps over warm-up steps.
        beta1, beta2, eps: of AdamW; Adafactor has its own, and scales the learning rate by each parameter's size.
        momentum: of Muon.
        weight_decay: of matrices; embeddings, norms, biases and position tables have none.
        clip_norm: the largest norm of the gradient; 0 for no limit.
    """

    name: Literal["adamw", "adafactor", "muon"] = "adamw"
    lr: float = 1e-3
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "linear"
    warmup_steps: int = 100
    decay_share: float = 1.0
    final_lr_share: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    momentum: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self, positive=("lr", "eps"), natural=("warmup_steps", "weight_decay", "clip_norm"),
                shares=("decay_share", "final_lr_share", "beta1", "beta2", "momentum"))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """`[checkpoints]`: the states and models kept on disk.

    Attributes:
        every_steps, every_minutes: how often the state to resume from is written; 0 switches one of them off.
        keep_last: how many of these states are kept.
        dtype: of the models to use (`best/`, `last/`); states are always float32.
    """

    every_steps: int = 1000
    every_minutes: float = 10.0
    keep_last: int = 2
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        require(self, positive=("keep_last",), natural=("every_steps", "every_minutes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DevConfig:
    """`[dev]`: measuring during training.

    Attributes:
        every_steps: how often, and after the last step; 0 for never.
        keep_k: passages that pass to the reader; 0 for as many as in training.
        max_new_tokens: of an answer.
        recall_at: ranks at which recall of gold passages is reported, the scorer's and the retriever's.
        best_by: the score, averaged over tasks, by which the best model is kept. "recall" is the scorer's at the
            first of `recall_at`, for models that are only trained to rank.
    """

    every_steps: int = 1000
    keep_k: int = 0
    max_new_tokens: int = 32
    recall_at: tuple[int, ...] = (1, 5, 10)
    best_by: Literal["em", "f1", "accuracy", "recall"] = "em"

    def __post_init__(self) -> None:
        require(self, positive=("max_new_tokens",), natural=("every_steps", "keep_k"))
        if not self.recall_at or min(self.recall_at) < 1:
            raise ConfigError(f"recall_at must be ranks of at least 1, not {list(self.recall_at)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        out: folder of the run. A run that was interrupted there goes on.
        data: what batches are made of; None where the caller provides batches.
        steps: optimizer steps in all.
        seed: of new weights, dropout and batches. The parts added to a T5 always begin the same.
        device: "cpu", "cuda", ...; of several processes each takes its own GPU.
        dtype: of matrix products, "bfloat16" or "float32"; by default the one that is fast on the device. Parameters
            and the optimizer's state are float32.
        accumulate: batches of a process in each optimizer step; each weighs the same.
        compile: compile the blocks, which pays off on a GPU and in long runs.
        checkpoint_activations: compute encoder blocks twice, to keep less in memory for the backward pass.
        log_every: steps to a line of metrics, which averages over them.
        stop_after_minutes: save the state and stop after this time; the run can go on later. 0 for no limit.
        prefetch: batches made ahead, by `loader_threads` threads, or by each of the `loader_processes`.
        loader_processes: make batches in this many forked processes instead of threads, to keep a GPU busy.
    """

    out: Path
    steps: int
    model: ModelTable
    data: DataSettings | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    dev: DevConfig = field(default_factory=DevConfig)
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["bfloat16", "float32"] | None = None
    accumulate: int = 1
    compile: bool = False
    checkpoint_activations: bool = False
    log_every: int = 50
    stop_after_minutes: float = 0.0
    prefetch: int = 4
    loader_threads: int = 1
    loader_processes: int = 0

    def __post_init__(self) -> None:
        require(self, positive=("steps", "accumulate", "log_every", "prefetch", "loader_threads"),
                natural=("seed", "stop_after_minutes", "loader_processes"))  # fmt: skip
        if self.compile and self.checkpoint_activations:
            raise ConfigError("choose either compile or checkpoint_activations: they do not go together yet")

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read a TOML file. Paths in it are as given: relative ones start at the working directory.

        Raises:
            ConfigError: there is no such file, it is not TOML, or a key is unknown, missing or of a wrong type; the
                message names the key and the file.
        """
        return read_table(cls, read_toml(path, what="training config"), where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = dataclasses.asdict(self) | {"out": str(self.out)}
        return values if self.data is None else values | {"data": self.data.to_dict()}
