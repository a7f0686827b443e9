"""Only a lock that another process holds is reported as that; a file system without locks has words of its own."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from memstore.errors import ConfigError, OutputUnwritable
from memstore.locks import NoLocks, lock
from memstore.train.state import alone
from memstore_builders import state

WITHOUT = [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`refuse(number)`: the system refuses every lock so."""

    def refuse(number: int) -> None:
        def refusing(_file: object, _how: int) -> None:
            raise OSError(number, os.strerror(number))

        for name in ("flock", "lockf"):
            monkeypatch.setattr(fcntl, name, refusing)

    return refuse


@pytest.mark.parametrize(
    ("number", "inherited"), [(errno.EWOULDBLOCK, True), (errno.EAGAIN, False), (errno.EACCES, False)]
)
def test_a_lock_that_another_process_holds(tmp_path: Path, refuse: Any, number: int, inherited: bool) -> None:
    refuse(number)
    with (tmp_path / "lock").open("w") as file:
        assert lock(file, inherited=inherited) is False


@pytest.mark.parametrize("number", WITHOUT)
@pytest.mark.parametrize("inherited", [True, False])
def test_a_file_system_without_locks(tmp_path: Path, refuse: Any, number: int, inherited: bool) -> None:
    refuse(number)
    with (tmp_path / "lock").open("w") as file, pytest.raises(NoLocks, match=os.strerror(number)):
        lock(file, inherited=inherited)


@pytest.mark.parametrize(("number", "inherited"), [(errno.EIO, True), (errno.EIO, False), (errno.EACCES, True)])
def test_other_refusals_are_neither(tmp_path: Path, refuse: Any, number: int, inherited: bool) -> None:
    refuse(number)
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match=os.strerror(number)) as caught:
        lock(file, inherited=inherited)
    assert not isinstance(caught.value, NoLocks)


def test_a_lock_ends_with_its_file(tmp_path: Path) -> None:
    first, second = (tmp_path / "lock").open("w"), (tmp_path / "lock").open("w")
    with second:
        with first:
            assert lock(first, inherited=True)
            assert not lock(second, inherited=True)
        assert lock(second, inherited=True)


@pytest.mark.parametrize("number", WITHOUT)
def test_a_build_needs_locks_and_says_where_there_are_some(tmp_path: Path, refuse: Any, number: int) -> None:
    refuse(number)
    with (
        pytest.raises(ConfigError, match=r"store has no locks \(.*\), .* choose an --out on another disk"),
        state.lock(tmp_path / "store" / ".build"),
    ):
        pass


def test_a_build_whose_lock_fails_otherwise(tmp_path: Path, refuse: Any) -> None:
    refuse(errno.EIO)
    with (
        pytest.raises(ConfigError, match=r"store cannot be written \(Input/output error\)"),
        state.lock(tmp_path / "store" / ".build"),
    ):
        pass


@pytest.mark.parametrize("number", WITHOUT)
def test_training_goes_on_without_locks_and_says_so(tmp_path: Path, refuse: Any, caplog: Any, number: int) -> None:
    refuse(number)
    with alone(tmp_path / "run"):
        pass
    (said,) = caplog.messages
    assert said.startswith(f"the file system of {tmp_path / 'run'} has no locks ({os.strerror(number)}): make sure")


def test_training_whose_lock_fails_otherwise(tmp_path: Path, refuse: Any) -> None:
    refuse(errno.EIO)
    with pytest.raises(OutputUnwritable, match=r"run cannot be written: Input/output error"), alone(tmp_path / "run"):
        pass
