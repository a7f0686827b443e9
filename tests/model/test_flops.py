from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from memstore import decode
from memstore.decode.attention import attention_shares
from memstore.errors import ConfigError
from memstore.model import flops
from memstore.model.config import ModelConfig
from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.model.ranking import rank
from memstore.model.selection import select

BASE = ModelConfig(
    vocab_size=96,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=3,
    num_layers=6,
    num_decoder_layers=2,
)
CONFIGS = {
    "glimmer": BASE.replace(alpha=2 / 3, beta=1 / 4),
    "glimmer-copy": BASE.replace(alpha=1 / 3, beta=1 / 2, copy_head=True),
    "glimmer-all": BASE.replace(alpha=1 / 3, beta=1 / 2, copy_head=True, match_embedding=True),
    "glimmer-deep": BASE.replace(alpha=5 / 6, beta=3 / 5),
    "lumen-relu": BASE.replace(system="lumen", alpha=1 / 2, feed_forward="relu", tie_word_embeddings=True),
    "fid": BASE.replace(system="fid", alpha=1.0, copy_head=True),
}


def counted(work: Callable[[], object]) -> tuple[object, int]:
    """What `work` returns, and the operations torch counts in it; attention unfused, so that it sees them."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        result = work()
    return result, counter.get_total_flops()


def run(config: ModelConfig, *, question: int, passages: list[int], keep: int, new_tokens: int, num_beams: int):
    """Operations torch counts in each stage of one answer, and the lengths of the passages kept."""
    model = MemoryModel(config)
    model.initialise(0)
    model.eval()
    spent = {}
    tokens = Tokens.of([[(7 * p + i) % 90 for i in range(p)] for p in passages])
    q, spent["question"] = counted(lambda: model.encode_question(Tokens.of([list(range(question))])))
    memories, spent["passages"] = counted(lambda: model.encode_passages(tokens))
    question_of = torch.zeros(len(passages), dtype=torch.int64)
    ranked, ranking = counted(lambda: rank(model, q, memories, question_of))
    kept = torch.arange(len(passages))
    if config.has_scorer:
        kept = select(ranked.scores, question_of, keep)
        asked = {"question_tokens": question, "passage_tokens": passages}
        if len(set(passages)) == 1:  # no padding
            assert flops.ranking_flops(config, **asked) == spent["question"] + ranking
    live, rest = counted(lambda: ranked.take(kept))
    spent["live_a"] = ranking + rest
    encoded, spent["live_b"] = counted(lambda: model.live_b(live))
    _, spent["cross"] = counted(lambda: model.start(encoded, capacity=1))
    options = {"max_new_tokens": new_tokens, "num_beams": num_beams}
    without_end = [config.eos_token_id]  # answers are as long as they may be
    answers, decoding = counted(lambda: decode.generate(model, encoded, **options, banned=without_end))
    assert answers[0].steps == new_tokens
    spent["steps"] = decoding - spent["cross"]
    return spent, [passages[r] for r in kept]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_each_stage_is_what_torch_counts(name, num_beams):
    config, passages, new_tokens = CONFIGS[name], [8] * 4, 6  # sizes that `packed.rounded` leaves as they are
    spent, kept = run(config, question=8, passages=passages, keep=2, new_tokens=new_tokens, num_beams=num_beams)
    said = flops.answer_flops(
        config,
        question_tokens=8,
        passage_tokens=passages,
        kept_tokens=kept,
        new_tokens=new_tokens,
        num_beams=num_beams,
        precomputed=False,
    )
    assert {stage: getattr(said, stage) for stage in spent} == spent
    assert said.total == sum(spent.values())
    assert said.decode == spent["cross"] + spent["steps"]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("answer", [[], [7, 8, 9]])
def test_asking_for_attention_is_what_torch_counts(name, answer):
    config, kept = CONFIGS[name], [8, 8]
    model = MemoryModel(config)
    model.initialise(0)
    model.eval()
    rows = model.live_a(
        model.encode_question(Tokens.of([list(range(8))])),
        model.encode_passages(Tokens.of([list(range(2, 10))] * 2)),
        torch.zeros(2, dtype=torch.int64),
    )
    encoded = model.live_b(rows)
    _, spent = counted(lambda: attention_shares(model, encoded, [answer], [[16, 16]]))
    said = flops.attention_flops(config, question_tokens=8, kept_tokens=kept, answer_tokens=len(answer))
    assert said == spent


@pytest.mark.parametrize("name", CONFIGS)
def test_ragged_rows_cost_no_less_and_little_more(name):
    """Attention pads rows to the longest; linear layers at most to the next of few sizes."""
    config, passages = CONFIGS[name], [3, 12, 7, 9, 5]
    spent, kept = run(config, question=4, passages=passages, keep=3, new_tokens=4, num_beams=1)
    said = flops.answer_flops(
        config, question_tokens=4, passage_tokens=passages, kept_tokens=kept, new_tokens=4, precomputed=False
    )
    for stage, count in spent.items():
        assert getattr(said, stage) <= count <= 1.15 * getattr(said, stage), stage
    assert said.question == spent["question"]


def test_fid_is_the_whole_encoder_over_every_row():
    glimmer, lengths = CONFIGS["glimmer-copy"], [8] * 4
    spent, _ = run(CONFIGS["fid"], question=8, passages=lengths, keep=4, new_tokens=6, num_beams=1)
    said = flops.fid_flops(glimmer, question_tokens=8, passage_tokens=lengths, new_tokens=6)
    assert said.total == sum(spent.values())
    assert said.question == said.passages == said.live_a == 0
    beams = flops.fid_flops(glimmer, question_tokens=8, passage_tokens=lengths, new_tokens=6, num_beams=3)
    assert (beams.steps, beams.total - beams.steps) == (3 * said.steps, said.total - said.steps)


def test_precomputed_memories_save_exactly_their_encoding():
    config = CONFIGS["glimmer"]
    question = {"question_tokens": 7, "passage_tokens": [11, 5], "kept_tokens": [5], "new_tokens": 3}
    live = flops.answer_flops(config, **question, precomputed=False)
    stored = flops.answer_flops(config, **question)
    assert live.passages == flops.memory_flops(config, [11, 5]) > 0 == stored.passages
    assert live.total - stored.total == live.passages
    assert stored.to_dict() == {
        "question": stored.question,
        "live_a": stored.live_a,
        "live_b": stored.live_b,
        "decode": stored.decode,
    }


def test_a_question_without_passages_is_a_row_of_its_own():
    config = CONFIGS["glimmer"]
    none = flops.answer_flops(config, question_tokens=7, passage_tokens=[], kept_tokens=[], new_tokens=3)
    empty = flops.answer_flops(config, question_tokens=7, passage_tokens=[0], kept_tokens=[0], new_tokens=3)
    assert none == empty
    assert none.live_b > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_matrices(name):
    config = CONFIGS[name]
    model = MemoryModel(config)

    def matrices(*modules: torch.nn.Module) -> int:
        return sum(
            p.numel()
            for module in modules
            for part, p in module.named_parameters()
            if p.ndim == 2 and "table" not in part
        )

    said = flops.stage_parameters(config)
    a = config.num_live_a_layers
    cross = matrices(*(block.cross.kv for block in model.decoder.blocks))
    head = config.vocab_size * config.d_model
    copy_key = matrices(model.copy_head.key) if model.copy_head else 0
    copy_rest = matrices(model.copy_head) - copy_key if model.copy_head else 0
    scorer = matrices(model.scorer) if model.scorer else 0
    assert said.passages == said.question == matrices(model.memory_encoder)
    assert said.live_a == matrices(*model.live.blocks[:a]) + scorer
    assert said.live_b == matrices(*model.live.blocks[a:])
    assert said.cross == cross + copy_key
    assert said.steps == matrices(model.decoder) - cross + head + copy_rest


def test_bytes_by_hand():
    config = BASE.replace(num_layers=3, alpha=2 / 3, beta=1 / 2, num_decoder_layers=1, copy_head=True)
    said = flops.answer_bytes(
        config, question_tokens=2, passage_tokens=[3, 4], kept_tokens=[4], new_tokens=2, num_beams=3
    )
    layer = 4 * 32 * 24 + 3 * 32 * 48  # q, k, v, o; gated feed-forward
    caches = 6 * (2 * 24 + 32)  # 6 tokens kept: keys and values, copy keys
    own = 3 * 2 * 24 * (1 + 2)  # 3 beams; 1 position, then 2
    step = layer + 2 * 32 * 24 + 96 * 32 + 32 * 32 + 32  # cross q and o, vocabulary, copy query and gate
    assert said.question == 2 * (layer + 2 * 2 * 32)
    assert said.passages == 0
    live = flops.answer_bytes(config, question_tokens=2, passage_tokens=[3, 4], kept_tokens=[4], new_tokens=2,
                              precomputed=False)  # fmt: skip
    assert live.passages == 2 * (layer + 2 * 7 * 32)
    assert said.live_a == 2 * (layer + 32 + 2 * 11 * 32)  # two rows of 5 and 6 tokens in and out
    assert said.live_b == 2 * (layer + 2 * 6 * 32)
    assert said.cross == 2 * (2 * 32 * 24 + 32 * 32 + 6 * 32 + caches)
    assert said.steps == 2 * (2 * (step + caches) + own)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_value_of_float32_is_twice_the_bytes_and_a_stage_that_is_not_there_moves_none(name):
    config, given = CONFIGS[name], {"question_tokens": 2, "passage_tokens": [3], "kept_tokens": [3], "new_tokens": 2}
    half, whole = (flops.answer_bytes(config, **given, bytes_per_value=n) for n in (2, 4))
    assert (whole.total, half) == (2 * half.total, flops.answer_bytes(config, **given))
    assert (half.live_a > 0) == (config.num_live_a_layers > 0) == (config.system == "glimmer")


@pytest.mark.parametrize(
    ("passages", "kept", "message"),
    [([3], [3, 4], "2 passages kept of 1"), ([3], [], "0 passages kept of 1"), ([-1], [-1], "negative")],
)
def test_impossible_counts_are_refused(passages, kept, message):
    for count in (flops.answer_flops, flops.answer_bytes):
        with pytest.raises(ConfigError, match=message):
            count(BASE, question_tokens=3, passage_tokens=passages, kept_tokens=kept, new_tokens=1)
