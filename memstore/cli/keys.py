"""Commands for the keys of a server: who may ask it, and who may change its stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memstore.cli.app import Json, app, print_result

_FILE = Path("keys.json")
File = Annotated[Path, typer.Option("--file", help="The file of keys, which `memstore serve --keys-file` reads.")]
Name = Annotated[str, typer.Argument(help="Whose key it is, or what for: by this it is revoked.")]

keys = typer.Typer(help="Make, list and revoke the keys of a server.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command()
def add(
    name: Name,
    file: File = _FILE,
    write: Annotated[bool, typer.Option("--write", help="It may change stores too, not only ask.")] = False,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute that it may make [any].")] = None,
    as_json: Json = False,
) -> None:
    """Make a key, and print it. The file keeps only a hash: nobody can read the key there again."""
    from memstore_server.keyring import add_key

    key = add_key(file, name, writes=write, per_minute=per_minute)
    print_result({"name": name, "key": key, "writes": write, "per_minute": per_minute}, as_json, _show_key)


@keys.command("list")
def list_keys(file: File = _FILE, as_json: Json = False) -> None:
    """List the keys of a file: their names, what they may do, and since when."""
    from memstore_server.keyring import read_keys

    listed = [
        {"name": one.name, "writes": one.writes, "per_minute": one.per_minute, "created": one.created}
        for one in read_keys(file)
    ]
    print_result({"keys": listed}, as_json, _show_keys)


@keys.command()
def revoke(name: Name, file: File = _FILE) -> None:
    """Take a key out of the file. A server that runs refuses it from then on."""
    from memstore_server.keyring import revoke_key

    revoke_key(file, name)


def _show_key(made: dict[str, Any]) -> None:
    typer.echo(made["key"])


def _show_keys(listed: dict[str, Any]) -> None:
    for one in listed["keys"]:
        limit = "" if one["per_minute"] is None else f", {one['per_minute']} a minute"
        typer.echo(f"{one['name']}: {'asks and changes' if one['writes'] else 'asks'}{limit}, since {one['created']}")
