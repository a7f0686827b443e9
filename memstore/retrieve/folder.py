"""An index's folder on disk: made under another name, then renamed; its `settings.json` is written last.

Knows files and their sizes; refuses to know what is in them. `settings.json` holds the size of every other
file, so that opening sees whether a folder is complete (`memstore verify` compares checksums).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memstore.errors import ConfigError, IndexCorrupt, StoreUnreadable
from memstore.files import sync

SETTINGS = "settings.json"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - made for this, and there in most containers
_TRIES, _PAUSE = 100, 0.01  # of removing a scratch folder; the pause in seconds


@contextmanager
def new_index_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty sibling `<name>.part` to write into, which then replaces `folder`, complete on disk.

    The block must leave a `settings.json`, made by `write_settings`. If it raises, nothing is left and
    an older `folder` stays as it was. A sibling that a killed process left is discarded.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for path in [*part.iterdir(), part]:
            sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def scratch_places() -> Iterator[Path]:
    """Where a few small files may lie for a moment, best first: the system's temporary folder, then memory."""
    with suppress(FileNotFoundError):  # a container's root may be read-only, /tmp and all
        yield Path(tempfile.gettempdir())
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime)
    yield _SHARED_MEMORY


@contextmanager
def scratch_folder(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """Yields a temporary folder for an index to be opened in, and removes it.

    Args:
        prefix: of its name.
        place: the folder to make it in; the system's temporary folder, if None.

    Tantivy opens an index with a reader that looks for changes in a thread of its own, and takes a lock file for
    that: a folder just emptied can have a file again, so removing it is tried until it is gone, for about a second.

    Raises:
        ConfigError: there is no place for it.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"no temporary folder can be made ({reason}): name a place by the variable TMPDIR") from error
    try:
        yield folder
    finally:
        for _ in range(_TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(_PAUSE)
        else:
            shutil.rmtree(folder)


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings, and the sizes of the files that are there now under the key "files"."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    text = json.dumps({**settings, "files": sizes}, indent=1, sort_keys=True)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """What `write_settings` was given, once every file it saw is found with its size.

    Raises:
        IndexCorrupt: the folder or a file is absent, a file has another size, or the settings are not ours.
        StoreUnreadable: the system does not let us read one of them.
    """
    try:
        return _read_settings(folder)
    except IndexCorrupt:  # an OSError too
        raise
    except OSError as error:
        raise StoreUnreadable(f"the index at {folder} cannot be read: {error}") from error


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexCorrupt(f"there is no index at {folder}: {SETTINGS} is absent; build it again") from error
    except (ValueError, RecursionError) as error:
        raise IndexCorrupt(f"{folder / SETTINGS} cannot be read ({error}); build the index again") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("files"), dict):
        raise IndexCorrupt(f"{folder / SETTINGS} does not list the index's files; build the index again")
    for name, size in settings.pop("files").items():
        path = folder / name
        if not path.is_file():
            raise IndexCorrupt(f"the index at {folder} lacks {name}; build it again")
        if path.stat().st_size != size:
            raise IndexCorrupt(f"{path} has {path.stat().st_size} bytes, not {size}; build the index again")
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    with os.scandir(folder):  # it is listed to be opened
        pass
    return settings
