"""Changes of stores that die by SIGKILL, as processes, before the n-th operation on the store's files.

`Dying` starts this file as a program. It imports what changes need once, and makes each change in a fork of itself,
which kills itself. Operations are what Python does: files opened to write, flushes, renames, links, removals, folders.
The same number is the same moment each time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
_WRITES = os.O_WRONLY | os.O_RDWR
_EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")


class Dying:
    """The process that makes such changes; a context."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.builders.dying"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def change(self, kind: str, store: Path, *, before: int, **arguments: Any) -> bool:
        """Make a change that dies before its `before`-th operation; whether it got there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([kind, str(store), before, arguments]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"{kind} failed: its own message is above"
        return code != 0


def _main() -> None:
    # What the forks import in vain would cost each of them seconds.
    import memstore_builders.add
    import memstore_builders.compact  # noqa: F401

    for line in sys.stdin:
        kind, store, before, arguments = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                _die_before(before, store)
                _change(kind, Path(store), **arguments)
                code = 0
            except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(code)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _die_before(operation: int, store: str) -> None:
    count = 0

    def counted() -> None:
        nonlocal count
        count += 1
        if count == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: Sequence[Any]) -> None:
        if event not in _EVENTS and not (event == "open" and arguments[2] & _WRITES):
            return
        path = arguments[0]
        if isinstance(path, str | os.PathLike):
            name = os.fspath(path)
            if not name.startswith("/") or name.startswith(store):  # a folder's removal names what is in it
                counted()

    fsync = os.fsync

    def flush(handle: int) -> None:
        counted()
        fsync(handle)

    os.fsync = flush  # type: ignore[assignment]  # it has no event
    sys.addaudithook(hear)


def _change(kind: str, store: Path, *, corpus: str = "", ids: Sequence[str] = (), keep: int = 1, to: int = 0) -> None:
    from memstore.store.history import forget, rollback
    from memstore_builders.add import AddOptions, add
    from memstore_builders.change import delete
    from memstore_builders.compact import compact

    match kind:
        case "add":
            add(AddOptions(store=store, corpus=(Path(corpus),)))
        case "delete":
            delete(store, ids)
        case "compact":
            compact(store)
        case "rollback":
            rollback(store, to=to)
        case "forget":
            forget(store, keep=keep)


if __name__ == "__main__":
    _main()
