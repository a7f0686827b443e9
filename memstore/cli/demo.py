"""`make demo`: build the bundled sample's store, serve it in a process of its own, ask five questions over HTTP.

Goes the way a user would go: the `memstore` command for building and serving, HTTP for asking.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memstore.cli.show import PlainConsole, show_answer
from memstore.errors import MemstoreError
from memstore.questions.metrics import exact_match
from memstore.store.describe import inspect
from memstore.store.foreign import is_foreign
from memstore.store.format import CHANGE, JOBS, LOCK, PARTS

QUESTIONS = {
    "Who discovered radium together with her husband?": "Marie Curie",
    "Which river flows through Cairo?": "Nile",
    "Who painted the Mona Lisa?": "Leonardo da Vinci",
    "Which planet has the largest ring system?": "Saturn",
    "In which year did the Titanic sink?": "1912",
}
SAMPLE = "encyclopedia.jsonl"  # the bundled corpus
_OF_A_STORE = {*PARTS, LOCK, ".build", CHANGE, JOBS}
_READY = "memstore: serving on "


def run(out: Path, *, keep_serving: bool, ask: Callable[[str, str], dict[str, Any]]) -> None:
    """Build, serve, ask, print. Stops the server at the end unless `keep_serving`.

    Args:
        out: the store.
        keep_serving: leave the server running until control-C.
        ask: a server's address and a question to the reply, over HTTP.

    Raises:
        MemstoreError: a step failed; the step's own output says why.
        KeyboardInterrupt: control-C before the end; the server has then been stopped.
    """
    console = PlainConsole()
    _headline(console, "1. build", "the memories of the bundled sample: 200 documents")
    command = [sys.executable, "-m", "memstore"]
    _build([*command, "build", "--corpus", "sample", "--out", str(out)], out)
    _headline(console, "\n2. serve", "it on a free port")
    with _server([*command, "serve", "--store", str(out), "--port", "0", "--log-level", "warning"]) as (process, url):
        console.print(f"serving on {url}")
        _headline(console, "\n3. ask", "five questions over HTTP")
        right = 0
        for question, expected in QUESTIONS.items():
            reply = ask(url, question)
            console.print(f"\n{question}", style="bold")
            show_answer(reply, most_passages=3)
            if exact_match(reply["answer"], [expected]):
                right += 1
            else:
                console.print(f"wrong: the answer is {expected}")
        console.print(
            f"\n{right} of {len(QUESTIONS)} right. The model that comes with the package is small, and ranks better "
            "than it reads: see what an answer costs, and which passages come first."
        )
        if keep_serving:
            console.print(f"\nStill serving on {url} (control-C stops it).")
            console.print("Open that address in a browser, or ask more from another terminal:")
            console.print(f"  .venv/bin/memstore ask '...' --url {url}")
            with suppress(KeyboardInterrupt):
                process.wait()
    again = f"  .venv/bin/memstore ask '...' --store {out}"
    console.print("\nAsk more:", again, "Or serve it, and open the address that it prints in a browser:", sep="\n")
    console.print(f"  .venv/bin/memstore serve --store {out}")


def _headline(console: PlainConsole, step: str, what: str) -> None:
    console.print(step, style="bold", end=" ")
    console.print(what)


def _build(command: list[str], out: Path) -> None:
    """Build; where an older version of memstore or of its model has left the sample's store, build it again."""
    if subprocess.run(command, check=False).returncode == 0:  # noqa: S603 - our own command
        return
    if not _is_sample(out):
        raise MemstoreError(f"building the sample's store in {out} failed, see above")
    shutil.rmtree(out)
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603
        raise MemstoreError(f"building the sample's store in {out} again failed, see above")


def _is_sample(out: Path) -> bool:
    """Whether a finished store of nothing but the bundled sample is there, and nothing else: what a demo may remove."""
    try:
        corpus = inspect(out)["settings"]["corpus"]
    except MemstoreError:
        return False
    alone = {path.name for path in out.iterdir() if not is_foreign(path.name)} <= _OF_A_STORE and not out.is_symlink()
    return alone and [file["name"] for file in corpus] == [SAMPLE]


@contextmanager
def _server(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address, once it says that it is ready; stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_READY):
                yield process, line.removeprefix(_READY).strip()
                break
        else:
            raise MemstoreError("the server ended before it was ready; its output above says why")
    finally:
        process.terminate()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()
