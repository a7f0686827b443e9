"""What checking a request costs, where a list in it is long."""

from __future__ import annotations

import pytest

from memstore_client.wire import PassageInput, RerankRequest

MANY = 2_000


class Counted(str):
    """An id that counts how often ids are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_an_id_that_is_there_twice_is_found_without_comparing_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [Counted(number) for number in (*range(MANY), MANY - 1)]
    passages = [PassageInput.model_construct(text="a", id=one) for one in ids]
    monkeypatch.setattr(Counted, "compared", 0)
    with pytest.raises(ValueError, match=f"two passages have the id '{MANY - 1}'"):
        RerankRequest.model_validate({"question": "why?", "passages": passages})
    assert 0 < Counted.compared < 10 * MANY
