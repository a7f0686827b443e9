"""Random faults done to a live server: a clear error each, nothing lost, no wrong answer, no traceback.

MEMSTORE_FAULTS=200 make test ARGS="tests/e2e/test_faults.py -s"     all kinds, with changes that are killed
MEMSTORE_FAULTS_SEED=7                                               another order
"""

from __future__ import annotations

import os
import random
import traceback
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.small_store import built
from tests.faults.clients import CLIENTS
from tests.faults.disk import CHANGES, QUICK
from tests.faults.world import Fault, World

COUNT = int(os.environ.get("MEMSTORE_FAULTS", "0"))
SEED = int(os.environ.get("MEMSTORE_FAULTS_SEED", "1"))
SHARE_OF_CHANGES = 0.1  # each takes seconds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    world = World(built(folder), folder)
    try:
        yield world
    finally:
        world.end()


def chosen(chance: random.Random) -> list[Fault]:
    """Each quick kind once, and in the long form as many of all kinds as were asked for."""
    faults: list[Fault] = [*CLIENTS, *QUICK]
    while len(faults) < COUNT:
        faults.append(chance.choice(CHANGES if chance.random() < SHARE_OF_CHANGES else (*CLIENTS, *QUICK)))
    chance.shuffle(faults)
    return faults


@pytest.mark.timeout(4 * 3600 if COUNT else 300)
def test_random_faults(world: World) -> None:
    chance = random.Random(SEED)
    world.check(chance)
    faults = chosen(chance)
    wrong: list[str] = []
    for at, fault in enumerate(faults):
        try:
            fault(world, random.Random(f"{SEED} {at}"))
            world.check(chance)
        except Exception:  # noqa: BLE001 - all that is found is shown, not only the first
            wrong.append(f"fault {at}, {fault.__name__}: {traceback.format_exc(limit=-2)}")
            print(wrong[-1], flush=True)  # noqa: T201
            if world.process.poll() is not None:
                world.end()
                world.start()
    world.check_store()
    print(f"{len(faults)} faults:", dict(Counter(fault.__name__ for fault in faults)))  # noqa: T201
    assert not wrong, "\n".join(wrong)
