"""Makes pretraining questions from plain passages. There are four kinds:

- "salient": the question is a sentence in which a name, date or number is masked; the answer is the masked text. Some
  words are dropped, so that matching the sentence word by word is not enough. The model has to find the sentence's
  passage among others and read it (salient span masking, REALM, arXiv 2002.08909, section 3.4).
- "asked": the same, but the masked place is not shown. Instead the question begins with question words that fit the
  answer ("when", "how many", "who"; "which river" where its class is known). This is cloze translation (Lewis et al.,
  arXiv 1906.04980, section 2.3).
- "rebuild": the question is some words of a sentence, the answer the whole sentence: each step learns from more tokens.
- "corrupt": span corruption (T5, arXiv 1910.10683, section 3.1.4). Parts of the passage are masked, and are the answer.
  The question is the prompt alone.

The other passages are lexical neighbours of the right one, or random ones; `hardness` is the share of neighbours. An
example depends only on its random generator. Knows token arrays; refuses to know files, texts and models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tokenizers import Tokenizer

from memstore.errors import ConfigError
from memstore.model.tokens import TextTokenizer
from memstore.train.data.pretrain_table import PretrainTable
from memstore.train.data.ragged import Ints, Ragged
from memstore.train.data.salient_spans import MONTHS, YEAR
from memstore.train.data.settings import KINDS, Difficulty, PretrainSettings
from memstore.train.data.windows import Windows, find
from memstore.train.data.word_dropout import WORD_MARKS, Words

QUESTION_WORDS = {
    "year": ("when", "in what year", "what year", "when did"),
    "date": ("when", "when did", "on what date", "in what month"),
    "number": ("how many", "how much", "what number", "what"),
    "place": ("where", "where is", "where did", "in what place"),
    "agent": ("who", "who was", "which person", "what"),
    "name": ("who", "what", "which", "where", "who is", "who was", "what is the name of", "what is"),
}
# The kind of name that follows these words.
_KIND_AFTER = dict.fromkeys(("in", "at", "near", "from", "to", "into"), "place") | {"by": "agent"}
_BARE_YEAR = re.compile(rf"\s*(?:{YEAR})\s*")
_DATE = re.compile(rf"\b(?:{MONTHS.lower()}|{YEAR})\b")
_DIGIT = re.compile(r"\d")
_CLASS_WORDS = {"place": ("which", "what", "in which", "in what"), "name": ("which", "what")}
_LONGEST_TITLE = 12  # tokens; no question asks for a longer title, or names one
_TOKENS_BEFORE = 6  # tokens before an answer; they hold the word before it


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its passages, as token ids. `target` and every passage end with eos.

    `sources`, if known: of each passage its row in the cache, and which of its tokens these are.
    """

    task: str
    question: Ints
    target: Ints
    passages: list[Ints]
    gold: list[bool]
    sources: list[tuple[int, Ints]] = field(default_factory=list)


