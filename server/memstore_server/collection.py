"""The collections of a server: their stores opened with models that they share, and what each has of its own.

Knows which settings are whose. Refuses to know HTTP and threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from memstore.errors import ConfigError, FingerprintMismatch, MemstoreError
from memstore_server import examples, translate
from memstore_server.batching import Engine, EngineThread
from memstore_server.reloading import Reloader
from memstore_server.settings import Settings

if TYPE_CHECKING:
    from memstore.answer import Answerer

T = TypeVar("T")


class UnknownCollection(MemstoreError, LookupError):  # noqa: N818 - reads as the fact it states
    """A request names a collection that the server does not have."""


class Collection:
    """What a service has for each of its collections.

    Attributes:
        name: as requests have it.
        store: its folder.
        settings: the server's, with the beams filled in that `/info` reports as this collection's default.
        reloader: takes up new generations of its store.
        examples: what a first visitor may ask, and the generation that it was made of.
    """

    def __init__(self, name: str, thread: EngineThread, settings: Settings, *, try_with: str) -> None:
        self.name, self.store = name, settings.stores[name]
        self.settings = with_beams(settings, thread.info_of(name))
        self.reloader = Reloader(thread, watch=settings.watch, try_with=try_with, collection=name)
        self.examples: tuple[int, examples.Examples] | None = None


def with_beams(settings: Settings, info: Mapping[str, object]) -> Settings:
    """The settings with the beams filled in that `/info` reports as default of an engine."""
    return settings.model_copy(update={"num_beams": translate.info(info, settings).defaults.num_beams})


def named(collections: Mapping[str, T], name: str | None) -> T:
    """What there is for a collection; for the first where there is none. Raises UnknownCollection."""
    if name is None:
        return next(iter(collections.values()))
    if name not in collections:
        raise UnknownCollection(f"there is no collection {name!r} here; there are: {', '.join(collections)}")
    return collections[name]


def require_distinct(stores: Mapping[str, Path]) -> None:
    """Raises ConfigError where two names are one folder: their changes would be in each other's way."""
    by_place: dict[Path, str] = {}
    for name, folder in stores.items():
        other = by_place.setdefault(folder.resolve(), name)
        if other != name:
            raise ConfigError(f"the collections {other} and {name} are the same folder {folder}: give it one name")


def open_all(settings: Settings, opening: Callable[[str], None] = lambda _: None) -> dict[str, Engine]:
    """The engine of each collection. Those without a model of their own share one in memory.

    Args:
        settings: name the stores, and their models.
        opening: called with the name of each collection before it is opened.

    Raises:
        ConfigError: two collections are one folder; a store was not made by the model that the others share.
        FingerprintMismatch: one was not made by its own model, or the first by the one named.
        MemstoreError: anything else that opening stores and models finds wrong.
    """
    from memstore.answer import Answerer  # heavy: opens with the model's libraries

    require_distinct(settings.stores)
    opened: dict[str, Answerer] = {}
    by_model: dict[str | None, Answerer] = {}
    try:
        for name, folder in settings.stores.items():
            opening(name)
            model = settings.model_of(name)
            if model not in by_model:
                by_model[model] = engine = Answerer.open(folder, model=model, device=settings.device)
            else:
                engine = _beside(by_model[model], name, folder)
            opened[name] = engine
    except BaseException:
        for engine in opened.values():
            engine.close()
        raise
    return dict(opened)


def _beside(answerer: Answerer, name: str, folder: Path) -> Answerer:
    """The same model over another store. Raises ConfigError if another model made that."""
    try:
        return answerer.over(folder)
    except FingerprintMismatch as error:
        raise ConfigError(
            f"collection {name}, {folder}: {error} To serve it here, give it a model of its own: --model {name}=PATH"
        ) from error
