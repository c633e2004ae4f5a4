"""Pass the results that wrappers send by a callback to the running calls of a replica, or to a queue."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, Protocol

from aiges.utils.log import log

if TYPE_CHECKING:
    from aiges.dto import Response


class Receiver(Protocol):
    """Takes results. Its methods are called from any thread of the wrapper and never raise."""

    def deliver(self, response: Response, names: tuple[object, ...]) -> int:
        """Take a result for the call or session with one of these names: its sid, handle or tag. Return 0, or -1 if
        there is none."""

    def failed(self, sid: str, error: BaseException | None) -> None:
        """End the session ``sid``, whose thread has ended."""

    def counted(self, tag: str, key: str, count: int) -> None:
        """Add to what a call has used, which its result states under ``usage``."""

    def noted(self, tag: str, message: str) -> None:
        """Write what the wrapper reports of a call into its log."""


_receivers: list[Receiver] = []
_results: queue.Queue[Any] | None = None


def attach(receiver: Receiver) -> None:
    """Send results to ``receiver`` from now on."""
    _receivers[:] = [receiver]


def init_rq() -> queue.Queue[Any]:
    """Return the queue of results for a wrapper that is tried without a receiver."""
    global _results  # noqa: PLW0603 - the contract has one queue per process
    _results = queue.Queue()
    return _results


def callback(response: Response, *names: object, **named: object) -> int:
    """Send a result of a session, or of an asynchronous call: ``callback(response, sid)``, or ``callback(response,
    handle, sid)``. Never waits: a call whose caller has too much unread fails. Returns 0, or -1 when the call
    has ended."""
    names = (*names, *named.values())
    for receiver in _receivers:
        return receiver.deliver(response, names)
    if _results is None:
        raise RuntimeError("no call is running and there is no queue of results: call init_rq() first")
    _results.put(response)
    return 0


def failed(sid: str, error: BaseException | None) -> None:
    """Report that the thread of a session has ended."""
    for receiver in _receivers:
        receiver.failed(sid, error)


def callback_metric(tag: str, key: str, count: int) -> int:
    """Count something for a call: its result states the sum."""
    for receiver in _receivers:
        receiver.counted(tag, key, int(count))
    return 0


def callback_trace(tag: str, key: str, value: str) -> int:
    """Write a value into the model's log."""
    return _note(tag, f"trace {key}: {value}")


def _note(tag: str, message: str) -> int:
    if not _receivers:
        log.info("%s", message)
    for receiver in _receivers:
        receiver.noted(tag, message)
    return 0
