"""The command line. The one place that may import every package, and only inside its commands.

Exit codes: 0 done, 1 the check failed (`verify`), 2 a user's mistake, explained in one line.
"""

from __future__ import annotations

import sys

# Their commands join the application, and are listed in this order.
from memstore.cli import stores, changing, serving, keys, mcp, training, generating, measuring  # noqa: F401  # isort: skip
from memstore.cli.app import app, show_any_character
from memstore.errors import MemstoreError


def main() -> None:
    """Entry point: runs a command, and turns the errors raised on purpose into exit code 2."""
    show_any_character()
    try:
        app()
    except MemstoreError as error:
        print(f"memstore: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("memstore", "memstore_client"):
            raise
        print(f"memstore: this command needs {error.name}: pip install '.[all]' in memstore's folder", file=sys.stderr)  # noqa: T201
        sys.exit(2)
