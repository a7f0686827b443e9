"""THE page: a question's whole way, from text to answer. `Answerer._read` is the story; the rest is bookkeeping.

Knows no HTTP and no threads: one thread runs an Answerer. Request state lives in the values passed along.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from memstore import checkpoint, decode
from memstore.answer import certainty, limits
from memstore.answer.attention import with_attention
from memstore.answer.candidates import Candidates, brought, found_in, rows_of
from memstore.answer.listening import Heard, Listener, Stages
from memstore.answer.memories import memories_of
from memstore.answer.operations import operations
from memstore.answer.values import Answer, Question, Usage
from memstore.answer.vectors import vectors_of
from memstore.checkpoint import calibration_of, model_of
from memstore.confidence.calibration import Calibration
from memstore.decode.prepared import PreparedDecoder
from memstore.decode.spelling import spelled
from memstore.errors import RequestError
from memstore.machine import StageTimer
from memstore.model import selection
from memstore.model.embedding import MemoryTextEncoder
from memstore.model.model import MemoryModel
from memstore.model.packed import Packed, Tokens
from memstore.model.ranking import rank
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage, RankedPassage
from memstore.retrieve import Filters, Retriever
from memstore.retrieve.encoders import Vectors
from memstore.retrieve.open import encoder_of, open_retriever
from memstore.storage import as_url
from memstore.store import AnyStore, in_force, open_store
from memstore.store.sampling import spread


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What reading a batch of B questions gave. R rows are in the order of the questions' candidates."""

    question_tokens: list[int]  # (B,)
    passage_tokens: list[int]  # (R,)
    bytes_read: list[int]  # (B,)
    kept: set[int]  # rows
    ranked: list[tuple[RankedPassage, ...]]  # (B,)
    decoded: list[decode.Decoded]  # (B,)


