"""The running calls of a replica, by the names with which wrappers send results and count."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from penstock.failures import Category
from penstock.models.replica.aiges import codes
from penstock.models.replica.runtime import Call

_log = logging.getLogger("penstock.model")
_MAX_KEYS = 100  # that one call may count


class Sink(Protocol):
    """Takes the results of one call from the wrapper's threads. Its methods never raise."""

    def deliver(self, response: Any) -> bool:
        """Take a response; return False if none is wanted any more."""

    def fail(self, error: BaseException | None) -> None:
        """End the call: the thread that worked for it has ended."""


class Running:
    """A call that runs, and what the wrapper counts for it."""

    def __init__(self, call: Call, sid: str, sink: Sink | None = None) -> None:
        self.call = call
        self.sid = sid
        self.sink = sink
        self.handle = ""
        self.usage: dict[str, int] = {}


class Registry:
    """All running calls. Wrappers reach it from any thread, through ``aiges.callback``.

    It needs no lock: single operations of a dictionary are atomic.
    """

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    def begin(self, running: Running) -> None:
        """Add a call. Raises CallFailed if another one with its sid runs."""
        if self._running.setdefault(running.sid, running) is not running:
            detail = "is the sid of a running call"
            raise codes.failed(codes.REPEATED_SESSION, detail, category=Category.BAD_INPUT, field="header.sid")

    def named(self, running: Running, handle: str) -> None:
        """Add the handle of a session, by which wrappers may send results, too.

        A wrapper may reuse a handle as soon as it has destroyed the session, which is before that session ends here:
        the handle belongs to the newest session. Raises CallFailed if it is the sid of another call.
        """
        found = self._running.get(handle)
        if found is not None and found is not running and found.sid == handle:
            raise codes.failed(codes.CREATE, "wrapperCreate returned a handle that is the sid of a running call")
        running.handle = handle
        self._running[handle] = running

    def end(self, running: Running) -> None:
        """Forget a call: what is still sent for it is dropped."""
        for name in (running.sid, running.handle):
            if self._running.get(name) is running:
                del self._running[name]

    # For wrappers

    def deliver(self, response: Any, names: tuple[object, ...]) -> int:
        running = self._found(names)
        if running is not None and running.sink is not None and running.sink.deliver(response):
            return 0
        _log.warning("a result for %s was dropped: no call of that name waits for it", names[-1:] or "nothing")
        return -1

    def failed(self, sid: str, error: BaseException | None) -> None:
        running = self._found((sid,))
        if running is not None and running.sink is not None:
            running.sink.fail(error)

    def counted(self, tag: str, key: str, count: int) -> None:
        running = self._found((tag,))
        if running is not None and (key in running.usage or len(running.usage) < _MAX_KEYS):
            running.usage[key] = running.usage.get(key, 0) + count

    def noted(self, tag: str, message: str) -> None:
        running = self._found((tag,))
        if running is not None:
            running.call.log(message)

    def _found(self, names: tuple[object, ...]) -> Running | None:
        """Return the call that the last stated name belongs to. An unknown name is not replaced by an earlier one: a
        handle may have another session by now."""
        for name in reversed(names):
            if isinstance(name, str) and name:
                return self._running.get(name)
        return None
