"""The lock of an environment, which keeps two processes from installing or removing it at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.models.environments.environment import root


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def held(key: str, *, before_waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the lock of an environment, as a descriptor that child processes may inherit.

    ``before_waiting`` is called where another process has it, and may raise instead of waiting. The kernel releases the
    lock when the last process with the descriptor ends. Its file stays, because another process may be waiting for it.
    """
    descriptor = os.open(root() / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            before_waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def raise_busy() -> None:
    """Raise Busy instead of waiting."""
    raise Busy
