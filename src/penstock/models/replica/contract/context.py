"""The interface of a running Python model to its call: reports, logs, and whether the caller has left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from penstock.models.replica.interrupting import shielded
from penstock.models.replica.runtime import Call

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_log = logging.getLogger("penstock.model")


class BadInput(Exception):
    """Raised by a model for input that it refuses: its caller gets the message, as for a violation of the schema.

    ``field`` is the part that is wrong, such as ``image`` or ``items[2].text``.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class Context:
    """The running call, for a ``predict`` with a parameter of this type, and from ``penstock.context()``.

    In ``predict_batch`` it represents all calls of the batch; while a model is being loaded, none.
    """

    __slots__ = ("_calls", "_device")

    def __init__(self, calls: Sequence[Call] = (), device: str = "cpu") -> None:
        self._calls = calls
        self._device = device

    @property
    def request_id(self) -> str:
        """The id of the caller's request in logs; empty where there is not exactly one call."""
        return self._calls[0].request_id if len(self._calls) == 1 else ""

    @property
    def cancelled(self) -> bool:
        """Whether the callers have gone: then return as soon as possible."""
        return bool(self._calls) and all(call.cancelled for call in self._calls)

    @property
    def device(self) -> str:
        """The device on which the model should run: ``cpu``, or ``cuda:0``, the only GPU that the replica sees."""
        return self._device

    @property
    def folder(self) -> Path:
        """A private folder of the call, for files that it needs or returns; it is removed when the call has ended.

        Raises RuntimeError while the model is being loaded.
        """
        if not self._calls:
            raise RuntimeError("no call is running, so there is no folder of the call")
        return self._calls[0].folder()

    def progress(self, value: object) -> None:
        """Report progress to the caller: a fraction from 0.0 to 1.0, or any JSON. Raises ValueError."""
        if isinstance(value, float):
            if not 0 <= value <= 1:
                raise ValueError(f"a fraction must be from 0.0 to 1.0, not {value}")
            value = {"fraction": value}
        with shielded():
            for call in self._calls:
                call.progress(value)

    def log(self, message: str, level: str = "info") -> None:
        """Write a line into the model's log, marked with the call's request id.

        ``level``: ``debug``, ``info``, ``warning`` or ``error``. Raises ValueError.
        """
        if level not in _LEVELS:
            raise ValueError(f"level must be one of {', '.join(_LEVELS)}, not {level!r}")
        if not self._calls:
            _log.log(_LEVELS[level], "%s", message)
            return
        with shielded():
            if len(self._calls) == 1:
                self._calls[0].log(message, level)
            else:
                self._calls[0].wire.log(None, level, message)


_current: ContextVar[Context | None] = ContextVar("penstock_context", default=None)


def context() -> Context:
    """Return the context of the call that runs in this thread or task. Raises RuntimeError where none does: hand the
    Context over to threads that the model starts."""
    current = _current.get()
    if current is None:
        raise RuntimeError("no model is running in this thread: hand the Context over to threads that you start")
    return current


class Running:
    """Context manager for runtimes: while its block runs, ``calls`` are the running ones of this thread or task."""

    __slots__ = ("_before", "_context")

    def __init__(self, calls: Sequence[Call], device: str) -> None:
        self._context = Context(calls, device)

    def __enter__(self) -> Context:
        self._before = _current.set(self._context)
        return self._context

    def __exit__(self, *_error: object) -> None:
        _current.reset(self._before)
