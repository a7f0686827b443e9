"""The package as a whole: every public name exported and documented, importable without an engine."""

from __future__ import annotations

import inspect
import subprocess
import sys

import memstore_client
from memstore_client import changes, client, errors, events, options, served, wire

MADE_BY_THE_CLIENT = {"AnswerRequest", "AnswerBatchRequest", "RetrieveRequest", "RerankRequest", "ReadyReply"}
MADE_BY_THE_CLIENT |= {"PutDocumentsRequest", "DeleteDocumentsRequest", "RollbackRequest"}
BASES = {"Request", "Reply"}


def public(module) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def test_every_public_class_is_exported_and_sorted() -> None:
    defined = public(client) | public(errors) | public(wire) | public(changes) | public(events)
    defined |= public(served) | public(options)
    assert set(memstore_client.__all__) == defined - MADE_BY_THE_CLIENT - BASES
    assert memstore_client.__all__ == sorted(memstore_client.__all__)


def test_every_public_name_and_method_is_documented() -> None:
    for name in memstore_client.__all__:
        value = getattr(memstore_client, name)
        assert value.__dict__.get("__doc__"), name
        for method, function in vars(value).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert function.__doc__, f"{name}.{method}"


def test_every_error_is_of_the_one_root() -> None:
    for name in public(errors):
        assert issubclass(getattr(errors, name), errors.MemstoreClientError)


def test_importing_loads_neither_the_engine_nor_the_library() -> None:
    code = (
        "import sys, memstore_client; "
        "heavy = {'torch', 'memstore', 'memstore_server', 'memstore_builders', 'numpy', 'fastapi'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
