"""Opens a Tantivy index, or several as one, without a write to their folders; names what is broken. Knows no fields.

Several are one index whose segments are theirs: Tantivy's statistics (passages, passages that hold a term, mean
lengths) are sums over segments, so that a passage has the score that it has in an index of all.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tantivy

from memstore.errors import ConfigError, IndexCorrupt
from memstore.files import system_errors
from memstore.retrieve.folder import SETTINGS, scratch_folder, scratch_places

_META = "meta.json"


def open_searcher(folder: Path, *more: Path) -> Any:
    """Opens the index through a temporary folder of links, as Tantivy takes a lock file where it opens. The segments of
    `more` of them follow its own, in order: see `segment_counts`.

    So a store on a read-only disk can be served, by a machine with any place for a few links, such as shared memory.
    The files are mapped when this returns, and the links gone.

    Raises:
        ConfigError: there is no such place.
        IndexCorrupt: Tantivy cannot read the index.
    """
    links, meta = _links(folder), None
    if more:
        links, meta = _joined([folder, *more])
    refusals = []
    for place in scratch_places():
        try:
            return _open_in(place, links, meta, folder)
        except _PlaceRefused as error:
            refusals.append(f"{place}: {error}")
    raise ConfigError(
        f"the BM25 index at {folder} is opened through a folder of links, and no temporary folder can be made "
        f"({'; '.join(refusals)}). Name a place by the variable TMPDIR: a few kilobytes in memory are enough."
    )


def segment_counts(folders: Sequence[Path]) -> list[int]:
    """How many segments the index in each folder has.

    Raises:
        IndexCorrupt: it cannot be read.
    """
    return [len(_meta(folder)["segments"]) for folder in folders]


def _links(folder: Path) -> dict[str, Path]:
    """The index's files by their names."""
    return {path.name: path.resolve() for path in folder.iterdir() if path.name != SETTINGS}


def _meta(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _META).read_text(encoding="utf-8"))
        assert all("segment_id" in segment for segment in found["segments"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise IndexCorrupt(f"{folder / _META} cannot be read ({error}); build the index again") from error
    return dict(found)


def _joined(folders: Sequence[Path]) -> tuple[dict[str, Path], str]:
    """The files of several indexes under names of which each is there once, and the list of all segments."""
    links: dict[str, Path] = {}
    first, segments = _meta(folders[0]), []
    for number, folder in enumerate(folders, start=1):
        meta, files = _meta(folder), _links(folder)
        if meta.get("schema") != first.get("schema"):
            raise IndexCorrupt(f"the indexes at {folders[0]} and {folder} are of different kinds; build them again")
        for place, segment in enumerate(meta["segments"], start=1):
            old, new = uuid.UUID(segment["segment_id"]).hex, uuid.UUID(int=number << 64 | place)
            links |= {new.hex + name.removeprefix(old): path for name, path in files.items() if name.startswith(old)}
            segments.append({**segment, "segment_id": str(new)})
    return links, json.dumps({**first, "segments": segments})


class _PlaceRefused(Exception):  # noqa: N818 - reads as the fact it states
    """A folder takes no links, or no lock file beside them."""


def _open_in(place: Path, files: Mapping[str, Path], meta: str | None, folder: Path) -> Any:
    with ExitStack() as stack:
        try:
            links = stack.enter_context(scratch_folder("memstore-bm25-", place))
            for name, path in files.items():
                (links / name).symlink_to(path)
            if meta is not None:
                (links / _META).write_text(meta, encoding="utf-8")
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
