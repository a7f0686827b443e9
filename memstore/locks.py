"""Locks on open files, gone with the process that holds them. Knows errors of the system, no folders."""

from __future__ import annotations

import errno
import fcntl
from typing import IO, Any

_HELD = {True: (errno.EWOULDBLOCK,), False: (errno.EAGAIN, errno.EACCES)}  # POSIX lets `lockf` say either
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class NoLocks(OSError):  # noqa: N818 - reads as the fact it states
    """The file system has no locks: network and cluster file systems may be mounted without."""


def lock(file: IO[Any], *, inherited: bool) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: open for writing.
        inherited: whether processes forked from this one hold the lock too, for as long as they live.

    Returns:
        False if another process holds it.

    Raises:
        NoLocks: the file system has none.
        OSError: the system refuses for another reason.
    """
    return _take(file, fcntl.LOCK_EX, inherited=inherited)


def wait(file: IO[Any]) -> None:
    """Lock an open file until it is closed, as soon as nobody else has it.

    Raises:
        OSError: the file system has no locks, or the system refuses.
    """
    fcntl.flock(file, fcntl.LOCK_EX)


def share(file: IO[Any]) -> bool:
    """Lock an open file together with others who share it, until it is closed. It may be open for reading only.

    Returns:
        False if a process has it for itself, by `lock` with `inherited`.

    Raises:
        NoLocks: the file system has none.
        OSError: the system refuses for another reason.
    """
    return _take(file, fcntl.LOCK_SH, inherited=True)


def _take(file: IO[Any], kind: int, *, inherited: bool) -> bool:
    try:
        (fcntl.flock if inherited else fcntl.lockf)(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD[inherited]:
            return False
        if error.errno in _NO_LOCKS:
            raise NoLocks(error.errno, error.strerror) from error
        raise
    return True
