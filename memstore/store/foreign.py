"""Files that systems and file managers leave in any folder. In a store they are nobody's damage: nothing reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

_NAMES = re.compile(
    r"\.DS_Store|\.localized|\.AppleDouble|\.Spotlight-V100|\.fseventsd|\.Trashes|__MACOSX|\._.*|Icon\r"  # macOS
    r"|Thumbs\.db|ehthumbs\.db|desktop\.ini"  # Windows
    r"|\.directory|\.Trash-\d+|lost\+found|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|@eaDir",  # Linux, network disks
    re.IGNORECASE,
)


def is_foreign(name: str | PurePath) -> bool:
    """Whether a file is of this kind or lies in a folder that is, by its path relative to a folder of a store."""
    return any(_NAMES.fullmatch(part) for part in PurePath(name).parts)


def foreign_files(store: Path) -> list[str]:
    """Relative paths of all such files in a store, sorted. Folders that are closed to us count as empty."""
    found = (Path(place, name).relative_to(store) for place, _, names in os.walk(store) for name in names)
    return sorted(path.as_posix() for path in found if is_foreign(path))
