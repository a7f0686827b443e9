"""Every error memstore raises on purpose: one root, each also inheriting the builtin it resembles.

"Missing" is not "unreadable" is not "mismatched": callers can tell the three apart by type, and a person by
the message, which says what is wrong, which value, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class MemstoreError(Exception):
    """Root of all errors raised on purpose. The command line turns it into exit code 2."""


class ConfigError(MemstoreError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class NotWritable(ConfigError):  # noqa: N818 - reads as the fact it states
    """A folder, such as a store's, may not be written: its disk is read-only, or permissions are missing."""


class RequestError(MemstoreError, ValueError):
    """A question or its options cannot be served as asked."""


class DiskSpaceError(MemstoreError, OSError):
    """The disk has less room than the work needs."""


class TrainingDiverged(MemstoreError, ArithmeticError):  # noqa: N818
    """A loss or a gradient is no longer finite: going on would write useless parameters over good ones."""


# --- corpora ---------------------------------------------------------------------------------------------


class CorpusError(MemstoreError, ValueError):
    """A row of a corpus cannot be used. Carries `path` and the 1-based `line`."""

    def __init__(self, message: str, *, path: Path | str, line: int) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path, self.line = Path(path), line


class CorpusNotFound(MemstoreError, FileNotFoundError):  # noqa: N818 - reads as the fact it states
    """A corpus file does not exist."""


class CorpusUnreadable(MemstoreError, OSError):  # noqa: N818
    """A corpus file exists but cannot be read: no permission, or its compressed data are damaged or cut off."""


class CorpusFormatError(MemstoreError, ValueError):
    """A corpus file is in none of the known formats, or not in the one named."""


class InvalidMetadata(MemstoreError, ValueError):  # noqa: N818
    """A document's metadata are not what they may be: not a flat object of plain values, or too large."""


# --- questions and predictions ---------------------------------------------------------------------------


class DataNotFound(MemstoreError, FileNotFoundError):  # noqa: N818
    """A file of questions or predictions does not exist."""


class DataUnreadable(MemstoreError, OSError):  # noqa: N818
    """A file of questions or predictions cannot be read: no permission, or its compressed data are damaged."""


class DataError(MemstoreError, ValueError):
    """A row of questions or predictions cannot be used. Carries `path` and the 1-based `line`."""

    def __init__(self, message: str, *, path: Path | str, line: int) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path, self.line = Path(path), line


class PredictionMismatch(DataError):  # noqa: N818
    """Questions and predictions do not belong together: a question has no prediction, or the other way round."""


class CalibrationError(MemstoreError, ValueError):
    """No calibration can be fitted to these answers: they are too few, or all are right, or all wrong."""


class OutputUnwritable(MemstoreError, OSError):  # noqa: N818
    """A file of results cannot be written where it was asked for."""


# --- checkpoints -----------------------------------------------------------------------------------------


class CheckpointNotFound(MemstoreError, FileNotFoundError):  # noqa: N818
    """No checkpoint is at the given path or hub id."""


class CheckpointError(MemstoreError, ValueError):
    """A checkpoint exists but cannot be read: a file is broken, or it is of another kind than asked for."""


class CheckpointMismatch(CheckpointError):  # noqa: N818
    """The parts of a checkpoint do not fit each other: parameters are missing, misshapen or left over."""


# --- stores ----------------------------------------------------------------------------------------------


class StoreNotFound(MemstoreError, FileNotFoundError):  # noqa: N818
    """There is no store at the path, or it has no finished generation."""


class StoreInShards(ConfigError):  # noqa: N818
    """The store is in shards, and what was asked for works on one of them."""


class StoreBusy(ConfigError):  # noqa: N818
    """Another process is changing the store."""


class StoreFormatError(MemstoreError, ValueError):
    """A manifest cannot be understood: unknown format version, unknown or missing keys."""


class StoreUnreadable(MemstoreError, OSError):  # noqa: N818
    """A file of the store is there, but the system does not let us read it (permissions, I/O, open files)."""


class StoreUnreachable(StoreUnreadable):
    """The object storage that a store is in did not answer in time, however often it was asked."""


class StoreCorrupt(MemstoreError, OSError):  # noqa: N818
    """Data on disk are not what was written. The subclasses say how."""


class ChecksumMismatch(StoreCorrupt):
    """A file's bytes, or a chunk's crc32c, differ from the recorded checksum."""


class MissingData(StoreCorrupt):
    """A file or chunk that the manifest promises is absent."""


class SegmentNotSealed(StoreCorrupt):
    """A generation names a segment without its SEALED file: it was never finished, or was tampered with."""


class CountMismatch(StoreCorrupt):
    """Counts of passages, tokens or rows disagree between two places that must agree."""


class CodecMismatch(StoreCorrupt):
    """Memories were written with other tables of their codec than those that are there."""


class IndexCorrupt(StoreCorrupt):
    """A search index cannot be opened, or does not hold exactly its generation's passages."""


class InvalidMemory(MemstoreError, ValueError):  # noqa: N818
    """What is to be written cannot be a passage's memory: not finite, misshapen, too long."""


class PassageNotFound(MemstoreError, KeyError):  # noqa: N818
    """The store's generation holds no passage of that id."""

    def __init__(self, passage_id: str) -> None:
        super().__init__(passage_id)
        self.passage_id = passage_id

    def __str__(self) -> str:
        return f"no passage with id {self.passage_id!r} in this generation of the store"


class FingerprintMismatch(MemstoreError, ValueError):  # noqa: N818
    """A store's memories were made by another encoder than the model's.

    `differences` maps each differing part to `(in the store, in the model)`.
    """

    def __init__(self, differences: Mapping[str, tuple[object, object]]) -> None:
        self.differences = dict(differences)
        parts = "; ".join(f"{k}: store has {a!r}, model has {b!r}" for k, (a, b) in self.differences.items())
        super().__init__(
            f"the store was built by another encoder than this model's ({parts}). "
            "Serve it with the model that built it (`memstore inspect DIR` names it), or build a new store."
        )


# --- training data ---------------------------------------------------------------------------------------


class CandidatesNotFound(MemstoreError, FileNotFoundError):  # noqa: N818
    """There is no finished cache of training data at the path."""


class CandidatesMismatch(MemstoreError, ValueError):  # noqa: N818
    """A cache of training data was made from something else than what is asked for.

    `differences` maps each differing part to `(in the cache, asked for)`.
    """

    def __init__(self, differences: Mapping[str, tuple[object, object]], *, where: Path | str) -> None:
        self.differences = dict(differences)
        parts = "; ".join(f"{k}: the cache has {a!r}, asked for is {b!r}" for k, (a, b) in self.differences.items())
        super().__init__(f"the training data in {where} were prepared differently ({parts}); prepare them again")


class CandidatesCorrupt(MemstoreError, OSError):  # noqa: N818
    """A cache of training data is damaged: a file is missing, or not what its manifest says."""