class Answerer:
    """A model, its tokenizer, a store of its memories, and a retriever over the store."""

    def __init__(
        self,
        *,
        model: MemoryModel,
        tokenizer: TextTokenizer,
        store: AnyStore,
        retriever: Retriever,
        calibration: Calibration | None = None,
    ) -> None:
        self.model, self.tokenizer, self.calibration = model.eval(), tokenizer, calibration
        self.store, self.retriever, self.codec = store, retriever, store.codec
        self.fingerprint = checkpoint.fingerprint(model, tokenizer)
        store.fingerprint.require(self.fingerprint)
        self._judge = certainty.Judge(calibration, frozenset(model.config.spellings.values()))
        self.prepared = PreparedDecoder(model) if model.device.type == "cpu" else None  # measured there only

    @classmethod
    def open(cls, store: Path | str, *, model: str | None = None, device: str = "cpu", calibrated: bool = True) -> Self:
        """Open a store, be it in shards, and the model that built it or the one named; refuse a pair that does not fit.

        Its calibration is left out where it is not to be `calibrated`, as when another one is fitted.

        Raises:
            StoreNotFound, CheckpointNotFound, CheckpointMismatch, FingerprintMismatch: see there.
        """
        opened = open_store(store)
        loaded, tokenizer = model_of(opened, name=model, device=device)
        retriever = _retriever(opened, loaded, tokenizer)
        calibration = calibration_of(opened, loaded, name=model) if calibrated else None
        return cls(model=loaded, tokenizer=tokenizer, store=opened, retriever=retriever, calibration=calibration)

    def reopened(self, *, try_with: str) -> Self | None:
        """The same model over the generation that is in force now; None if that is open here. This one stays as it is.

        Another thread may call it than the one that answers. It searches and reads for the question `try_with`, so that
        the first ones asked do not wait for files.

        Raises:
            FingerprintMismatch: another model made the generation.
            StoreNotFound, StoreCorrupt, StoreUnreadable: the generation is damaged, or the store is gone.
        """
        if in_force(self.store.place) == self.store.generation:
            return None
        opened = self.over(self.store.place)
        try:
            opened.store.open_segments()
            opened._memories(opened._candidates([Question(try_with)]))
        except BaseException:
            opened.close()
            raise
        return opened

    def over(self, store: Path | str) -> Self:
        """The same model, which is in memory once, over another store. One thread runs both.

        Raises:
            FingerprintMismatch: another model made the store.
            StoreNotFound, StoreCorrupt, StoreUnreadable: see `Store.open`.
        """
        opened = copy(self)
        opened.store = open_store(store)
        try:
            opened.store.fingerprint.require(self.fingerprint)
            opened.codec = opened.store.codec
            opened.retriever = _retriever(opened.store, self.model, self.tokenizer, beside=self.retriever)
        except BaseException:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Let the store's generation be removed; nothing may be asked from then on."""
        self.store.close()

    # --- the story ----------------------------------------------------------------------------------------------

    def _read(
        self,
        questions: Sequence[Question],
        found: Sequence[Candidates],
        heard: Heard,
        stages: Stages,
        max_steps: int | None,
    ) -> _Read:
        question_of = torch.tensor([i for i, own in enumerate(found) for _ in range(max(1, len(own)))])  # (R,)
        with stages("load"):
            memories, bytes_read = self._memories(found)
        with stages("question"):
            tokens = self._question_tokens(questions)
            encoded_questions = self.model.encode_question(tokens)
        with stages("live_a"):
            ranked = rank(self.model, encoded_questions, memories, question_of)
            order = ranked.order(self._priors(questions))
            most = selection.enough(order, question_of, [q.keep_mass for q in questions], [q.keep_k for q in questions])
            kept = selection.select(order, question_of, most)
            live = ranked.take(kept, order)
        chosen = set(kept.tolist())
        in_order = self._in_order(found, order, chosen)
        heard.ranked(in_order)
        with stages("live_b"):
            encoded = self.model.live_b(live)
        with stages("decode"):
            decoded = decode.generate(
                self.model,
                encoded,
                max_new_tokens=[q.max_new_tokens for q in questions],
                num_beams=self._beams(questions[0]),
                banned=[self.model.config.pad_token_id],
                prepared=self.prepared,
                on_token=heard.token,
                max_steps=max_steps,
            )
        if any(q.attention for q in questions):
            with stages("attention"):
                in_order = with_attention(self.model, questions, in_order, encoded, live, decoded)
        return _Read(
            question_tokens=tokens.layout.lengths.tolist(),
            passage_tokens=memories.layout.lengths.tolist(),
            bytes_read=bytes_read,
            kept=chosen,
            ranked=in_order,
            decoded=decoded,
        )

    # --- public -------------------------------------------------------------------------------------------------

    def ask(self, question: str | Question) -> Answer:
        """Answer one question; a text is asked as `Question(text)`. Errors as for `answer`."""
        return self.answer([Question(question) if isinstance(question, str) else question])[0]

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question], listeners: Sequence[Listener | None] = ()) -> list[Answer]:
        """Answer several questions as one batch (one per number of beams); the same answers as one by one.

        Args:
            questions: what is asked.
            listeners: one for each question, or none at all.

        Raises:
            RequestError: an option cannot be served, such as an unknown task.
            StoreCorrupt: a memory that is needed is damaged or absent.
            NobodyListens: every question has a listener, and between two stages none of them wanted its answer.
        """
        listeners = listeners or [None] * len(questions)
        if self.model.scorer is None and any(q.keep_mass is not None for q in questions):
            raise RequestError(f"the model is {self.model.config.system}: without a scorer, keep_k must be a number")
        questions = [self.afford(question) for question in questions]
        answers: list[Answer | None] = [None] * len(questions)
        for beams in sorted({self._beams(q) for q in questions}):
            chosen = [i for i, q in enumerate(questions) if self._beams(q) == beams]
            given = self._answer([questions[i] for i in chosen], [listeners[i] for i in chosen])
            for i, answer in zip(chosen, given, strict=True):
                answers[i] = answer
        return [a for a in answers if a is not None]

    def afford(self, question: Question) -> Question:
        """The question with as many passages as its `max_gflop` has room for, if they are as long as the store's are
        on average; when they are found, it is held to their own lengths. Any thread may call this.

        Raises:
            RequestError: there is no room for one passage, or the model knows no such task.
        """
        return limits.afforded(question, self.store, self.tokenizer)

    def _answer(self, questions: Sequence[Question], listeners: Sequence[Listener | None]) -> list[Answer]:
        stages = StageTimer(self.model.device)
        heard = Heard(listeners, self.tokenizer, wait=[q.min_confidence > 0 for q in questions])
        with stages("retrieve"):
            found = self._candidates(questions)
            questions, found, max_steps = limits.within(questions, found, self.store, self.tokenizer)
        heard.retrieved([[candidate.found for candidate in own] for own in found])
        read = self._read(questions, found, heard, heard.unless_gone(stages), max_steps)
        answers = []
        for i, (question, rows) in enumerate(zip(questions, rows_of(found), strict=True)):
            spent, fid = operations(
                question,
                self.model.config,
                answer_tokens=len(read.decoded[i].ids),
                question_tokens=read.question_tokens[i],
                passage_tokens=[read.passage_tokens[row] for row in rows],
                kept_tokens=[read.passage_tokens[row] for row in rows if row in read.kept],
                new_tokens=read.decoded[i].steps,
            )
            usage = Usage(
                milliseconds=stages.milliseconds,
                bytes_read=read.bytes_read[i],
                flops=spent,
                fid_flops=fid,
                questions_in_batch=len(questions),
                retrieve_k=question.retrieve_k,
                keep_k=question.keep_k,
            )
            text = self._text(read.decoded[i].ids, read.ranked[i])
            answer = certainty.judged(question, text, read.decoded[i], read.ranked[i], usage, by=self._judge)
            heard.ended(i, answer.text)
            answers.append(answer)
        return answers

    def retrieve(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[RankedPassage]]:
        """The k first passages of each question in the retriever's order, without reading them; `filters` are one for
        each question, or None.
        """
        if k < 1:
            raise RequestError(f"k must be at least 1, not {k}")
        return [
            [candidate.found for candidate in own]
            for own in found_in(self.store, self.retriever, questions, k, filters)
        ]

    @torch.inference_mode()
    def rerank(self, question: str, passages: Sequence[Passage], *, task: str | None = None) -> list[RankedPassage]:
        """Score passages of the caller's own against a question, best first."""
        if self.model.scorer is None:
            raise RequestError(f"the model is {self.model.config.system}: it has no scorer to rerank with")
        if not passages:
            return []
        asked = Question(text=question, task=task, passages=tuple(passages))
        memories = self._encode(passages)
        encoded = self.model.encode_question(self._question_tokens([asked]))
        ranked = rank(self.model, encoded, memories, torch.zeros(len(passages), dtype=torch.int64))
        order = ranked.order(self._priors([asked]))
        return list(self._ranked(brought(passages), order, [False] * len(passages)))

    def embed(self, texts: Sequence[str], *, as_questions: bool) -> Vectors:
        """`(N, dim)` float32 of unit length. Raises RequestError where neither store nor model has vectors."""
        own = MemoryTextEncoder(self.model, self.tokenizer) if self.model.projection is not None else None
        return vectors_of(texts, encoder_of(self.retriever) or own, as_questions=as_questions)

    def passage(self, passage_id: str) -> Passage:
        """One passage of the store.

        Raises:
            PassageNotFound: there is none of that id.
        """
        return self.store.passages([passage_id])[0]

    def spread(self, most: int) -> list[Passage]:
        """At most so many passages from all over the collection, always the same ones of a generation."""
        return spread(self.store, most)

    def info(self) -> dict[str, object]:
        """What answers: the model and the store generation."""
        c, generation = self.model.config, self.store.generation
        return {
            "model": {
                "name": c.name or "unnamed",
                "trained": c.trained,
                "system": c.system,
                "alpha": c.alpha,
                "beta": c.beta,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "tasks": sorted(c.tasks),
                "fingerprint": self.fingerprint.encoder,
                "num_beams": c.num_beams,
                "streams": "answers" if self.tokenizer.folds_case else "tokens",
                "calibration": None if self.calibration is None else self.calibration.summary(),
            },
            "store": {
                "path": as_url(self.store.place) or str(self.store.place),
                "generation": generation.number,
                "passages": self.store.live,
                "codec": generation.codec,
                "retriever": generation.retriever,
                "metadata": {name: list(kinds) for name, kinds in generation.metadata.items()},
            },
        }

    # --- parts --------------------------------------------------------------------------------------------------

    def _candidates(self, questions: Sequence[Question]) -> list[Candidates]:
        """Each question's passages in retrieval order: found in the store, or the caller's own."""
        asked = [i for i, q in enumerate(questions) if q.passages is None]
        most = max((questions[i].retrieve_k for i in asked), default=0)
        filters = [questions[i].filter for i in asked]
        texts = [questions[i].text for i in asked]
        searched = found_in(self.store, self.retriever, texts, most, filters) if asked else []
        found = dict(zip(asked, searched, strict=True))
        return [
            found[i][: q.retrieve_k] if q.passages is None else brought(q.passages) for i, q in enumerate(questions)
        ]

    def _question_tokens(self, questions: Sequence[Question]) -> Tokens:
        ids = self.tokenizer.questions([q.text for q in questions], tasks=[q.task for q in questions])
        return Tokens.of([torch.from_numpy(i) for i in ids]).to(self.model.device)

    def _encode(self, passages: Sequence[Passage]) -> Packed:
        """Memories of passages that are not in the store, through the store's codec: a passage reads the same
        whether it was stored or brought along.
        """
        tokens = Tokens.of([torch.from_numpy(ids) for ids in self.tokenizer.passages(passages)])
        memories = self.model.encode_passages(tokens.to(self.model.device))
        arrays = self.codec.encode(memories.states, memories.token_ids)
        states = self.codec.decode(arrays, memories.token_ids, dtype=self.model.dtype, device=self.model.device)
        return Packed(states, memories.token_ids, memories.layout)

    def _memories(self, found: Sequence[Candidates]) -> tuple[Packed, list[int]]:
        """One memory per candidate, in order; an empty one for a question without any. With bytes per question."""
        return memories_of(
            found, self.store, encode=self._encode, width=self.model.config.d_model, dtype=self.model.dtype,
            device=self.model.device,
        )  # fmt: skip

    def _priors(self, questions: Sequence[Question]) -> list[float]:
        """How much the retriever's order counts; a caller's own passages have none that could."""
        return [float(self.model.config.retrieval_prior) if q.passages is None else 0.0 for q in questions]

    def _in_order(self, found: Sequence[Candidates], order: Tensor, kept: set[int]) -> list[tuple[RankedPassage, ...]]:
        """Each question's candidates as `_ranked` has them."""
        return [
            self._ranked(own, order[rows.start : rows.stop], [row in kept for row in rows])
            for own, rows in zip(found, rows_of(found), strict=True)
        ]

    def _ranked(self, candidates: Candidates, order: Tensor, kept: Sequence[bool]) -> tuple[RankedPassage, ...]:
        """One question's candidates with their scores, best first: those that are kept are the first of them."""
        scores = [None] * len(candidates) if self.model.scorer is None else order.tolist()
        best = selection.best_first(order, torch.zeros(len(candidates), dtype=torch.int64))
        return tuple(replace(candidates[i].found, rerank_score=scores[i], kept=kept[i]) for i in best.tolist())

    def _beams(self, question: Question) -> int:
        """Hypotheses of its answer: as it says, or else as the model's config does."""
        return question.num_beams or self.model.config.num_beams

    def _text(self, ids: Sequence[int], ranked: Sequence[RankedPassage]) -> str:
        """The answer in words, spelled as in the passages read where the tokenizer folds case or lacks letters."""
        kept = [p.passage for p in ranked if p.kept]
        read = [*(p.text for p in kept), *(p.title for p in kept)]
        text = self.tokenizer.decode_from(read, ids)
        if not self.tokenizer.folds_case or text in self.model.config.spellings.values():
            return text
        return spelled(text, read)


def _retriever(
    store: AnyStore, model: MemoryModel, tokenizer: TextTokenizer, *, beside: Retriever | None = None
) -> Retriever:
    encoder = MemoryTextEncoder(model, tokenizer) if model.projection is not None else None
    return open_retriever(store, memory_encoder=encoder, beside=beside, to_load=True)
