"""Text to token ids and back: fills templates, holds lengths to the model's limits.

Knows the tokenizer and the config's templates; refuses to know the model, padding and stores. Ids are int32
arrays of the real length: nothing here pads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from memstore.errors import CheckpointMismatch, RequestError
from memstore.model.config import ModelConfig
from memstore.passage import Passage, encodable

Ids = NDArray[np.int32]


class TextTokenizer:
    """A tokenizer with a model's templates and limits.

    Attributes:
        fingerprint: sha256 of `json`.
        folds_case: the tokenizer makes capitals small.
        json: the canonical `tokenizer.json`: sorted keys, no padding or truncation settings.
    """

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        """Copy the tokenizer: padding and truncation settings are dropped from the copy.

        Raises:
            CheckpointMismatch: the tokenizer has ids that the model has no embeddings for, or decodes one of the
                config's `spellings` as something else, so that no answer could ever be it.
        """
        size = ids_of(tokenizer)
        if size > config.vocab_size:
            raise CheckpointMismatch(
                f"the tokenizer's ids reach {size - 1}, but the model has only {config.vocab_size} embeddings: "
                "this is not the model's tokenizer."
            )
        self.config = config
        self.json = canonical(tokenizer)
        self.fingerprint = hashlib.sha256(self.json.encode()).hexdigest()
        self._tokenizer = Tokenizer.from_str(self.json)
        self.folds_case = self._read_back("Aa") == "aa"
        self._unknown = _unknown_id(self._tokenizer)
        for answer in config.spellings:
            if (read := self._read_back(answer)) != answer:
                raise CheckpointMismatch(
                    f"spellings names the answer {answer!r}, which this tokenizer decodes as {read!r}: "
                    "name answers as it decodes them."
                )

    def passages(self, passages: Sequence[Passage]) -> list[Ids]:
        """Token ids of the filled `passage_template` and eos: `max_passage_tokens` at most, eos kept."""
        return self._ended(self._encode(self._filled(passages)), self.config.max_passage_tokens)

    def lengths(self, passages: Sequence[Passage]) -> list[int]:
        """Tokens of each filled passage and eos, however many: what `passages` would cut off counts."""
        return [len(row) + 1 for row in self._encode(self._filled(passages))]

    def ends(self, text: str) -> NDArray[np.int64]:
        """Where each token of a text ends, in characters, ascending: no template, no eos."""
        found = self._tokenizer.encode(encodable(text), add_special_tokens=False).offsets
        return np.sort(np.array([end for _, end in found], dtype=np.int64))

    def _filled(self, passages: Sequence[Passage]) -> list[str]:
        return [fill(self.config.passage_template, {"title": p.title, "text": p.text}) for p in passages]

    def template_of(self, task: str | None) -> str:
        """The question template of a task; of no task, the config's `question_template`.

        Raises:
            RequestError: the model does not know the task.
        """
        if task is None:
            return self.config.question_template
        if task not in self.config.tasks:
            raise unknown_task(task, self.config.tasks)
        return self.config.tasks[task]

    def questions(
        self,
        texts: Sequence[str],
        template: str | None = None,
        *,
        tasks: Sequence[str | None] | None = None,
    ) -> list[Ids]:
        """Token ids of questions: no eos, between 1 and `max_question_tokens` (the end is cut off).

        Args:
            texts: the questions.
            template: used for all of them, instead of the config's.
            tasks: the task of each question, if there is no `template`.

        Raises:
            RequestError: the model does not know a task.
        """
        if template is not None:
            templates = [template] * len(texts)
        else:
            templates = [self.template_of(t) for t in tasks or [None] * len(texts)]
        filled = [fill(t, {"question": text}) for t, text in zip(templates, texts, strict=True)]
        limit, nothing = self.config.max_question_tokens, [self.config.eos_token_id]
        return [np.array(ids[:limit] or nothing, dtype=np.int32) for ids in self._encode(filled)]

    def encode_answers(self, texts: Sequence[str], *, max_tokens: int) -> list[Ids]:
        """Token ids of answers and eos, at most `max_tokens`, as the decoder is to produce them."""
        return self._ended(self._encode(texts), max_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens and without ids that the tokenizer does not know; a whole
        answer among the config's `spellings` is written as they say.
        """
        text = self._decode(ids)
        return self.config.spellings.get(text, text)

    def known(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids before the first that stands for characters which the tokenizer lacks: it decodes to nothing."""
        ids = list(ids)
        return ids[: ids.index(self._unknown)] if self._unknown in ids else ids

    def decode_from(self, texts: Sequence[str], ids: Sequence[int]) -> str:
        """`decode`, but ids that stand for unknown characters are read as the first of the texts has them.

        T5's tokenizer lacks some letters: "Brasília" would be "Braslia". Ids that stand in none of the texts are
        decoded without.
        """
        plain, known = self.decode(ids), self.known(ids)
        if len(known) == len(ids):
            return plain
        wanted, before = list(ids), self._decode(known)
        for encoding, text in zip(self._with_offsets(texts), texts, strict=True):
            for start in range(len(encoding.ids) - len(wanted) + 1):
                if encoding.ids[start : start + len(wanted)] == wanted:
                    first, last = encoding.offsets[start][0], encoding.offsets[start + len(wanted) - 1][1]
                    found = encodable(text)[first:last].strip()
                    if found.startswith(before):  # which may have been shown already
                        return found
        return plain

    def _with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch([encodable(t) for t in texts], add_special_tokens=False)

    def _read_back(self, text: str) -> str:
        return self._decode(self._encode([text])[0])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            e.ids for e in self._tokenizer.encode_batch_fast([encodable(t) for t in texts], add_special_tokens=False)
        ]

    def _ended(self, rows: list[list[int]], limit: int) -> list[Ids]:
        eos = self.config.eos_token_id
        return [np.array([*row[: limit - 1], eos], dtype=np.int32) for row in rows]


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that a tokenizer gives to what it does not know; None if there is nothing that it does not know."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return None if model.get("unk_token") is None else tokenizer.token_to_id(model["unk_token"])


def ids_of(tokenizer: Tokenizer) -> int:
    """One more than the highest id: how many embeddings its tokens need, however many ids between them are unused."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def canonical(tokenizer: Tokenizer) -> str:
    """`tokenizer.json` in exactly one rendering, without padding and truncation settings.

    Scores have 9 digits, enough to keep any two float32 apart: the library reads back what it wrote only to the last
    bit but one, and a tokenizer must keep its fingerprint through a file.
    """
    values = json.loads(tokenizer.to_str(), parse_float=lambda digits: float(f"{float(digits):.9g}"))
    values["padding"] = values["truncation"] = None
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def unknown_task(task: str, known: Iterable[str]) -> RequestError:
    """What to raise where a question names a task that is none of a model's."""
    names = ", ".join(sorted(known)) or "none"
    return RequestError(f"this model knows no task {task!r}; it knows: {names}. Leave the task out, or name one.")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into `{name}` places in one pass: braces in a value, or other braces, stay as they are."""
    return re.sub("{(" + "|".join(values) + ")}", lambda match: values[match[1]], template)