class Pretraining:
    """Makes examples from a cache's passages and its `PretrainTable`. Several threads may use it at once."""

    def __init__(
        self,
        settings: PretrainSettings,
        *,
        passages: Ragged,
        table: PretrainTable,
        tokenizer: TextTokenizer,
        max_question_tokens: int,
        max_target_tokens: int,
    ) -> None:
        """Prepare the prompts. Questions and targets above the limits are cut.

        Raises:
            ConfigError: the table is empty, the tokenizer lacks sentinels that are needed, or a prompt leaves no room
                for a question.
        """
        if not len(table):
            raise ConfigError("no passage holds a sentence to pretrain on; prepare more of them")
        self.settings, self._passages, self._table = settings, passages, table
        self._eos, self._most = tokenizer.config.eos_token_id, max_target_tokens
        self._question_tokens = max_question_tokens
        plain = Tokenizer.from_str(tokenizer.json)
        self._sentinels, self._words = _sentinels(plain), Words(tokenizer)
        self._asking = _QuestionWords(plain)
        self._windows = Windows(tokenizer)
        self._parenthesis = plain.encode("(", add_special_tokens=False).ids[-1:]
        asked_titles = settings.title_share and settings.class_share
        self._classes = _known_classes(table) if asked_titles else {}
        if not len(self._sentinels) and (settings.salient or settings.corrupt):
            raise ConfigError("the tokenizer has no <extra_id_0>: only `rebuild` can be pretrained with it")
        self._prompts = {kind: _prompt(plain, getattr(settings, f"{kind}_prompt")) for kind in KINDS}
        for kind, parts in self._prompts.items():
            taken = sum(map(len, parts))
            # "corrupt" asks with the prompt alone; the others need one token more, for the question.
            if getattr(settings, kind) and taken + (kind != "corrupt") > max_question_tokens:
                raise ConfigError(f"{kind}_prompt has {taken} tokens and a question at most {max_question_tokens}")
        weights = np.array([getattr(settings, kind) for kind in KINDS], dtype=np.float64)
        self._shares = np.cumsum(weights / weights.sum())
        self._held = min(settings.dev_questions, len(table) // 2)
        self._stride = len(table) // self._held if self._held else 0  # every stride-th passage is held out

    def __len__(self) -> int:
        """The number of passages with a sentence to ask about, held-out ones included."""
        return len(self._table)

    def dev_size(self) -> int:
        """The number of examples that `dev_example` can give."""
        return self._held

    def example(self, rng: Generator, difficulty: Difficulty) -> Example:
        """An example of a random kind, from a random sentence of a passage that is not held out.

        "corrupt" takes any passage.
        """
        kind = KINDS[int(np.searchsorted(self._shares[:-1], rng.random(), side="right"))]
        if kind == "corrupt":
            row = int(rng.integers(len(self._passages)))
            return self._corrupt(self._passages[row], rng, difficulty)
        i = int(rng.integers(len(self._table)))
        if self._stride and i % self._stride == 0:  # held out: take the next passage, which is not
            i = i + 1 if i + 1 < len(self._table) else i - 1
        return self._sentence(kind, i, rng, difficulty)

    def dev_example(self, number: int, rng: Generator, difficulty: Difficulty) -> Example:
        """A "salient" question about the held-out passage of this number."""
        return self._sentence("salient", number * self._stride, rng, difficulty)

    # --- sentences ----------------------------------------------------------------------------------------------

    def _sentence(self, kind: str, i: int, rng: Generator, difficulty: Difficulty) -> Example:
        table, row = self._table, int(self._table.rows[i])
        # `spans` has a row for each sentence and `answers` one for each span, in the same order: the offsets of one
        # table are row numbers of the next.
        first, last = int(table.sentences.offsets[i]), int(table.sentences.offsets[i + 1])
        sentence = int(rng.integers(first, last))
        begin, end = (int(x) for x in table.sentences.values[sentence])
        tokens = self._passages[row]
        if kind == "asked" and len(title := self._title_asked(tokens, rng)):
            question, target = self._about_title(title, tokens[begin:end], rng), title
        elif kind in ("salient", "asked"):
            span = int(rng.integers(table.spans.offsets[sentence], table.spans.offsets[sentence + 1]))
            target = table.answers[span]
            place = table.spans.values[span]
            in_front = kind == "asked"
            mark = self._sentinels[:1]
            if in_front:
                mark = self._ask(table.answers[span], table.classes[span], tokens[begin : place[0]], rng)
                mark = self._with_title(mark, tokens, begin, end, rng)
            question = self._masked(tokens, begin, end, place, mark, rng, in_front=in_front)
        else:
            question = self._words.thinned(tokens[begin:end], self.settings.keep_words, rng)
            target = tokens[begin:end]
        others = self._others(i, difficulty, rng)
        place = int(rng.integers(len(others) + 1))
        passages = [self._windows.cut(self._passages[o], None, difficulty.passage_tokens, rng) for o in others]
        passages.insert(place, self._windows.cut(tokens, (begin, end), difficulty.passage_tokens, rng))
        gold = [n == place for n in range(len(passages))]
        return Example(kind, self._asked(kind, question), self._ended(target), passages, gold)

    def _ask(self, answer: Ints, noun: Ints, before: Ints, rng: Generator) -> Ints:
        """Question words for an answer. `noun` is its class, empty if unknown; `before` the tokens before it."""
        if len(noun) and rng.random() < self.settings.class_share:
            return self._asking.draw_class(noun, before, rng)
        return self._asking.draw(answer, before, rng)

    # --- titles -------------------------------------------------------------------------------------------------

    def _title(self, tokens: Ints) -> Ints:
        """A passage's title; empty if it has none, or the title is long or holds a parenthesis."""
        title = self._windows.title(tokens)
        plain = len(title) <= _LONGEST_TITLE and not np.isin(title, self._parenthesis).any()
        return title if plain else title[:0]

    def _title_asked(self, tokens: Ints, rng: Generator) -> Ints:
        """The title if this question is to ask for it, drawn by `title_share`; else empty."""
        asked = self.settings.title_share and rng.random() < self.settings.title_share
        return self._title(tokens) if asked else tokens[:0]

    def _about_title(self, title: Ints, sentence: Ints, rng: Generator) -> Ints:
        """A question for a title: question words, then a sentence's words without the title's."""
        mark = self._ask(title, self._classes.get(title.tobytes(), title[:0]), title[:0], rng)
        rest = self._words.thinned(self._words.without(sentence, title), 1 - self.settings.word_dropout, rng)
        return np.concatenate([mark, rest])

    def _with_title(self, mark: Ints, tokens: Ints, begin: int, end: int, rng: Generator) -> Ints:
        """The question words, followed by the title as often as `named_share` says, unless the sentence names it."""
        if not self.settings.named_share or rng.random() >= self.settings.named_share:
            return mark
        title = self._title(tokens)
        return mark if find(tokens[begin:end], title) else np.concatenate([mark, title])

    def _masked(
        self, tokens: Ints, begin: int, end: int, span: Ints, mark: Ints, rng: Generator, *, in_front: bool
    ) -> Ints:
        """The sentence without the span and some words, cut to fit. `mark` is in the span's place, or in front."""
        a, b = int(span[0]), int(span[1])
        keep = 1 - self.settings.word_dropout
        before = self._words.thinned(tokens[begin:a], keep, rng, least=0)
        after = self._words.thinned(tokens[b:end], keep, rng, least=0)
        prompt = self._prompts["asked" if in_front else "salient"]
        room = max(1, self._question_tokens - sum(map(len, prompt)) - len(mark))
        # Half the room for each side; what one side does not need, the other may use. Tokens near the span are kept.
        left = min(len(before), max(room // 2, room - len(after)))
        before, after = before[len(before) - left :], after[: max(0, room - left)]
        return np.concatenate([mark, before, after] if in_front else [before, mark, after])

    def _others(self, i: int, difficulty: Difficulty, rng: Generator) -> list[int]:
        """The rows of wrong passages, all different: lexical neighbours, by `hardness`, and random ones."""
        source, wanted = int(self._table.rows[i]), difficulty.passages - 1
        near = self._table.neighbours[i]
        near = near[near >= 0]
        hard = min(len(near), int(rng.binomial(wanted, difficulty.hardness))) if wanted else 0
        chosen = {int(r) for r in rng.permutation(near)[:hard]} - {source}
        while len(chosen) < min(wanted, len(self._passages) - 1):
            chosen |= {int(rng.integers(len(self._passages)))} - {source}
        return sorted(chosen)

    # --- span corruption ----------------------------------------------------------------------------------------

    def _corrupt(self, tokens: Ints, rng: Generator, difficulty: Difficulty) -> Example:
        s = self.settings
        # The target holds the masked tokens (`noise` of the passage) and a sentinel for each span of `noise_span`. So a
        # longer passage than this would have a target above the limit.
        longest = min(difficulty.passage_tokens - 1, int((self._most - 2) / (s.noise * (1 + 1 / s.noise_span))))
        tokens = self._windows.cut(tokens, None, max(2, longest + 1), rng)[:-1]
        spans = noise_spans(len(tokens), s.noise, s.noise_span, rng)[: len(self._sentinels)]
        source: list[Ints] = []
        target: list[Ints] = []
        at = 0
        for n, (a, b) in enumerate(spans):
            sentinel = self._sentinels[n : n + 1]
            source += [tokens[at:a], sentinel]
            target += [sentinel, tokens[a:b]]
            at = b
        passage = self._ended(np.concatenate([*source, tokens[at:]]), most=len(tokens) + 1)
        answer = self._ended(np.concatenate(target))
        return Example("corrupt", self._asked("corrupt", np.zeros(0, np.int64)), answer, [passage], [True])

    # --- parts --------------------------------------------------------------------------------------------------

    def _asked(self, kind: str, question: Ints) -> Ints:
        before, after = self._prompts[kind]
        room = max(1, self._question_tokens - len(before) - len(after))
        asked = np.concatenate([before, question[:room], after])
        return asked if len(asked) else np.array([self._eos])

    def _ended(self, tokens: Ints, most: int | None = None) -> Ints:
        return np.concatenate([tokens[: (most or self._most) - 1], [self._eos]])


class _QuestionWords:
    """Question words as token ids, by the kind of answer. The pieces of the answer, and of the word before it, show the
    kind.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:

        def ids(words: tuple[str, ...]) -> list[Ints]:
            return [np.array(tokenizer.encode(w, add_special_tokens=False).ids, dtype=np.int64) for w in words]

        self._words = {kind: ids(words) for kind, words in QUESTION_WORDS.items()}
        self._class_words = {kind: ids(words) for kind, words in _CLASS_WORDS.items()}
        pieces = tokenizer.get_vocab(with_added_tokens=True).items()
        self._pieces = {i: re.sub("|".join(WORD_MARKS), " ", piece).lower() for piece, i in pieces}

    def draw(self, answer: Ints, before: Ints, rng: Generator) -> Ints:
        """Random question words that fit an answer; `before` is its sentence up to it."""
        words = self._words[_kind(self._text(answer), self._text(before[-_TOKENS_BEFORE:]))]
        chosen: Ints = words[int(rng.integers(len(words)))]
        return chosen

    def draw_class(self, noun: Ints, before: Ints, rng: Generator) -> Ints:
        """Question words that name the class of what is asked for: "which river"."""
        kind = _kind("", self._text(before[-_TOKENS_BEFORE:]))
        words = self._class_words.get(kind, self._class_words["name"])
        return np.concatenate([words[int(rng.integers(len(words)))], noun])

    def _text(self, tokens: Ints) -> str:
        return "".join(self._pieces.get(int(i), "") for i in tokens)


def _kind(answer: str, before: str) -> str:
    """The key of `QUESTION_WORDS` for an answer. Both texts are in lower case."""
    if _BARE_YEAR.fullmatch(answer):
        return "year"
    if _DATE.search(answer):
        return "date"
    if _DIGIT.search(answer):
        return "number"
    return _KIND_AFTER.get("".join(before.split()[-1:]), "name")


def noise_spans(length: int, noise: float, mean: float, rng: Generator) -> list[tuple[int, int]]:
    """The masked spans `[begin, end)`, at least one, drawn as T5 draws them. None begins the text, and no two touch.

    The masked tokens and the others are each divided into `count` parts of random length, which then alternate. A text
    of one token, or none, is masked whole.
    """
    if length <= 1:
        return [(0, length)]
    masked = min(max(round(length * noise), 1), length - 1)
    count = max(1, min(round(masked / mean), length - masked))
    gaps, spans = _parts(length - masked, count, rng), _parts(masked, count, rng)
    ends = np.cumsum(gaps + spans)
    return [(int(e - s), int(e)) for e, s in zip(ends, spans, strict=True)]


def _parts(total: int, count: int, rng: Generator) -> NDArray[np.int64]:
    """`count` random lengths of at least 1 that sum to `total`. Every division is equally likely."""
    cuts = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _known_classes(table: PretrainTable) -> dict[bytes, Ints]:
    """The classes of answers, where they are known, by the bytes of the answer's token ids."""
    return {answer.tobytes(): noun for answer, noun in zip(table.answers, table.classes, strict=True) if len(noun)}


def _sentinels(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The ids of `<extra_id_0>`, `<extra_id_1>` and so on, up to the first that is missing."""
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    sentinels: list[int] = []
    while (found := vocabulary.get(f"<extra_id_{len(sentinels)}>")) is not None:
        sentinels.append(found)
    return np.array(sentinels, dtype=np.int64)


def _prompt(tokenizer: Tokenizer, template: str) -> tuple[Ints, Ints]:
    """The token ids of a template before its question, and after it."""
    parts: list[Any] = []
    for text in template.split("{question}", 1):
        ids = tokenizer.encode(text.strip(), add_special_tokens=False).ids if text.strip() else []
        parts.append(np.array(ids, dtype=np.int64))
    return parts[0], parts[1]
