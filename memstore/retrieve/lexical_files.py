"""Opens a Tantivy index without a write to its folder, and names what is broken in it. Knows no fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tantivy

from memstore.errors import ConfigError, IndexCorrupt
from memstore.files import system_errors
from memstore.retrieve.folder import SETTINGS, scratch_folder, scratch_places


def open_searcher(folder: Path) -> Any:
    """Opens the index through a temporary folder of links, as Tantivy takes a lock file where it opens.

    So a store on a read-only disk can be served, by a machine with any place for a few links, such as shared memory.
    The files are mapped when this returns, and the links gone.

    Raises:
        ConfigError: there is no such place.
        IndexCorrupt: Tantivy cannot read the index.
    """
    files = [path.resolve() for path in folder.iterdir() if path.name != SETTINGS]
    refusals = []
    for place in scratch_places():
        try:
            return _open_in(place, files, folder)
        except _PlaceRefused as error:
            refusals.append(f"{place}: {error}")
    raise ConfigError(
        f"the BM25 index at {folder} is opened through a folder of links, and no temporary folder can be made "
        f"({'; '.join(refusals)}). Name a place by the variable TMPDIR: a few kilobytes in memory are enough."
    )


class _PlaceRefused(Exception):  # noqa: N818 - reads as the fact it states
    """A folder takes no links, or no lock file beside them."""


def _open_in(place: Path, files: Sequence[Path], folder: Path) -> Any:
    with ExitStack() as stack:
        try:
            links = stack.enter_context(scratch_folder("memstore-bm25-", place))
            for path in files:
                (links / path.name).symlink_to(path)
        except (OSError, ConfigError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            raise _PlaceRefused(getattr(cause, "strerror", None) or cause) from error
        with corruption_named(folder):
            index = _opened(links)
            index.config_reader("manual")
            return index.searcher()


def _opened(links: Path) -> Any:
    try:
        with system_errors():
            return tantivy.Index.open(str(links))
    except OSError as error:
        if "Lockfile" not in str(error.__cause__):
            raise
        raise _PlaceRefused(error.strerror) from error


@contextmanager
def corruption_named(folder: Path) -> Iterator[None]:
    """Turns what Tantivy raises on broken files, its panics among them, into `IndexCorrupt`."""
    try:
        yield
    except BaseException as error:
        # A panic of the Rust code arrives as a BaseException whose class cannot be imported.
        if not isinstance(error, ValueError | OSError) and type(error).__name__ != "PanicException":
            raise
        raise IndexCorrupt(f"the BM25 index at {folder} cannot be read ({error}); build it again") from error
