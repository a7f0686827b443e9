"""Drafts of how an answer goes on, out of the passages that are read.

Most answers stand in a passage. So what has been written is looked up there, and the tokens after it are tried all at
once: greedy search feeds them in one step, and keeps those that it would have written itself. That is speculative
decoding (arXiv 2211.17192, section 2.1, with greedy search) whose draft costs a look-up. Reading the decoder's weights
is most of a step on a CPU, so several tokens cost little more than one.

Works on token ids alone: refuses to know models and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

from memstore.model.model import Encoded

MOST = 4  # tokens drafted at once
_LOOK_BACK = 4  # tokens of the answer that are compared


class Drafts:
    """The passages of one question, looked up by the last tokens of its answer.

    >>> drafts = Drafts([7, 8, 9, 4, 8, 5, 1], [True] * 7, eos=1)
    >>> drafts.after([8], most=2), drafts.after([4, 8], most=2), drafts.after([6], most=2)
    ([9, 4], [5], [])
    """

    def __init__(self, ids: Sequence[int], from_passage: Sequence[bool], *, eos: int) -> None:
        """Of the tokens read, best passage first, and whether each is of a passage: others end a draft."""
        self._ids = [i if passage and i != eos else -1 for i, passage in zip(ids, from_passage, strict=True)]
        self._places: dict[int, list[int]] = {}
        for place, i in enumerate(self._ids):
            if i >= 0:
                self._places.setdefault(i, []).append(place)

    @classmethod
    def of(cls, encoded: Encoded, *, eos: int) -> Drafts:
        """Of the one question that is read."""
        return cls(encoded.token_ids.tolist(), encoded.from_passage.tolist(), eos=eos)

    def after(self, written: Sequence[int], *, most: int) -> list[int]:
        """At most so many tokens that follow the answer where the most of its last tokens stand; first place of equals.

        Empty if its last token is in no passage, or ends one.
        """
        places = self._places.get(written[-1], []) if written and most > 0 else []
        if not places:
            return []
        place = max(places, key=lambda p: (self._equal(written, p), -p))
        draft = []
        for i in self._ids[place + 1 : place + 1 + most]:
            if i < 0:
                break
            draft.append(i)
        return draft

    def _equal(self, written: Sequence[int], place: int) -> int:
        """How many of the answer's last tokens stand before and at a place."""
        equal = 0
        while equal < min(_LOOK_BACK, len(written), place + 1) and self._ids[place - equal] == written[-1 - equal]:
            equal += 1
        return equal
