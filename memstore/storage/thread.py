"""The thread that talks to object storage: an event loop for each process, and how many requests may be under way."""

from __future__ import annotations

import asyncio
import os
import threading

AT_ONCE = 128  # requests under way: the three arrays of 40 passages

_threads: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Semaphore]] = {}  # by process: a fork has no threads
_lock = threading.Lock()


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process, running in a thread of its own."""
    with _lock:
        found = _threads.get(os.getpid())
        if found is None:
            made = asyncio.new_event_loop()
            threading.Thread(target=made.run_forever, name="memstore-storage", daemon=True).start()
            found = _threads[os.getpid()] = (made, asyncio.Semaphore(AT_ONCE))
        return found[0]


def gate() -> asyncio.Semaphore:
    """What a request holds while it is under way."""
    return _threads[os.getpid()][1]
