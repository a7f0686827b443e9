"""Templates, limits, and the tokenizer's fingerprint."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from memstore.checkpoint.loading import from_scratch
from memstore.errors import CheckpointMismatch, ConfigError, RequestError
from memstore.model.tokens import TextTokenizer, canonical, fill, ids_of
from memstore.passage import Passage
from tests import tiny

EOS = 1


def ids(text: str) -> list[int]:
    return list(tiny.tokenizer().encode(text, add_special_tokens=False).ids)


def passage(title: str, text: str) -> Passage:
    return Passage(id="d:0", document_id="d", title=title, text=text)


@pytest.mark.parametrize(
    ("template", "values", "filled"),
    [
        ("{title}: {text}", {"title": "Nile", "text": "river"}, "Nile: river"),
        ("{text}", {"title": "Nile", "text": "{title}"}, "{title}"),  # a value is never a template
        ('{"q": "{question}"}', {"question": "who"}, '{"q": "who"}'),
        ("{question} {unknown} {}", {"question": r"\1 \g<0>"}, r"\1 \g<0> {unknown} {}"),
        ("{question} {question}", {"question": "a"}, "a a"),
    ],
)
def test_fill(template: str, values: dict[str, str], filled: str) -> None:
    assert fill(template, values) == filled


def test_passages_are_the_filled_template_and_eos() -> None:
    tokens = tiny.text_tokenizer()
    rows = tokens.passages([passage("Nile", "the longest river"), passage("", "")])
    assert [r.tolist() for r in rows] == [
        [*ids("title: Nile context: the longest river"), EOS],
        [*ids("title:  context: "), EOS],
    ]
    assert {r.dtype for r in rows} == {np.dtype(np.int32)}


@pytest.mark.parametrize(("words", "length"), [(45, 46), (47, 48), (48, 48), (500, 48)])
def test_long_passages_lose_their_end_and_their_whole_length_is_known(words: int, length: int) -> None:
    tokens = tiny.text_tokenizer(passage_template="{text}")  # at most 48 tokens
    given = [passage("", " ".join(["the"] * words)), passage("", "river")]
    assert tokens.passages(given)[0].tolist() == ids("the") * (length - 1) + [EOS]
    assert tokens.lengths(given) == [words + 1, 2]


def test_where_each_token_of_a_text_ends() -> None:
    assert tiny.text_tokenizer().ends("the Nile, é").tolist() == [3, 8, 9, 10, 11]


def test_questions_have_no_eos_and_are_cut_at_the_end() -> None:
    tokens = tiny.text_tokenizer(question_template="question: {question}")  # at most 16 tokens
    rows = tokens.questions(["who was born", "the " * 2000])
    assert [r.tolist() for r in rows] == [ids("question: who was born"), ids("question:") + ids("the") * 15]
    assert {r.dtype for r in rows} == {np.dtype(np.int32)}


@pytest.mark.parametrize("text", ["", " ", "\n\t", "?!...", "Ünï çødé 東京 🜁", "\x00", "a" * 2000, "</s><pad>"])
def test_no_question_is_empty_too_long_or_out_of_the_vocabulary(text: str) -> None:
    (row,) = tiny.text_tokenizer().questions([text])
    assert 1 <= len(row) <= 16
    assert ((row >= 0) & (row < tiny.VOCAB_SIZE)).all()


def test_a_question_of_nothing_is_one_token() -> None:
    assert tiny.text_tokenizer().questions([""])[0].tolist() == [EOS]


def test_each_task_has_its_template() -> None:
    tokens = tiny.text_tokenizer(tasks={"fact": "is {question}"}, question_template="what {question}")
    rows = tokens.questions(["Paris", "Paris"], tasks=["fact", None])
    assert [r.tolist() for r in rows] == [ids("is Paris"), ids("what Paris")]
    assert tokens.questions(["Paris"], "where {question}")[0].tolist() == ids("where Paris")


def test_an_unknown_task_is_reported() -> None:
    with pytest.raises(RequestError, match=r"no task 'x'; it knows: fact"):
        tiny.text_tokenizer(tasks={"fact": "is {question}"}).questions(["a"], tasks=["x"])
    with pytest.raises(RequestError, match=r"no task 'x'; it knows: none"):
        tiny.text_tokenizer().questions(["a"], tasks=["x"])


def test_a_task_without_a_place_for_the_question_is_refused() -> None:
    with pytest.raises(ConfigError, match="task 'fact'"):
        tiny.config(tasks={"fact": "is it?"})


def test_answers_end_with_eos() -> None:
    rows = tiny.text_tokenizer().encode_answers(["Nile", "", "the " * 30], max_tokens=4)
    assert [r.tolist() for r in rows] == [[*ids("Nile"), EOS], [EOS], ids("the") * 3 + [EOS]]


@pytest.mark.parametrize("text", ["the river Nile", "O'Neil, 42%", "who was born in Paris?"])
def test_decoding_undoes_encoding(text: str) -> None:
    tokens = tiny.text_tokenizer()
    assert tokens.decode(tokens.encode_answers([text], max_tokens=64)[0]) == text


def test_decoding_drops_specials_and_unused_ids() -> None:
    tokens = tiny.text_tokenizer()
    unused = tiny.VOCAB_SIZE - 1
    assert tokens.decode([0, *ids("Nile"), unused, EOS, 0]) == "Nile"
    assert tokens.decode([]) == ""


def test_nothing_to_encode() -> None:
    tokens = tiny.text_tokenizer()
    assert (tokens.passages([]), tokens.questions([]), tokens.encode_answers([], max_tokens=4)) == (
        [],
        [],
        [],
    )


def test_settings_of_padding_and_truncation_do_not_count() -> None:
    changed = tiny.tokenizer()
    changed.enable_truncation(2)
    changed.enable_padding(length=50)
    tokens = TextTokenizer(changed, tiny.config())
    assert tokens.fingerprint == tiny.text_tokenizer().fingerprint
    assert tokens.questions(["who was born in Paris"])[0].tolist() == ids("who was born in Paris")
    assert changed.truncation is not None  # the caller's tokenizer stays as it was


def test_the_fingerprint_is_the_vocabularys_and_survives_json() -> None:
    tokens = tiny.text_tokenizer()
    assert TextTokenizer(Tokenizer.from_str(tokens.json), tiny.config()).fingerprint == tokens.fingerprint
    other = tiny.tokenizer()
    other.add_tokens(["Rome"])
    assert TextTokenizer(other, tiny.config()).fingerprint != tokens.fingerprint


def test_the_fingerprint_of_any_scores_survives_json() -> None:
    """The library reads some numbers back as their neighbours."""
    rng = random.Random(0)
    pieces = [("<unk>", 0.0), *((chr(300 + i), -20 * rng.random()) for i in range(3000))]
    first = canonical(Tokenizer(models.Unigram(pieces, unk_id=0)))
    assert canonical(Tokenizer.from_str(first)) == first
    assert list(json.loads(first)) == sorted(json.loads(first))  # one rendering, whatever order the library writes in


def test_a_tokenizer_too_large_for_the_model_is_refused() -> None:
    with pytest.raises(CheckpointMismatch, match="not the model's tokenizer"):
        tiny.text_tokenizer(vocab_size=100)
    size = ids_of(tiny.tokenizer())
    assert tiny.text_tokenizer(vocab_size=size).questions(["~"])
    with pytest.raises(CheckpointMismatch, match=f"ids reach {size - 1}, but the model has only {size - 1} embeddings"):
        tiny.text_tokenizer(vocab_size=size - 1)


def test_ids_count_and_not_tokens() -> None:
    made = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "Nile": 500}, unk_token="<unk>"))
    with pytest.raises(CheckpointMismatch, match="ids reach 500, but the model has only 192 embeddings"):
        TextTokenizer(made, tiny.config())
    shape = {k: v for k, v in tiny.config().to_dict().items() if k != "vocab_size"}
    model, tokenizer = from_scratch(shape, tokenizer=made, seed=0)
    assert model.embedding.num_embeddings == 501
    assert tokenizer.questions(["Nile"])[0].tolist() == [500]


def folding() -> Tokenizer:
    """The tiny tokenizer, with capitals made small."""
    made = tiny.tokenizer()
    made.normalizer = normalizers.Lowercase()
    return made


def test_whole_answers_are_spelled_as_the_config_says() -> None:
    tokens = TextTokenizer(folding(), tiny.config(spellings={"yes": "YES", "aa": "AA"}))
    (answer,) = tokens.encode_answers(["Yes"], max_tokens=9)
    assert tokens.decode(answer) == "YES"
    assert tokens.decode(ids("yes it is")) == "yes it is"
    assert tokens.folds_case
    assert not tiny.text_tokenizer(spellings={"yes": "YES"}).folds_case


def test_a_spelling_of_an_answer_that_the_tokenizer_never_decodes_is_refused() -> None:
    with pytest.raises(CheckpointMismatch, match="names the answer 'Yes', which this tokenizer decodes as 'yes'"):
        TextTokenizer(folding(), tiny.config(spellings={"Yes": "YES"}))


def without_some_letters() -> TextTokenizer:
    """Like T5's: pieces with spaces, and one id for all characters that it lacks."""
    letters = [(c, -5.0) for c in "abdeilnorstuBIJT"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -4.0), ("\u2581Bras", -1.0), ("lia", -1.0)]
    made = Tokenizer(models.Unigram([*pieces, *letters], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return TextTokenizer(made, tiny.config())


def answer_of(tokens: TextTokenizer, text: str) -> list[int]:
    return list(tokens.encode_answers([text], max_tokens=99)[0].tolist()[:-1])


def test_letters_that_a_tokenizer_lacks_are_read_in_the_texts() -> None:
    tokens = without_some_letters()
    brasilia = answer_of(tokens, "Bras\u00edlia")
    assert tokens.decode(brasilia) == "Braslia"
    assert tokens.decode(tokens.known(brasilia)) == "Bras"
    texts = ["to Lisbon", "It is Bras\u00edlia, not Rio", "Bras\u00fdlia"]
    assert tokens.decode_from(texts, brasilia) == "Bras\u00edlia"  # the first that has it, alone
    assert tokens.decode_from(texts[:1], brasilia) == "Braslia"  # none has it
    assert tokens.decode_from([], brasilia) == "Braslia"


def test_an_answer_of_known_letters_is_decoded_whatever_the_texts_are() -> None:
    tokens = without_some_letters()
    rio = answer_of(tokens, "Brasrio to")
    assert tokens.known(rio) == rio
    assert tokens.decode_from(["Brasrio  to"], rio) == "Brasrio to"
    plain = tiny.text_tokenizer()  # knows every byte
    assert plain.decode_from(["Bras\u00edlia"], answer_of(plain, "Bras\u00edlia")) == "Bras\u00edlia"
