"""A model asks questions about passages; another one reads each passage and answers. Both in batches of like length.

Knows models and texts; refuses to know where passages come from and where questions go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memstore.decode.prepared import PreparedDecoder
from memstore.decode.sampling import Sampling
from memstore.decode.search import generate
from memstore.decode.steps import Decoded
from memstore.errors import ConfigError
from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.model.tokens import Ids, TextTokenizer
from memstore.passage import Passage

_BATCH_TOKENS = 4096  # of questions and passages encoded at once, about


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote about a passage, the mean log-probability of its tokens, and whether it came to an end."""

    text: str
    log_prob: float
    finished: bool


class Writer:
    """A model that writes a text for a prompt and one passage: an asker, or a reader."""

    def __init__(self, model: MemoryModel, tokenizer: TextTokenizer) -> None:
        """The model in evaluation mode, and its tokenizer."""
        self.model, self.tokenizer = model, tokenizer
        self._prepared = PreparedDecoder(model)

    def template(self, style: str) -> str:
        """The prompt of a style, which is a task of the model.

        Raises:
            ConfigError: the model has no such task.
        """
        tasks = self.model.config.tasks
        if style not in tasks:
            raise ConfigError(
                f"{self.model.config.name} knows no style {style!r} of asking; its tasks: {', '.join(tasks) or 'none'}"
            )
        return tasks[style]

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[Ids],
        passages: Sequence[Passage],
        *,
        most: int,
        sampling: Sampling | None = None,
    ) -> list[Written]:
        """What the model writes for each prompt about its passage, in order.

        Args:
            prompts: filled templates.
            passages: one for each prompt.
            most: tokens written at most, eos included.
            sampling: draws the tokens; without it the likeliest are taken.
        """
        read = self.tokenizer.passages(passages)
        written: dict[int, Decoded] = {}
        for batch in _batches([len(p) + len(r) for p, r in zip(prompts, read, strict=True)]):
            memories = self.model.encode_passages(self._tokens([read[i] for i in batch]))
            questions = self.model.encode_question(self._tokens([prompts[i] for i in batch]))
            rows = self.model.live_a(questions, memories, torch.arange(len(batch)))
            decoded = generate(
                self.model,
                self.model.live_b(rows),
                max_new_tokens=most,
                banned=[self.model.config.pad_token_id],
                prepared=self._prepared,
                sampling=sampling,
            )
            written |= zip(batch, decoded, strict=True)
        return [self._written(written[i], passage) for i, passage in enumerate(passages)]

    def _written(self, decoded: Decoded, passage: Passage) -> Written:
        text = self.tokenizer.decode_from([passage.title, passage.text], decoded.ids).strip()
        return Written(text, decoded.score / max(1, len(decoded.log_probs)), decoded.finished)

    def _tokens(self, rows: Sequence[Ids]) -> Tokens:
        return Tokens.of([torch.from_numpy(row.astype(np.int64)) for row in rows]).to(self.model.device)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of rows of like length together, about `_BATCH_TOKENS` tokens in a batch."""
    batch, tokens = list[int](), 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and tokens + lengths[i] > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch
