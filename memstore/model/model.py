"""One model, three systems: FiD, LUMEN and GLIMMER (arXiv 2007.01282, 2301.10448, 2306.10231).

    encode_passages   memory encoder, offline        ids (T,)                 -> memories (T, D)
    encode_question   memory encoder, online         ids (T,)                 -> states (T, D)
    live_a            first beta of the live layers  [question; memory] rows  -> rows
    score             (a norm, and) one linear map   first token of each row  -> (R,)
    live_b            the rest, and the final norm   kept rows                -> what the decoder reads
    decoder           fusion in decoder              all kept rows at once    -> next-token log-probabilities

A memory is the residual stream at the cut, before any final norm. Request state never lives here. This file
refuses to know tokenizers, stores, files and search.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memstore.model import selection
from memstore.model.config import ModelConfig
from memstore.model.layers import Decoder, DecoderCache, EncoderStack, RMSNorm
from memstore.model.lookup import lookup
from memstore.model.packed import Layout, Packed, Rows, Tokens, join, matches

_FAR = 1e4  # a rerank score beyond all others, finite


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the decoder reads: all kept rows of each question one after another, normed.

    `states` `(S, D)`, `token_ids` `(S,)`, `from_passage` `(S,)` bool; `layout` counts tokens per question. `bias` is
    `(S,)` float32, added to cross-attention; None for nothing.
    """

    states: Tensor
    token_ids: Tensor
    from_passage: Tensor
    layout: Layout
    bias: Tensor | None = None


@dataclass(slots=True)
class DecoderState:
    """One batch's way through the decoder: its caches, and what the copy head points at.

    `copy_keys` `(B, S, D)`, `copy_ids` `(B, S)` and `copy_mask` `(B, S)` bool are None without a copy head.
    """

    cache: DecoderCache
    copy_keys: Tensor | None = None
    copy_ids: Tensor | None = None
    copy_mask: Tensor | None = None

    def take(self, questions: Tensor) -> None:
        """Keep only the questions with the given indices `(B',)`, with all their beams."""
        self.cache.take(questions)
        if self.copy_keys is not None and self.copy_ids is not None and self.copy_mask is not None:
            self.copy_keys, self.copy_ids = self.copy_keys[questions], self.copy_ids[questions]
            self.copy_mask = self.copy_mask[questions]


