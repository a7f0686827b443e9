"""Decoding against stock transformers, and beam search against a plain twin without cache and batch."""

from collections import Counter

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from memstore import decode
from memstore.checkpoint.loading import from_t5
from memstore.model.model import Encoded
from memstore.model.packed import Layout
from tests import tiny

EOS = 1
FLAVOURS = {
    "v1.0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def stock_model(flavour: str, seed: int) -> T5ForConditionalGeneration:
    """A random T5 whose answers vary and end: layers outweigh embeddings, so that a token does not repeat
    itself; 12 tokens are likelier than the rest, eos most of all."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=tiny.VOCAB_SIZE, d_model=32, d_kv=8, d_ff=64, num_heads=3, num_layers=2,
        num_decoder_layers=2, decoder_start_token_id=0, **FLAVOURS[flavour],
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape))
            if name.startswith("decoder") and name.endswith(("wo.weight", "Attention.o.weight")):
                p.mul_(3)
        model.shared.weight.mul_(0.1)
        head = model.lm_head.weight  # the same tensor where it is tied
        head.mul_(0.1 / head.std())
        scaled = config.tie_word_embeddings  # stock scales a tied head's logits by d_model ** -0.5
        model.decoder.final_layer_norm.weight.mul_(10 if scaled else 10 * config.d_model**-0.5)
        head[:12] *= 2
        head[EOS] *= 2
    return model


def questions(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `(5, 12)`, padded on the right, and their mask."""
    rows = tiny.token_rows([7, 12, 3, 1, 9], seed=seed)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)


def stock_encoded(stock: T5ForConditionalGeneration, ids: torch.Tensor, mask: torch.Tensor) -> Encoded:
    """Stock encoder states as our decoder reads them: packed."""
    states = stock.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    return Encoded(states[real], ids[real], torch.ones(int(real.sum()), dtype=torch.bool), Layout(mask.sum(1)))


def stock_answers(stock, ids, mask, *, length_penalty: float, **options) -> list[tuple[list[int], bool, float]]:
    """Token ids without start, eos and padding; whether eos came; the sum of their log-probabilities."""
    out = stock.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        early_stopping=False,
        length_penalty=length_penalty,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    answers = []
    for sequence, normalised in zip(out.sequences[:, 1:].tolist(), out.sequences_scores.tolist(), strict=True):
        ended = EOS in sequence
        tokens = sequence[: sequence.index(EOS)] if ended else sequence
        answers.append((tokens, ended, normalised * (len(tokens) + ended) ** length_penalty))
    return answers


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Stock models and ours made of them, by flavour and seed; each is made once."""
    made = {}

    def pair(flavour: str, seed: int):
        if (flavour, seed) not in made:
            folder = tmp_path_factory.mktemp("t5")
            stock = stock_model(flavour, seed)
            stock.save_pretrained(folder)
            tiny.tokenizer().save(str(folder / "tokenizer.json"))
            made[flavour, seed] = stock, from_t5(folder, system="fid")[0]
        return made[flavour, seed]

    return pair


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "max_new_tokens"),
    [
        (4, 1.0, 12),
        (4, 0.0, 12),
        (4, 2.0, 9),
        (4, -1.0, 9),
        (2, 1.0, 9),
        (7, 0.6, 9),
        (4, 1.0, 1),
        (3, 1.0, 2),
    ],
)
def test_equals_stock_beam_search(pairs, flavour, num_beams, length_penalty, max_new_tokens):
    endings = Counter()
    for seed in range(4):
        stock, ours = pairs(flavour, seed)
        ids, mask = questions(seed)
        with torch.no_grad():
            encoded = stock_encoded(stock, ids, mask)
        options = {"num_beams": num_beams, "length_penalty": length_penalty, "max_new_tokens": max_new_tokens}
        expected = stock_answers(stock, ids, mask, **options)
        answers = decode.generate(ours, encoded, **options)
        assert [(a.ids, a.finished) for a in answers] == [(tokens, ended) for tokens, ended, _ in expected]
        assert [a.score for a in answers] == pytest.approx([score for *_, score in expected], abs=1e-3)
        endings.update(a.finished for a in answers)
    if max_new_tokens > 2:
        assert min(endings[True], endings[False]) >= 3, "answers all end alike: this tests little"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_greedy_equals_stock(pairs, flavour):
    endings = Counter()
    for seed in range(4):
        stock, ours = pairs(flavour, seed)
        ids, mask = questions(seed)
        with torch.no_grad():
            encoded = stock_encoded(stock, ids, mask)
        out = stock.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=10, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        log_probs = torch.stack(out.logits, 1).log_softmax(-1)  # (5, t, V)
        chosen = log_probs.gather(2, out.sequences[:, 1:, None]).squeeze(2)  # (5, t)
        for i, answer in enumerate(decode.generate(ours, encoded, max_new_tokens=10)):
            tokens = out.sequences[i, 1:].tolist()
            length = tokens.index(EOS) if EOS in tokens else 10
            assert (answer.ids, answer.finished) == (tokens[:length], EOS in tokens)
            assert answer.score == pytest.approx(chosen[i, : length + 1].sum().item(), abs=1e-3)
            endings[answer.finished] += 1
    assert set(endings) == {True, False}


def plain_beams(model, encoded: Encoded, *, limit: int, num_beams: int, length_penalty: float = 1.0):
    """One question's best hypothesis: `(ids, finished, score)`. All tokens are decoded again at every step."""
    running, finished = [((), 0.0)], []
    for tokens in range(1, limit + 1):
        candidates = []
        for ids, score in running:
            log_probs = model.log_probs(encoded, torch.tensor([[*ids, 0]]))[0, -1]
            candidates += [((*ids, t), score + lp) for t, lp in enumerate(log_probs.tolist())]
        candidates = sorted(candidates, key=lambda c: -c[1])[: 2 * num_beams]
        ends = [ids[-1] == EOS or tokens == limit for ids, _ in candidates]
        for (ids, score), end in list(zip(candidates, ends, strict=True))[:num_beams]:
            if end:
                finished.append((score / tokens**length_penalty, ids, score))
        finished = sorted(finished, key=lambda f: -f[0])[:num_beams]
        running = [c for c, end in zip(candidates, ends, strict=True) if not end][:num_beams]
        if not running or (len(finished) == num_beams and running[0][1] / tokens**length_penalty <= finished[-1][0]):
            break
    _, ids, score = finished[0]
    return ([*ids[:-1]], True, score) if ids[-1] == EOS else ([*ids], False, score)


