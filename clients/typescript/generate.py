"""Generates `src/schema.ts` from the server's OpenAPI document: `python clients/typescript/generate.py`.

With `--check` nothing is written, and the exit code says whether the file is what would be. Needs Node, and once
`npm ci` in this folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCHEMA = HERE / "src" / "schema.ts"


def document() -> str:
    """The OpenAPI document of a server with all its routes, as JSON."""
    sys.path.insert(0, str(ROOT))
    from memstore_server.app import create_app
    from memstore_server.settings import Settings
    from tests.server.fakes import FakeEngine

    app = create_app(FakeEngine(), Settings.load(store="store", write_key="a-key-of-sixteen!"))
    return json.dumps(app.openapi())


def generated() -> str:
    """What `src/schema.ts` should be."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "openapi.json", Path(folder) / "schema.ts"
        source.write_text(document(), encoding="utf-8")
        command = ["npm", "run", "--silent", "types", "--", str(source), "--output", str(made)]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if done.returncode != 0:
            sys.exit(f"{done.stdout}{done.stderr}\nopenapi-typescript failed; has `npm ci` been run in {HERE}?")
        return made.read_text(encoding="utf-8")


def main() -> None:
    """Writes the file, or checks it."""
    new = generated()
    if "--check" not in sys.argv[1:]:
        SCHEMA.write_text(new, encoding="utf-8")
    elif SCHEMA.read_text(encoding="utf-8") != new:
        sys.exit(f"{SCHEMA} is not of this server's OpenAPI document: run python clients/typescript/generate.py")


if __name__ == "__main__":
    main()
