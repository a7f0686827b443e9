"""What holds for our model whatever its weights: batches equal singles, stages compose, gradients flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memstore.model.layers import DecoderBlock
from memstore.model.model import Encoded, MemoryModel
from memstore.model.packed import Packed, Rows, Tokens
from tests import tiny

SYSTEMS = ["fid", "lumen", "glimmer"]
QUESTIONS = [7, 1, 4]  # tokens of three questions
PASSAGES = [5, 40, 0, 1, 12, 0]  # tokens of their passages; some have none
QUESTION_OF = torch.tensor([0, 0, 0, 1, 2, 2])


def make(system: str, **changes: object) -> MemoryModel:
    return tiny.model(system=system, **({"alpha": 1.0} if system == "fid" else {}) | changes)


def run(model: MemoryModel, questions: list[Tensor], passages: list[Tensor], question_of: Tensor) -> Rows:
    encoded = model.encode_question(Tokens.of(questions))
    return model.live_a(encoded, model.encode_passages(Tokens.of(passages)), question_of)


def inputs() -> tuple[list[Tensor], list[Tensor], Tensor]:
    targets = torch.stack(tiny.token_rows([5] * len(QUESTIONS), seed=2))
    return tiny.token_rows(QUESTIONS), tiny.token_rows(PASSAGES, seed=1), targets


ALL_PARTS = {"copy_head": True, "match_embedding": True}
PARTS = [
    pytest.param({}, id="plain"),
    pytest.param({"copy_head": True}, id="copy"),
    pytest.param(ALL_PARTS, id="all"),
]


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_batch_equals_singles(system: str, parts: dict[str, bool]) -> None:
    model = make(system, **parts)
    questions, passages, targets = inputs()
    rows = run(model, questions, passages, QUESTION_OF)
    encoded = model.live_b(rows)
    log_probs = model.log_probs(encoded, targets)
    parts = encoded.states.split(encoded.layout.lengths.tolist())
    for b, question in enumerate(questions):
        own = [p for p, q in zip(passages, QUESTION_OF.tolist(), strict=True) if q == b]
        one = run(model, [question], own, torch.zeros(len(own), dtype=torch.int64))
        one_encoded = model.live_b(one)
        close(parts[b], one_encoded.states)
        close(log_probs[b], model.log_probs(one_encoded, targets[b : b + 1])[0])
        if system == "glimmer":
            close(model.score(rows)[QUESTION_OF.eq(b)], model.score(one))


@pytest.mark.parametrize("parts", PARTS)
def test_targets_alone_equal_the_whole_distribution(parts: dict[str, bool]) -> None:
    model = make("glimmer", **parts)
    questions, passages, targets = inputs()
    targets[1, 2:] = model.config.pad_token_id
    encoded = model.live_b(run(model, questions, passages, QUESTION_OF))
    got, mask = model.target_log_probs(encoded, targets)
    assert mask.tolist() == targets.ne(model.config.pad_token_id).tolist()
    want = model.log_probs(encoded, targets).gather(2, targets[:, :, None]).squeeze(2)
    close(got[mask], want[mask])
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = [torch.autograd.grad(x[mask].sum(), parameters, retain_graph=True, allow_unused=True) for x in (got, want)]
    for ours, theirs in zip(*grads, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("system", SYSTEMS)
def test_encoding_in_a_batch_equals_encoding_alone(system: str) -> None:
    model = make(system)
    rows = tiny.token_rows(PASSAGES)
    for encode in (model.encode_passages, model.encode_question):
        batch = encode(Tokens.of(rows))
        assert batch.layout.lengths.tolist() == PASSAGES
        close(batch.states, torch.cat([encode(Tokens.of([row])).states for row in rows]))


@torch.no_grad()
def test_no_passages_at_all_is_a_question_answered_alone() -> None:
    model = make("glimmer", copy_head=True)
    question, targets = tiny.token_rows([6]), tiny.token_rows([4], seed=1)[0][None]
    log_probs = model.log_probs(model.live_b(run(model, question, tiny.token_rows([0]), torch.tensor([0]))), targets)
    close(log_probs.exp().sum(-1), torch.ones(1, 4))


@torch.no_grad()
def test_lumen_trains_its_questions_and_leaves_its_memories() -> None:
    model = make("lumen")
    tokens = Tokens.of(tiny.token_rows([9, 3]))
    memories, questions = model.encode_passages(tokens).states, model.encode_question(tokens).states
    close(questions, memories)  # the copies begin equal
    assert model.question_encoder is not None
    for p in [*model.question_encoder.parameters(), model.embedding.weight]:
        p.mul_(1.5)
    close(model.encode_passages(tokens).states, memories)
    assert not torch.allclose(model.encode_question(tokens).states, questions)


@torch.no_grad()
def test_glimmer_encodes_question_and_passage_alike() -> None:
    model = make("glimmer")
    tokens = Tokens.of(tiny.token_rows([9, 3]))
    close(model.encode_passages(tokens).states, model.encode_question(tokens).states)


def test_only_glimmer_has_a_scorer() -> None:
    assert [make(system).scorer is not None for system in SYSTEMS] == [False, False, True]


@torch.no_grad()
def test_a_score_is_one_linear_map_of_the_rows_first_token() -> None:
    model = make("glimmer")
    questions, passages, _ = inputs()
    rows = run(model, questions, passages, QUESTION_OF)
    assert model.scorer is not None
    first = [part[0] for part in rows.states.split(rows.layout.lengths.tolist())]
    close(model.score(rows), torch.stack([model.scorer.weight[0] @ x for x in first]))


@torch.no_grad()
def test_with_norms_scores_and_vectors_do_not_depend_on_the_streams_size() -> None:
    model = make("glimmer", head_norms=True, embedding_dim=8)
    questions, passages, _ = inputs()
    rows = run(model, questions, passages, QUESTION_OF)
    assert model.scorer is not None
    assert model.scorer_norm is not None
    first = torch.stack([part[0] for part in rows.states.split(rows.layout.lengths.tolist())])
    normed = first / first.square().mean(1, keepdim=True).sqrt() * model.scorer_norm.weight
    close(model.score(rows), normed @ model.scorer.weight[0])
    close(model.score(rows.with_states(1000 * rows.states)), model.score(rows))
    memories = model.encode_passages(Tokens.of(passages))
    sizes = torch.linspace(1, 1000, len(memories.states))[:, None]  # of each token its own
    larger = Packed(memories.states * sizes, memories.token_ids, memories.layout)
    close(model.embed(larger), model.embed(memories))


@torch.no_grad()
@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4, 5], [2, 0, 3, 5], [1, 4]], ids=str)
def test_taking_rows_equals_running_only_them(kept: list[int]) -> None:
    model = make("glimmer")
    questions, passages, _ = inputs()
    index = torch.tensor(kept)
    taken = model.live_b(run(model, questions, passages, QUESTION_OF).take(index))
    alone = model.live_b(run(model, questions, [passages[i] for i in kept], QUESTION_OF[index]))
    close(taken.states, alone.states)
    assert torch.equal(taken.token_ids, alone.token_ids)
    assert torch.equal(taken.from_passage, alone.from_passage)
    assert taken.layout.lengths.tolist() == alone.layout.lengths.tolist()


@torch.no_grad()
def test_memories_through_a_store_are_memories() -> None:
    """`live_a` sees states, ids and lengths only: the same ones from elsewhere give the same rows."""
    model = make("glimmer")
    questions, passages, _ = inputs()
    direct = run(model, questions, passages, QUESTION_OF)
    memories = model.encode_passages(Tokens.of(passages))
    stored = Packed(memories.states.clone(), Tokens.of(passages).ids, Tokens.of(passages).layout)
    again = model.live_a(model.encode_question(Tokens.of(questions)), stored, QUESTION_OF)
    close(again.states, direct.states)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_a_row_has_a_vector_by_side_and_match_before_the_live_layers(scale: float) -> None:
    model = make("glimmer", match_embedding=True, match_scale=scale)
    if scale != 1:
        assert model.match_embedding is not None
        assert not model.match_embedding.weight.any()
        torch.nn.init.normal_(model.match_embedding.weight, generator=torch.Generator().manual_seed(0))
    assert model.match_embedding is not None
    encoded, memories = (model.encode_question(Tokens.of(ids)) for ids in ([[5, 6]], [[6, 8]]))
    kinds = torch.tensor([0, 1, 3, 2])  # 5 and 6 of the question, the second one in the passage too; then 6 and 8
    want = torch.cat([encoded.states, memories.states]) + scale * model.match_embedding.weight[kinds]
    close(model.join(encoded, memories, torch.tensor([0])).states, want)


def encode(model: MemoryModel) -> tuple[Encoded, Tensor]:
    questions, passages, targets = inputs()
    return model.live_b(run(model, questions, passages, QUESTION_OF)), targets


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_scaled_where_the_config_says_so_tied_or_not(tied: bool) -> None:
    plain, scaled = (make("glimmer", tie_word_embeddings=tied, scale_head=scale) for scale in (False, True))
    encoded, targets = encode(plain)
    close(scaled.log_probs(encoded, targets), (plain.log_probs(encoded, targets) * 32**-0.5).log_softmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [2, 3], [1, 4]], ids=str)
def test_decoding_in_steps_equals_teacher_forcing(sizes: list[int], parts: dict[str, bool]) -> None:
    model = make("glimmer", decoder_start_token_id=7, **parts)
    encoded, targets = encode(model)
    inputs = torch.cat([torch.full_like(targets[:, :1], 7), targets[:, :-1]], 1)
    state = model.start(encoded, capacity=8)
    steps = [model.step(part, state) for part in inputs.split(sizes, dim=1)]
    close(torch.cat(steps, 1), model.log_probs(encoded, targets))


@pytest.mark.parametrize("system", SYSTEMS)
def test_gradients_reach_every_parameter_that_takes_part(system: str) -> None:
    model = make(system, **ALL_PARTS, head_norms=True, embedding_dim=8).train()
    torch.manual_seed(0)
    questions, passages, targets = inputs()
    targets[0, :2] = passages[0][:2]  # a span, for the bonus on what goes on
    memories = model.encode_passages(Tokens.of(passages))
    rows = model.live_a(model.encode_question(Tokens.of(questions)), memories, QUESTION_OF)
    loss = -model.log_probs(model.live_b(rows), targets).gather(-1, targets[..., None]).mean()
    loss = loss + model.embed(memories).square()[:, 0].sum()
    if system == "glimmer":
        loss = loss + model.score(rows).mean()
    loss.backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    bad = {n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()}
    unused = {"fid": {"memory_encoder.bias.table.weight"}, "lumen": set(), "glimmer": set()}
    assert (still, bad) == (unused[system], set())


@torch.no_grad()
def test_embeddings_are_pooled_projected_and_of_unit_length() -> None:
    model = make("glimmer", embedding_dim=8)
    packed = model.encode_passages(Tokens.of(tiny.token_rows([5, 0, 2])))
    vectors = model.embed(packed)
    assert vectors.dtype == torch.float32
    assert model.projection is not None
    pooled = torch.stack([packed.states[:5].mean(0), torch.zeros(32), packed.states[5:].mean(0)])
    projected = pooled @ model.projection.weight.T
    close(vectors, projected / projected.norm(dim=1, keepdim=True).clamp_min(1e-12))
    close(vectors.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))


@torch.no_grad()
@pytest.mark.parametrize("system", SYSTEMS)
def test_bfloat16_follows_float32(system: str) -> None:
    model = make(system, copy_head=True)
    encoded, targets = encode(model)
    want = model.log_probs(encoded, targets)
    half, _ = encode(model.bfloat16())
    assert half.states.dtype == torch.bfloat16
    got = model.log_probs(half, targets)
    assert got.dtype == torch.float32
    assert (got - want).abs().mean() < 0.04
    close(got.exp().sum(-1), torch.ones(len(QUESTIONS), 5))


def test_initialising_is_the_same_every_time_and_depends_on_the_seed() -> None:
    first, again, other = MemoryModel(tiny.config()), MemoryModel(tiny.config()), MemoryModel(tiny.config())
    first.initialise(0)
    again.initialise(0)
    other.initialise(1)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == name.endswith("norm.weight"), name


@torch.no_grad()
@pytest.mark.parametrize("system", SYSTEMS)
def test_in_training_embeddings_and_what_the_decoder_reads_are_dropped(system: str) -> None:
    model = make(system, dropout_rate=1.0).train()  # layers add nothing, so states are what came in
    questions, passages, _ = inputs()
    for encode in (model.encode_passages, model.encode_question):
        assert not encode(Tokens.of(passages)).states.any()
    rows = run(model.eval(), questions, passages, QUESTION_OF)
    assert rows.states.any()
    assert not model.train().live_b(rows).states.any()


@torch.no_grad()
def test_initialising_follows_t5s_rule_and_a_copy_head_prefers_to_go_on() -> None:
    model = MemoryModel(tiny.config(system="lumen", **ALL_PARTS))
    model.initialise(0)
    block = model.decoder.blocks[0]
    assert isinstance(block, DecoderBlock)
    q, k, v = block.attention.qkv.weight.chunk(3)
    inner, by_width = 3 * 8, [k, v, block.cross.kv.weight, block.feed_forward.wi.weight]
    want = {(32 * 8) ** -0.5: [q, block.cross.q.weight], 32**-0.5: by_width, inner**-0.5: [block.attention.o.weight],
            64**-0.5: [block.feed_forward.wo.weight], 1.0: [model.embedding.weight]}  # fmt: skip
    for deviation, weights in want.items():
        assert [float(w.std()) for w in weights] == pytest.approx([deviation] * len(weights), rel=0.1)
    assert model.copy_head is not None
    assert model.copy_head.gate.bias.item() == 0.0
    assert model.memory_embedding is not None
    assert model.question_encoder is not None
    pairs = ((model.memory_embedding, model.embedding), (model.question_encoder, model.memory_encoder))
    for copy, of in pairs:
        assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), of.parameters(), strict=True))