@pytest.mark.parametrize("length_penalty", [1.0, 0.3])
@pytest.mark.parametrize(
    "changes", [{}, {"copy_head": True}, {"copy_head": True, "tie_word_embeddings": True, "decoder_start_token_id": 7}]
)
def test_equals_its_plain_twin(changes, length_penalty):
    endings = Counter()
    for seed in range(2):
        model, encoded, alone = ragged(seed, **changes)
        limits = [7, 2, 6, 1]
        answers = decode.generate(model, encoded, max_new_tokens=limits, num_beams=3, length_penalty=length_penalty)
        for answer, one, limit in zip(answers, alone, limits, strict=True):
            with torch.inference_mode():
                ids, ended, score = plain_beams(model, one, limit=limit, num_beams=3, length_penalty=length_penalty)
            assert (answer.ids, answer.finished) == (ids, ended)
            assert answer.score == pytest.approx(score, abs=1e-4)
            endings[ended] += 1
    assert set(endings) == {True, False}


def ragged(seed: int, **changes):
    """A tiny model, four questions' encoded rows of unequal length, and each of them by itself."""
    model = tiny.model(seed, **changes)
    with torch.no_grad():
        for name, p in model.decoder.named_parameters():
            if name.endswith(("wo.weight", ".o.weight")):
                p.mul_(3)
        head = model.embedding if model.head is None else model.head
        model.embedding.weight.mul_(0.1)
        head.weight.mul_(0.1 / head.weight.std())
        model.decoder.norm.weight.mul_(10 * model.config.d_model**-0.5)
        head.weight[:12] *= 2
        head.weight[EOS] *= 2
    generator = torch.Generator().manual_seed(seed)
    alone = []
    for length in (9, 4, 13, 1):
        ids = torch.randint(0, 12, (length,), generator=generator)
        states = torch.randn(length, model.config.d_model, generator=generator)
        alone.append(Encoded(states, ids, torch.arange(length) >= 2, Layout([length])))
    together = Encoded(
        torch.cat([e.states for e in alone]),
        torch.cat([e.token_ids for e in alone]),
        torch.cat([e.from_passage for e in alone]),
        Layout([9, 4, 13, 1]),
    )
    return model, together, alone