def stream(x: Tensor) -> Tensor:
    """What the residual stream is kept in: the parameters' dtype, or under autocast (training) its dtype, so that
    norms and sums move half the bytes and the model is trained in the precision it serves in.
    """
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class CopyHead(nn.Module):
    """Pointer-generator (arXiv 1704.04368, section 2.2): a gate mixes the vocabulary softmax with attention
    over the kept passages' tokens, summed by token id.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.d_model, config.d_model, bias=False)
        self.key = nn.Linear(config.d_model, config.d_model, bias=False)
        self.gate = nn.Linear(config.d_model, 1)

    def forward(self, hidden: Tensor, logits: Tensor, state: DecoderState) -> Tensor:
        """Log-probabilities `(N, t, V)` float32 from decoder states `(N, t, D)` and logits `(N, t, V)`."""
        n, t, _ = hidden.shape
        weights, gate = self.attend(hidden, state), self.share(hidden, state)
        ids = state.copy_ids
        assert ids is not None
        copied = torch.zeros(*weights.shape[:2], logits.shape[-1], device=hidden.device)
        copied = copied.scatter_add(2, ids[:, None, :].expand(-1, weights.shape[1], -1), weights).view(n, t, -1)
        return _mixed(gate, logits.float().softmax(-1), copied)

    def of_targets(self, hidden: Tensor, vocabulary: Tensor, state: DecoderState, targets: Tensor) -> Tensor:
        """What `forward` gives at the targets `(B, t)` alone, from their log-probabilities `(B, t)` by the vocabulary
        softmax: no tensor is as wide as the vocabulary.
        """
        weights, gate = self.attend(hidden, state), self.share(hidden, state).squeeze(-1)
        ids = state.copy_ids
        assert ids is not None
        copied = (weights * (ids[:, None, :] == targets[:, :, None])).sum(-1)  # (B, t)
        return _mixed(gate, vocabulary.exp(), copied)

    def attend(self, hidden: Tensor, state: DecoderState) -> Tensor:
        """How the copied share divides among what is read: `(B, beams * t, S)` float32, zeros without a passage."""
        keys, mask = state.copy_keys, state.copy_mask
        assert keys is not None
        assert mask is not None
        n, t, d = hidden.shape
        b = keys.shape[0]
        q = self.query(hidden).view(b, n // b * t, d)  # beams of a question share its keys
        weights: Tensor = (q @ keys.transpose(1, 2)).float() * d**-0.5
        return weights.masked_fill(~mask[:, None, :], -torch.inf).softmax(-1).nan_to_num(0.0)

    def share(self, hidden: Tensor, state: DecoderState) -> Tensor:
        """The vocabulary softmax's share, `(N, t, 1)` float32: 1 where there is no passage, so nothing to copy."""
        mask = state.copy_mask
        assert mask is not None
        gate = torch.sigmoid(self.gate(hidden).float())
        anything = mask.any(1).repeat_interleave(len(hidden) // len(mask))[:, None, None]
        return torch.where(anything, gate, torch.ones_like(gate))


def _mixed(gate: Tensor, vocabulary: Tensor, copied: Tensor) -> Tensor:
    """Logarithm of the two distributions' mixture, finite where both are zero."""
    return (gate * vocabulary + (1 - gate) * copied).clamp_min(torch.finfo(torch.float32).tiny).log()


class MemoryModel(nn.Module):
    """FiD, LUMEN or GLIMMER, as `config` says (ARCHITECTURE.md has a table). Parameters only; no request state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = lookup(config.vocab_size, config.d_model)
        self.memory_encoder = EncoderStack(config, config.num_memory_layers)
        lumen = config.system == "lumen"  # memories stay as they were: the trained copies are the question's
        self.memory_embedding = lookup(config.vocab_size, config.d_model) if lumen else None
        self.question_encoder = EncoderStack(config, config.num_memory_layers) if lumen else None
        self.match_embedding = lookup(4, config.d_model) if config.match_embedding else None
        self.live = EncoderStack(config, config.num_live_layers)
        self.final_norm = RMSNorm(config)
        self.scorer_norm = RMSNorm(config) if config.has_scorer and config.head_norms else None
        self.scorer = nn.Linear(config.d_model, 1, bias=False) if config.has_scorer else None
        self.decoder = Decoder(config)
        tied = config.tie_word_embeddings
        self.head = None if tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.copy_head = CopyHead(config) if config.copy_head else None
        width = config.embedding_dim
        self.projection_norm = RMSNorm(config) if width and config.head_norms else None
        self.projection = nn.Linear(config.d_model, width, bias=False) if width else None
        self.dropout = nn.Dropout(config.dropout_rate)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters, and so the computation, are in."""
        return self.embedding.weight.dtype

    @property
    def first_live_weights(self) -> Tensor:
        """The weights `(D,)` of the live stack's first norm, float32 on the CPU: what a memory's dimensions count."""
        return self.live.layer(0).attention_norm.weight.detach().float().cpu()

    # --- encoder ------------------------------------------------------------------------------------------

    def encode_passages(self, tokens: Tokens) -> Packed:
        """Memories of passages: the residual stream after the memory encoder, before any norm."""
        embedding = self.memory_embedding or self.embedding
        return self._encode(tokens, embedding, self.memory_encoder)

    def encode_question(self, tokens: Tokens) -> Packed:
        """Questions through the memory encoder (GLIMMER) or their own copy of it (LUMEN)."""
        return self._encode(tokens, self.embedding, self.question_encoder or self.memory_encoder)

    def _encode(self, tokens: Tokens, embedding: nn.Embedding, stack: EncoderStack) -> Packed:
        x = self.dropout(stream(embedding(tokens.ids)))  # (T, D)
        return Packed(states=stack(x, tokens.layout), token_ids=tokens.ids, layout=tokens.layout)

    def embed(self, packed: Packed) -> Tensor:
        """Vectors for dense retrieval, `(N, embedding_dim)` float32 of unit length: mean-pooled memory states
        (normed first, with `head_norms`) through a learned projection. Rows without tokens give zeros.
        """
        assert self.projection is not None, "this model has no projection for dense retrieval"
        states = packed.states if self.projection_norm is None else self.projection_norm(packed.states)
        sums = states.new_zeros(packed.layout.rows, self.config.d_model, dtype=torch.float32)
        sums = sums.index_add(0, packed.layout.on(sums.device).row_of, states.float())
        counts = packed.layout.on(sums.device).lengths.clamp_min(1)
        pooled = (sums / counts[:, None]).to(self.projection.weight.dtype)
        return F.normalize(self.projection(pooled).float(), dim=-1)

    def live_a(self, questions: Packed, memories: Packed, question_of: Tensor) -> Rows:
        """Join each memory to its question and run the live layers before the scorer (none without one).

        `memstore.model.ranking.rank` is its faster twin where few rows are kept.

        Args:
            questions: B encoded questions.
            memories: R memories.
            question_of: `(R,)` int64 on the CPU, ascending: each memory's question.
        """
        rows = self.join(questions, memories, question_of)
        return rows.with_states(self.live(rows.states, rows.layout, last=self.config.num_live_a_layers))

    def join(self, questions: Packed, memories: Packed, question_of: Tensor) -> Rows:
        """Rows `[question; memory]` as the live layers begin with them; arguments as for `live_a`."""
        rows = join(questions, memories, question_of)
        if self.match_embedding is not None:
            kinds = 2 * rows.from_passage + matches(rows, self.config.vocab_size)  # (T,)
            vectors = self.config.match_scale * self.match_embedding(kinds)
            rows = rows.with_states(rows.states + vectors.to(rows.states.dtype))
        return rows

    def score(self, rows: Rows) -> Tensor:
        """Rerank scores `(R,)` float32, from each row's first token (GLIMMER, section 3.2)."""
        return self.score_of(rows.states.index_select(0, rows.layout.on(rows.states.device).starts))

    def score_of(self, first: Tensor) -> Tensor:
        """Rerank scores `(R,)` float32 from states of first tokens after live_a, `(R, D)`."""
        assert self.scorer is not None, f"{self.config.system} has no scorer"
        normed = first if self.scorer_norm is None else self.scorer_norm(first)
        return self.scorer(normed).squeeze(-1).float()  # type: ignore[no-any-return]

    def live_b(self, rows: Rows) -> Encoded:
        """Run the remaining live layers and the final norm on the rows kept."""
        x = self.live(rows.states, rows.layout, first=self.config.num_live_a_layers)
        return Encoded(
            states=self.dropout(self.final_norm(x)),
            token_ids=rows.token_ids,
            from_passage=rows.from_passage,
            layout=rows.question_layout(),
            bias=self._score_bias(rows),
        )

    def _score_bias(self, rows: Rows) -> Tensor | None:
        """What the ranking of rows adds to cross-attention, `(T,)` float32, without gradient; None for nothing."""
        if not self.config.score_bias or rows.order is None or not rows.layout.tokens:
            return None
        # As in selection, a score that is no number is the worst, and takes no other passage along.
        order = rows.order.detach().float().nan_to_num(nan=-_FAR, posinf=_FAR, neginf=-_FAR)
        shares = self.config.score_bias * selection.log_shares(order, rows.question_of)
        return shares.to(rows.states.device)[rows.layout.on(rows.states.device).row_of]

    # --- decoder ------------------------------------------------------------------------------------------

    def start(self, encoded: Encoded, *, capacity: int, beams: int = 1) -> DecoderState:
        """Prepare decoding: cross keys and values of every layer, and the copy head's, computed once."""
        cache = self.decoder.start(encoded.states, encoded.layout, encoded.bias, capacity=capacity, beams=beams)
        if self.copy_head is None:
            return DecoderState(cache=cache)
        layout = encoded.layout
        return DecoderState(
            cache=cache,
            copy_keys=layout.to_rows(self.copy_head.key(layout.fill(encoded.states))),
            copy_ids=layout.pad(encoded.token_ids),
            copy_mask=layout.pad(encoded.from_passage),  # padding is zeros: false
        )

    def step(self, ids: Tensor, state: DecoderState) -> Tensor:
        """Feed decoder tokens, `(N = B * beams, t)`: log-probabilities `(N, t, V)` float32 of the next."""
        hidden = self._decode(ids, state)
        logits = self._logits(hidden)  # (N, t, V)
        if self.copy_head is None:
            return logits.float().log_softmax(-1)
        return self.copy_head(hidden, logits, state)  # type: ignore[no-any-return]

    def _decode(self, ids: Tensor, state: DecoderState) -> Tensor:
        """Decoder tokens `(N, t)` to decoder states `(N, t, D)`."""
        return self.decoder(stream(self.embedding(ids)), state.cache)  # type: ignore[no-any-return]

    def _logits(self, hidden: Tensor) -> Tensor:
        """Decoder states `(..., D)` to logits `(..., V)`."""
        head = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(hidden * self.config.d_model**-0.5 if self.config.scale_head else hidden, head)

    def log_probs(self, encoded: Encoded, targets: Tensor) -> Tensor:
        """Teacher forcing: log-probabilities `(B, t, V)` float32 at each target position.

        Args:
            encoded: B questions' kept rows.
            targets: `(B, t)` int64, padded with the pad id; the decoder reads them shifted right.
        """
        return self.step(self._shifted(targets), self.start(encoded, capacity=targets.shape[1]))

    def target_log_probs(self, encoded: Encoded, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: log-probabilities `(B, t)` float32 of the targets themselves, as in `log_probs`, and which
        of them are no padding, `(B, t)` bool. At padding the value means nothing.

        Logits are computed where there are targets, one row each: answers are short and batches padded to the longest.
        """
        state = self.start(encoded, capacity=targets.shape[1])
        hidden = self._decode(self._shifted(targets), state)
        mask = targets != self.config.pad_token_id
        at = mask.flatten().nonzero().squeeze(1)  # a GPU is waited for once
        wanted = targets.flatten().index_select(0, at)
        logits = self._logits(hidden.flatten(0, 1).index_select(0, at))
        found = -F.cross_entropy(logits.float(), wanted, reduction="none")
        vocabulary = found.new_zeros(targets.numel()).index_copy(0, at, found).view(targets.shape)  # (B, t)
        if self.copy_head is None:
            return vocabulary, mask
        return self.copy_head.of_targets(hidden, vocabulary, state, targets), mask

    def _shifted(self, targets: Tensor) -> Tensor:
        first = torch.full_like(targets[:, :1], self.config.decoder_start_token_id)
        return torch.cat([first, targets[:, :-1]], dim=1)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights by T5's rule (Mesh TensorFlow: variance by fan-in, queries also by head width)."""
        generator = torch.Generator().manual_seed(seed)
        c = self.config
        deviation = {"qkv": c.d_model**-0.5, "q": (c.d_model * c.d_kv) ** -0.5, "kv": c.d_model**-0.5,
                     "o": (c.num_heads * c.d_kv) ** -0.5, "wi": c.d_model**-0.5, "wo": c.d_ff**-0.5,
                     "embedding": 1.0, "memory_embedding": 1.0,
                     "match_embedding": float(c.match_scale == 1)}  # fmt: skip
        for name, p in self.named_parameters():
            if name.endswith("norm.weight"):
                p.fill_(1.0)
                continue
            if name.endswith("gate.bias"):
                p.zero_()
                continue
            part = name.split(".")[-2]
            values = torch.randn(p.shape, generator=generator) * deviation.get(part, c.d_model**-0.5)
            if name.endswith(".qkv.weight"):  # its query third by sqrt(d_kv) less: attention is not scaled
                values[: c.num_heads * c.d_kv] *= c.d_kv**-0.5
            p.copy_(values)
        if self.memory_embedding is not None and self.question_encoder is not None:
            self.memory_embedding.load_state_dict(self.embedding.state_dict())
            self.question_encoder.load_state_dict(self.memory_encoder.state_dict())
