"""What a document may say of itself beside its text: a flat object of strings, numbers, booleans, lists of strings.

It goes with every passage of the document, is shown with it, and can be filtered by (`retrieve.filters`). Knows values
alone: neither files nor indexes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Literal

from memstore.errors import InvalidMetadata

MetadataValue = str | int | float | bool | list[str]
Metadata = Mapping[str, MetadataValue]
Kind = Literal["string", "strings", "number", "boolean"]
"""What a value is; "strings" is a list of them, and is filtered as each of its strings."""
Fields = Mapping[str, tuple[Kind, ...]]
"""The fields of a collection, by name: the kinds that their values have, sorted; usually one."""

MAX_FIELDS = 64  # of a document
MAX_NAME = 128  # characters of a field's name
MAX_STRING = 1024  # characters of a string: a term of an index, not a text
MAX_STRINGS = 256  # in a list
MAX_CHARACTERS = 8192  # of all as JSON: each passage carries it, and every reply
MAX_NUMBER = 2**53  # whole numbers beyond are not exact as JSON numbers
MAX_COLLECTION_FIELDS = 1000  # names in a collection; more are values that were made names
_SHOWN = 20  # fields named in a message
_IN_WORDS = {"string": "strings", "strings": "lists of strings", "number": "numbers", "boolean": "booleans"}


def checked(value: object) -> dict[str, MetadataValue]:
    """The metadata of a document, as JSON gave them.

    Raises:
        InvalidMetadata: not a flat object of strings, numbers, booleans and lists of strings, or too large.
    """
    if not isinstance(value, dict):
        raise InvalidMetadata(f'"metadata" must be an object, not {in_json(value)}')
    if len(value) > MAX_FIELDS:
        raise InvalidMetadata(f'"metadata" has {len(value)} fields, more than {MAX_FIELDS}')
    for name, one in value.items():
        _check_name(name)
        _check_value(name, one)
    size = len(json.dumps(value, ensure_ascii=False))
    if size > MAX_CHARACTERS:
        raise InvalidMetadata(f'"metadata" has {size:,} characters as JSON, more than {MAX_CHARACTERS:,}')
    return dict(value)


def kind_of(value: MetadataValue) -> Kind:
    """What a checked value is."""
    match value:
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "strings"
        case _:
            return "number"


def canonical(metadata: Metadata) -> str:
    """Equal for equal metadata, in whatever order their fields came."""
    return json.dumps(dict(metadata), sort_keys=True)


def add_fields(found: dict[str, tuple[Kind, ...]], metadata: Metadata) -> None:
    """Count a document's fields in: new names come last.

    Raises:
        InvalidMetadata: there are more than `MAX_COLLECTION_FIELDS`.
    """
    for name, value in metadata.items():
        kind, kinds = kind_of(value), found.get(name, ())
        if kind not in kinds:
            found[name] = tuple(sorted((*kinds, kind)))
            require_few(found)


def require_few(names: Collection[str]) -> None:
    """See that a collection has no more fields than it may have.

    Raises:
        InvalidMetadata: it has.
    """
    if len(names) > MAX_COLLECTION_FIELDS:
        *_, last = names
        raise InvalidMetadata(
            f"the documents have more than {MAX_COLLECTION_FIELDS:,} different metadata fields, such as {last!r}: put "
            "what varies into values, not into names"
        )


def in_words(fields: Fields) -> str:
    """The fields for messages: `lang (strings), year (numbers)`."""
    shown = [f"{name} ({' or '.join(_IN_WORDS[kind] for kind in kinds)})" for name, kinds in sorted(fields.items())]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def in_json(value: object) -> str:
    """What JSON calls a value's type, for messages."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidMetadata(f'a field of "metadata" must have a name that is text, not {name!r}')
    if len(name) > MAX_NAME:
        raise InvalidMetadata(f'a field of "metadata" has a name of {len(name)} characters, more than {MAX_NAME}')
    _check_text(name, "a field's name")


def _check_value(name: str, value: object) -> None:
    place = f'"metadata": {name!r}'
    allowed = "a string, a number, a boolean or a list of strings"
    if isinstance(value, list):
        if others := [one for one in value if not isinstance(one, str)]:
            raise InvalidMetadata(f"{place} is a list, and must hold strings alone, not {in_json(others[0])}")
        if len(value) > MAX_STRINGS:
            raise InvalidMetadata(f"{place} holds {len(value)} strings, more than {MAX_STRINGS}")
        for one in value:
            _check_text(one, place)
    elif isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidMetadata(f"{place} must be a finite number, not {value}")
    elif isinstance(value, int) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise InvalidMetadata(f"{place} is a whole number beyond 2^53, which is not exact: make it a string")
    elif not isinstance(value, int | float):
        raise InvalidMetadata(f"{place} must be {allowed}, not {in_json(value)}")


def _check_text(text: str, place: str) -> None:
    if len(text) > MAX_STRING:
        raise InvalidMetadata(f"{place} has a string of {len(text):,} characters, more than {MAX_STRING:,}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMetadata(f"{place} holds half of a surrogate pair, which is no character") from None
