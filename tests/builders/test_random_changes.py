"""Random operations on a store against a model of it in plain dictionaries: at every step both hold the same.

Adding, replacing, deleting, compacting, going back, forgetting, a reader's restart, and SIGKILL at any moment of each.
Hypothesis chooses few, and makes a failure small. One long sequence on one store follows: MEMSTORE_CHANGES sets its
length (12 by default, so that the whole suite stays quick), MEMSTORE_SEED which it is. It prints what it does.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.builders.changes import METADATA, OPERATIONS, SENTENCES, TITLES, Changes
from tests.builders.changing import Bench, texts
from tests.builders.dying import Dying

STEPS = int(os.environ.get("MEMSTORE_CHANGES", "12"))
SEED = int(os.environ.get("MEMSTORE_SEED", "1"))
NAMES = tuple(f"d{i}" for i in range(12))

IDS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True) | st.just(list(NAMES))
SAID = st.tuples(
    st.sampled_from(TITLES), st.lists(st.sampled_from(SENTENCES), max_size=5).map(" ".join), st.sampled_from(METADATA)
)
CHANGED = st.dictionaries(st.sampled_from(NAMES), SAID, min_size=1, max_size=3)
CHOICE = st.integers(0, 9)


@pytest.fixture(scope="module")
def dying() -> Iterator[Dying]:
    with Dying() as process:
        yield process


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("built"), texts(6), retriever="hybrid")


def begin(built: Bench, folder: Path, dying: Dying, **options: Any) -> Changes:
    """A copy of the store, to be changed."""
    copy = object.__new__(Bench)
    copy.__dict__ |= built.__dict__ | {"folder": folder, "path": folder / "store"}
    shutil.copytree(built.path, copy.path)
    return Changes(copy, dying, **options)


@pytest.mark.timeout(900)  # to make a failure small takes a while
def test_a_few_operations_at_a_time(built: Bench, dying: Dying, tmp_path: Path) -> None:
    machines = iter(range(10**6))

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.changes = begin(built, tmp_path / str(next(machines)), dying, compare_every=3)

        @rule(changed=CHANGED)
        def add(self, changed: Any) -> None:
            self.changes.add(changed)

        @rule(ids=IDS)
        def delete(self, ids: Any) -> None:
            self.changes.delete(ids)

        @rule()
        def compact(self) -> None:
            self.changes.compact()

        @rule(choice=CHOICE)
        def rollback(self, choice: int) -> None:
            self.changes.rollback(choice)

        @rule(keep=st.integers(1, 3))
        def forget(self, keep: int) -> None:
            self.changes.forget(keep)

        @rule()
        def restart(self) -> None:
            self.changes.restart()

        @rule(kind=st.sampled_from(list(OPERATIONS)), percent=st.integers(0, 99), changed=CHANGED, choice=CHOICE)
        def crash(self, kind: str, percent: int, changed: Any, choice: int) -> None:
            self.changes.crash(kind, percent, changed, choice)

        @invariant()
        def holds(self) -> None:
            self.changes.holds()

        def teardown(self) -> None:
            self.changes.reader.close()
            shutil.rmtree(self.changes.bench.folder)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=4, stateful_step_count=8, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def operation(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A random operation with its arguments."""
    changed = {i: (rng.choice(TITLES), " ".join(rng.choices(SENTENCES, k=rng.randint(0, 5))), rng.choice(METADATA))
               for i in rng.sample(NAMES, rng.randint(1, 3))}  # fmt: skip
    choice = rng.randrange(10)
    weights = {"add": 9, "delete": 4, "compact": 2, "rollback": 2, "forget": 1, "restart": 2, "crash": 8}
    match name := rng.choices(list(weights), list(weights.values()))[0]:
        case "add":
            return name, {"changed": changed}
        case "delete":
            return name, {"ids": list(changed if choice else NAMES)}
        case "rollback":
            return name, {"choice": choice}
        case "forget":
            return name, {"keep": 1 + choice % 3}
        case "crash":
            kind = rng.choices(list(OPERATIONS), [4, 2, 2, 1, 1])[0]
            return name, {"kind": kind, "percent": rng.randrange(100), "changed": changed, "choice": choice}
        case _:
            return name, {}


@pytest.mark.timeout(max(300, 60 * STEPS))
def test_a_long_sequence(built: Bench, dying: Dying, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    changes = begin(built, tmp_path, dying, compare_every=1 if STEPS > 50 else 3)
    for _ in range(STEPS):
        name, arguments = operation(rng)
        said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        sys.stdout.write(f"changes.{name}({said})")
        died = getattr(changes, name)(**arguments)
        sys.stdout.write("  # died\n" if died else "\n")
        changes.holds()
    changes.add({"last": ("Nile", "the river. of a lake.")})
    changes.compact()
    changes.restart()
    changes.holds()
    changes.reader.close()
